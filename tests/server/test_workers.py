"""Balance of sequences over the decode workers, and shutdown."""

import asyncio
import threading
from dataclasses import replace

import pytest
from support.models import Gated
from support.sequences import (
    BLOCK,
    ENDLESS,
    GREEDY,
    WAIT_S,
    drain,
    endless_model,
    gated_model,
    reference,
    tokens_of,
)

from randygpt.model.decoder import KVCache
from randygpt.model.sampling import Sampling
from server.engine import Engine
from server.errors import Busy
from server.models import LoadedModel
from server.sequence import Request

ENDLESS_PROMPT = ([5], replace(GREEDY, max_tokens=ENDLESS))


async def until_loads(engine: Engine, *expected: int) -> None:
    """Wait until the workers have these numbers of sequences, in any order."""
    async with asyncio.timeout(WAIT_S):
        while sorted(engine.loads) != [*expected]:  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(0.001)


def decoder_of(model: LoadedModel) -> Gated:
    decoder = model.language_model.decoder
    assert isinstance(decoder, Gated)
    return decoder


async def test_load_is_balanced_from_eight_and_merged_at_four(engine: Engine) -> None:
    """The sequences that migrate generate what they would have generated alone."""
    model = endless_model()
    prompts = [([row + 2], Sampling(max_tokens=ENDLESS, temperature=0.9, seed=row)) for row in range(8)]
    found: list[list[int]] = [[] for _ in prompts]

    async def read(request: Request) -> None:
        for output in await request.next_outputs():
            found[output.sequence_index] += [token.id for token in output.tokens]

    with engine.submit(model, prompts[:7]) as request:
        await read(request)
        await until_loads(engine, 0, 7)
        with engine.submit(model, prompts[7:]):
            await until_loads(engine, 4, 4)
        await until_loads(engine, 3, 4)
        for index in range(3):
            request.cancel(index)
        await until_loads(engine, 0, 4)
        while min(len(tokens) for tokens in found[3:7]) < 2 * BLOCK:
            await read(request)
    for (prompt, sampling), tokens in zip(prompts[3:7], found[3:7], strict=True):
        assert tokens == reference(model, prompt, replace(sampling, max_tokens=len(tokens)))


async def test_sequences_stay_when_there_is_no_memory_to_migrate(
    monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    tried: list[int] = []

    def get(_: KVCache, slot: int) -> None:
        tried.append(slot)
        raise MemoryError

    monkeypatch.setattr(KVCache, "get", get)
    model = endless_model()
    prompts = [([row + 2], replace(GREEDY, max_tokens=200)) for row in range(9)]
    async with asyncio.timeout(WAIT_S):
        found = await asyncio.gather(*(tokens_of(engine, model, *prompt) for prompt in prompts))
    assert found == [reference(model, *prompt) for prompt in prompts]
    assert tried


async def test_running_sequence_fails_at_shutdown() -> None:
    engine = Engine(threads=1)
    with engine.submit(endless_model(), [ENDLESS_PROMPT]) as request:
        await request.next_outputs()
        await asyncio.to_thread(engine.close)
        with pytest.raises(Busy, match="shutting down"):
            await drain(request)
    with pytest.raises(Busy, match="shutting down"):
        engine.submit(endless_model(), [ENDLESS_PROMPT])


@pytest.mark.parametrize("max_slots", [1, 2], ids=["queued", "assigned to a worker"])
async def test_sequence_that_has_not_started_fails_at_shutdown(gate: threading.Event, max_slots: int) -> None:
    model, engine = gated_model(gate, max_slots=max_slots), Engine(threads=1)
    with engine.submit(model, [ENDLESS_PROMPT]):
        assert await asyncio.to_thread(decoder_of(model).entered.wait, WAIT_S)
        with engine.submit(model, [ENDLESS_PROMPT]) as late:
            closing = asyncio.create_task(asyncio.to_thread(engine.close))
            await until_closed(engine, model)
            gate.set()
            with pytest.raises(Busy, match="shutting down"):
                await asyncio.wait_for(drain(late), WAIT_S)
            await closing


async def until_closed(engine: Engine, model: LoadedModel) -> None:
    """Wait until the engine takes no more requests."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                engine.submit(model, [ENDLESS_PROMPT]).close()
            except Busy as error:
                assert "shutting down" in str(error)  # noqa: PT017 (any other Busy is a failure)
                return
            await asyncio.sleep(0.001)
