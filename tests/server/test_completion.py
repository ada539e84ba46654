"""Completions: no request keeps the event loop busy for long."""

import asyncio
import threading
from dataclasses import replace

import aiohttp
import numpy as np
import numpy.typing as npt
import pytest
from support.models import TOKENIZER, endless
from support.sequences import WAIT_S, endless_model
from support.serving import serving

from randygpt.model.sampling import Sampling
from randygpt.model.tokenizer import CharTokenizer
from server.completion import Completion
from server.engine import Engine
from server.models import LoadedModel
from server.schema import CompletionRequest
from server.turns import LoopTurns


class GatedTokenizer(CharTokenizer):
    """A tokenizer that waits for `opened`, and sets `entered`."""

    def __init__(self, opened: threading.Event) -> None:
        super().__init__(TOKENIZER.chars)
        self.opened, self.entered = opened, threading.Event()

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        self.entered.set()
        self.opened.wait()
        return super().encode(text)


async def test_long_prompt_is_tokenized_off_the_event_loop(
    session: aiohttp.ClientSession, gate: threading.Event
) -> None:
    tokenizer = GatedTokenizer(gate)
    model = LoadedModel(language_model=replace(endless(), tokenizer=tokenizer), release_id=None, label="gated")
    async with serving(model) as address, asyncio.timeout(WAIT_S):
        body = {"prompt": "x" * 60_000, "max_tokens": 1}
        asked = asyncio.create_task(session.post(address, json=body))
        while not tokenizer.entered.is_set():  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(0.001)
        async with session.get(f"{address}/health") as response:
            assert response.status == 200
        assert not gate.is_set()
        gate.set()
        async with await asked as response:
            assert response.status == 200


async def test_many_tokens_at_once_are_processed_in_slices(engine: Engine) -> None:
    sampling = Sampling(max_tokens=1000, temperature=0)
    ticks = 0
    seen: list[int] = []

    async def count_iterations() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_iterations())
    request = CompletionRequest(prompts=("the",), sampling=sampling)
    async with Completion(engine, LoopTurns(), endless_model(), request) as completion:
        parts = []
        async for part in completion:  # all tokens are delivered at once, at the end
            parts.append(part)
            seen.append(ticks)
    counting.cancel()
    assert sum(len(part.tokens) for part in parts) == completion.completion_tokens == 1000
    assert max(len(part.tokens) for part in parts) <= 64
    assert len({*seen}) == len(parts)  # other work had its turn before each
    assert [part.finish for part in parts] == [None] * (len(parts) - 1) + ["length"]


async def test_slices_of_requests_alternate() -> None:
    turns = LoopTurns()
    order: list[str] = []

    async def work(name: str) -> None:
        for _ in range(3):
            await turns.next()
            order.append(name)

    await asyncio.gather(work("a"), work("b"))
    assert order == ["a", "b"] * 3


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("completions", {"n": 16, "max_tokens": 4096, "logprobs": 2}),
        ("completions", {"prompt": ["x"] * 16, "max_tokens": 400, "logprobs": 20}),
        ("chat/completions", {"messages": [{"role": "user", "content": ""}], "n": 2, "max_tokens": 4096}),
    ],
)
async def test_number_of_logprobs_is_limited(
    session: aiohttp.ClientSession, address: str, path: str, fields: dict[str, object]
) -> None:
    chat = {"logprobs": True, "top_logprobs": 20} if path.startswith("chat") else {}
    async with session.post(f"{address}/v1/{path}", json=fields | chat) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert error["param"] == "logprobs"
    assert "at most 131072" in error["message"]
