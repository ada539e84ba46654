"""Decoding on threads: what comes out, how many may wait, and that nobody decodes for a client that is gone."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from support.gates import gate as closed_gate
from support.models import endless

from randygpt.generate import Sampling
from server import engine as engine_module
from server.engine import Engine
from server.errors import Busy
from server.models import LoadedModel
from server.schema import CompletionRequest

WAIT_S = 15
NEVER_DONE = 200_000  # tokens: far longer than any test waits


def endless_model() -> LoadedModel:
    return LoadedModel(language_model=endless(), release_id=None, label="endless")


def ask(prompt: str = "the", max_tokens: int = 20) -> CompletionRequest:
    return CompletionRequest(prompt=prompt, sampling=Sampling(max_tokens=max_tokens, temperature=0))


async def until(engine: Engine, waiting: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while engine._waiting != waiting:  # noqa: ASYNC110 (there is nothing to wait on)
            await asyncio.sleep(0.001)


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(threads=1)
    yield made
    made.close()


@pytest.fixture
def gate(engine: Engine) -> Iterator[threading.Event]:
    """Keeps the engine's only thread from taking anything up until it is set."""
    with closed_gate(WAIT_S) as opened:
        engine._executor.submit(opened.wait)
        yield opened


async def test_a_completion_is_what_the_model_writes(engine: Engine) -> None:
    loaded = endless_model()
    done = await engine.complete(loaded, ask("the X fox", 40))
    assert done.text == loaded.language_model.generate("the  fox", max_tokens=40, temperature=0)
    assert (done.prompt_tokens, done.completion_tokens) == (8, 40)
    assert engine._waiting == 0


async def test_one_too_many_is_told_so_and_the_others_are_answered(
    engine: Engine, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "MAX_WAITING", 3)
    loaded = endless_model()
    tasks = [asyncio.create_task(engine.complete(loaded, ask(prompt))) for prompt in ("the", "fox", "dog")]
    await until(engine, 3)
    with pytest.raises(Busy, match="3 requests are waiting already"):
        await asyncio.wait_for(engine.complete(loaded, ask()), WAIT_S)
    gate.set()
    texts = [done.text for done in await asyncio.gather(*tasks)]
    assert texts == [
        loaded.language_model.generate(prompt, max_tokens=20, temperature=0) for prompt in ("the", "fox", "dog")
    ]
    assert (await engine.complete(loaded, ask())).completion_tokens == 20


async def test_nobody_decodes_for_a_client_that_is_gone() -> None:
    engine = Engine(threads=1)
    task = asyncio.create_task(engine.complete(endless_model(), ask(max_tokens=NEVER_DONE)))
    await until(engine, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine._waiting == 0
    async with asyncio.timeout(WAIT_S):
        await asyncio.to_thread(engine.close)


async def test_a_client_that_goes_while_it_waits_makes_room(engine: Engine, gate: threading.Event) -> None:
    loaded = endless_model()
    waiting = asyncio.create_task(engine.complete(loaded, ask(max_tokens=NEVER_DONE)))
    await until(engine, 1)
    waiting.cancel()
    await until(engine, 0)
    gate.set()
    assert (await engine.complete(loaded, ask())).completion_tokens == 20


def test_decoding_ends_within_a_token() -> None:
    gone = threading.Event()
    gone.set()
    assert engine_module._complete(endless_model(), ask(max_tokens=NEVER_DONE), gone).completion_tokens == 1


async def test_a_failure_does_not_count_as_waiting(engine: Engine) -> None:
    broken = endless_model()
    broken.language_model.decoder.config = None  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        await engine.complete(broken, ask())
    assert engine._waiting == 0


async def test_two_threads_decode_at_once() -> None:
    engine = Engine(threads=2)
    loaded = endless_model()
    long = asyncio.create_task(engine.complete(loaded, ask(max_tokens=NEVER_DONE)))
    try:
        async with asyncio.timeout(WAIT_S):
            assert (await engine.complete(loaded, ask())).completion_tokens == 20
        assert not long.done()
    finally:
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)
        engine.close()
