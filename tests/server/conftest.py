"""Models, servers, stores and browsers of the server's tests."""

import io
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import torch
from support.browser import Tab, chromium, tab
from support.gates import gate as closed_gate
from support.models import CONFIG, TOKENIZER, decoder_of
from support.release_store import ReleaseStore
from support.sequences import WAIT_S
from support.serving import serving

from randygpt.language_model import LanguageModel
from randygpt.model.gpt import GPT
from relay_client.keys import SecretKey
from server import logs
from server.engine import Engine
from server.models import LoadedModel

RELEASE = "ab" * 32


@pytest.fixture
def loaded() -> LoadedModel:
    """Return a model with varied output that never ends: dimension 0 is constant and suppresses the end token."""
    model = GPT.initialize(CONFIG, seed=1)
    with torch.no_grad():
        model.lm_head.mul_(20)[:, 0] = 0
        model.wte.mul_(50)[:, 0] = 0
        model.wpe[:, 0] = 3
        model.lm_head[1] = 0
        model.lm_head[1, 0] = -20
    language_model = LanguageModel(decoder=decoder_of(model), tokenizer=TOKENIZER)
    return LoadedModel(language_model=language_model, release_id=RELEASE, label="tiny version 1")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as made:
        yield made


@pytest.fixture
async def address(loaded: LoadedModel) -> AsyncIterator[str]:
    async with serving(loaded, threads=2) as found:
        yield found


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Capture a server's log as JSON lines."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    logs.set_up("json", stream=stream)
    yield stream
    root.handlers = handlers
    root.setLevel(level)


@pytest.fixture
def releases(tmp_path: Path, key: SecretKey) -> ReleaseStore:
    return ReleaseStore(home=tmp_path, key=key)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chromium(tmp_path_factory.mktemp("profile")) as address:
        yield address


@pytest.fixture
async def page(browser: str) -> AsyncIterator[Tab]:
    async with tab(browser) as opened:
        yield opened


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(threads=2)
    yield made
    made.close()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Return a closed gate for a model's decode steps; opened after the test."""
    with closed_gate(WAIT_S) as opened:
        yield opened
