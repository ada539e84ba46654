"""Longest work of a server's event loop in one turn: `loop_work.py CHECKPOINT`. Prints milliseconds by kind of request.

Serves the checkpoint in this process, and measures the processor time that the event loop's thread takes between two
turns, so neither decode workers nor other programs count. `loop_work.py CHECKPOINT KIND ADDRESS` is the client.
"""

import asyncio
import contextlib
import gc
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from server.app import run_server
from server.config import ServerConfig
from server.limits import Limits
from server.models import ActiveModel, load_file

LETTERS = "".join(chr(point) for point in range(48, 112))
LONG = LETTERS * 900  # 57,600 characters; a body has at most 64 KiB
BASE = {"ignore_eos": True, "max_tokens": 256}
REQUESTS: dict[str, tuple[str, dict[str, object]]] = {
    "stop": ("completions", BASE | {"prompt": "0", "n": 16, "stop": [LETTERS[:63] + LETTERS[n] for n in range(16)]}),
    "prompt": ("completions", BASE | {"prompt": LONG, "max_tokens": 1}),
    "prompts": ("completions", BASE | {"prompt": [LONG[:3_500]] * 16, "max_tokens": 1}),
    "echo": ("completions", BASE | {"prompt": LONG, "max_tokens": 1, "echo": True}),
    "logprobs": ("completions", BASE | {"prompt": "0", "n": 16, "max_tokens": 390, "logprobs": 20}),
    "turns": ("chat/completions", BASE | {"messages": [{"role": "user", "content": "0"}] * 1_700, "max_tokens": 1}),
    "streams": ("completions", BASE | {"prompt": "0", "n": 16, "stream": True}),
}


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """Yield a list that has the longest work between two turns of the loop, in seconds."""
    longest = [0.0]

    async def watch() -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest[0], before = max(longest[0], now - before), now

    task = asyncio.create_task(watch())
    try:
        yield longest
    finally:
        task.cancel()


async def ask(kind: str, address: str) -> None:
    """Send the request of a kind, and read the whole reply."""
    path, request = REQUESTS[kind]
    async with (
        aiohttp.ClientSession(read_bufsize=1 << 22) as session,
        session.post(f"{address}/v1/{path}", json=request) as response,
    ):
        if response.status != 200:  # noqa: PLR2004 (HTTP)
            raise RuntimeError(await response.text())
        async for _ in response.content.iter_any():
            pass


async def main(checkpoint: Path) -> None:
    """Serve, and have each kind of request sent twice by a process of its own; the first warms up."""
    figures = {}
    active = ActiveModel(current=load_file(checkpoint))
    async with run_server(active, None, ServerConfig(limits=Limits())) as address:
        for kind in REQUESTS:
            for _ in range(2):
                gc.collect()
                async with watched() as longest:
                    client = await asyncio.create_subprocess_exec(
                        sys.executable, __file__, str(checkpoint), kind, address
                    )
                    if await client.wait():
                        raise RuntimeError(f"the request failed: {kind}")
                figures[f"{kind}_ms"] = longest[0] * 1e3
    print(json.dumps(figures))


if __name__ == "__main__":
    file, *client = sys.argv[1:]
    asyncio.run(ask(*client) if client else main(Path(file)))
