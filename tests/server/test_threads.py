"""Which thread writes which texts, as they come and go; and what becomes of them when it ends."""

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from support.texts import BLOCK, GREEDY, NEVER_DONE, WAIT_S, alone, drain, endless_model, gated_model, written

from randygpt.model.decoder import KVCache
from randygpt.model.sampling import Sampling
from server import batch as batch_module
from server import models
from server.engine import Engine
from server.errors import Busy
from server.order import Order


async def until_loads(engine: Engine, *expected: int) -> None:
    """Until the threads have so many texts, whichever has which."""
    async with asyncio.timeout(WAIT_S):
        while True:
            with engine._changed:
                if sorted(writer.load for writer in engine._writers) == [*expected]:
                    return
            await asyncio.sleep(0.001)


async def test_a_thread_shares_its_texts_from_eight_on_and_is_alone_again_with_four(engine: Engine) -> None:
    """Each of them is as if nothing had happened."""
    loaded = endless_model()
    cases = [([row + 2], Sampling(max_tokens=NEVER_DONE, temperature=0.9, seed=row)) for row in range(8)]
    found: list[list[int]] = [[] for _ in cases]

    async def read(order: Order) -> None:
        for piece in await order.next():
            found[piece.number] += [token.id for token in piece.tokens]

    with engine.order(loaded, cases[:7]) as order:
        await read(order)
        await until_loads(engine, 0, 7)
        with engine.order(loaded, cases[7:]):
            await until_loads(engine, 4, 4)
        await until_loads(engine, 3, 4)
        for index in range(3):
            order.give_up(index)
        await until_loads(engine, 0, 4)
        while min(len(tokens) for tokens in found[3:7]) < 2 * BLOCK:
            await read(order)
    for case, tokens in zip(cases[3:7], found[3:7], strict=True):
        assert tokens == alone(loaded, case[0], replace(case[1], max_tokens=len(tokens)))


async def test_without_memory_to_share_a_thread_goes_on_alone(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    """With as many as it has room for."""
    tried: list[int] = []

    def get(_: KVCache, slot: int) -> None:
        tried.append(slot)
        raise MemoryError

    monkeypatch.setattr(KVCache, "get", get)
    loaded = endless_model()
    cases = [([row + 2], replace(GREEDY, max_tokens=200)) for row in range(9)]
    async with asyncio.timeout(WAIT_S):
        texts = await asyncio.gather(*(written(engine, loaded, *case) for case in cases))
    assert texts == [alone(loaded, *case) for case in cases]
    assert tried


async def test_room_that_was_only_there_while_a_text_began_anew_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "SLOTS", 1)
    loaded, engine, joined = endless_model(), Engine(threads=1), []
    join = batch_module.Batch.join

    def join_while_somebody_looks(batch: batch_module.Batch[Any], writing: Any) -> None:  # noqa: ANN401 (passed on)
        if joined:
            with engine._changed:
                engine._assign()
        joined.append(writing)
        join(batch, writing)

    monkeypatch.setattr(batch_module.Batch, "join", join_while_somebody_looks)
    sampling = replace(GREEDY, max_tokens=2 * BLOCK)
    try:
        async with asyncio.timeout(WAIT_S):
            texts = await asyncio.gather(*(written(engine, loaded, [row + 2], sampling) for row in range(2)))
    finally:
        engine.close()
    assert texts == [alone(loaded, [row + 2], sampling) for row in range(2)]
    assert len(joined) > 2


async def test_what_is_under_way_when_it_closes_is_told_so() -> None:
    engine = Engine(threads=1)
    with engine.order(endless_model(), [([5], replace(GREEDY, max_tokens=NEVER_DONE))]) as order:
        await order.next()
        await asyncio.to_thread(engine.close)
        with pytest.raises(Busy, match="about to stop"):
            await drain(order)
    with pytest.raises(Busy, match="about to stop"):
        await engine.complete(endless_model(), [5], GREEDY)


@pytest.mark.parametrize("slots", [1, 2])
async def test_what_has_not_begun_when_it_closes_is_told_so(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event, slots: int
) -> None:
    """Whether a thread has room for it or not."""
    monkeypatch.setattr(models, "SLOTS", slots)
    loaded, engine = gated_model(gate), Engine(threads=1)
    endless_text = ([5], replace(GREEDY, max_tokens=NEVER_DONE))
    with engine.order(loaded, [endless_text]):
        while engine._writers[0].coming:  # noqa: ASYNC110 (there is nothing to wait on)
            await asyncio.sleep(0.001)
        with engine.order(loaded, [endless_text]) as late:
            closing = asyncio.create_task(asyncio.to_thread(engine.close))
            while not engine._closed.is_set():  # noqa: ASYNC110 (there is nothing to wait on)
                await asyncio.sleep(0.001)
            gate.set()
            with pytest.raises(Busy, match="about to stop"):
                await asyncio.wait_for(drain(late), WAIT_S)
            await closing
