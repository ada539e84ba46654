"""Texts that an engine writes, and models of tests that write them."""

import threading

import numpy as np

from randygpt.language_model import LanguageModel
from randygpt.model.sampling import Sampling, generate
from server.engine import Engine
from server.models import LoadedModel
from server.order import Order
from support.models import CONFIG, Gated, endless

WAIT_S = 60
NEVER_DONE = 1 << 30  # tokens: far longer than any test waits
GREEDY = Sampling(max_tokens=20, temperature=0)
BLOCK = CONFIG.block_size


def endless_model() -> LoadedModel:
    return LoadedModel(language_model=endless(), release_id=None, label="endless")


def gated_model(opened: threading.Event) -> LoadedModel:
    model = endless()
    gated = LanguageModel(decoder=Gated(model.decoder, opened), tokenizer=model.tokenizer)
    return LoadedModel(language_model=gated, release_id=None, label="gated")


def alone(loaded: LoadedModel, prompt: list[int], sampling: Sampling) -> list[int]:
    return list(generate(loaded.language_model.decoder, prompt, sampling))


async def written(engine: Engine, loaded: LoadedModel, prompt: list[int], sampling: Sampling) -> list[int]:
    return [token.id for token in (await engine.complete(loaded, prompt, sampling)).tokens]


async def drain(order: Order) -> None:
    while order.is_open:
        await order.next()


def some_ids(length: int, *, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(2, CONFIG.vocab_size, size=length).tolist()
