"""Life of a server: connections, disconnects, overload, start and shutdown."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import replace

import aiohttp
import pytest
from support.models import Gated, endless
from support.scrape import until_sequences
from support.serving import serving

from server.errors import CannotListen
from server.models import LoadedModel

WAIT_S = 60


@pytest.fixture
def loaded() -> LoadedModel:
    """Return a model that never ends at temperature 0."""
    return LoadedModel(language_model=endless(), release_id=None, label="endless")


@pytest.fixture
def gated(loaded: LoadedModel, gate: threading.Event) -> LoadedModel:
    """Return the same model with decode steps that wait for the gate."""
    slow = replace(loaded.language_model, decoder=Gated(loaded.language_model.decoder, gate))
    return LoadedModel(language_model=slow, release_id=None, label="gated")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 (there is nothing to wait on)
            await asyncio.sleep(0.001)


async def ask(
    session: aiohttp.ClientSession, address: str, *, prompt: str = "the", max_tokens: int = 20
) -> tuple[int, str]:
    """Return the status, and the text or the error message."""
    fields = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
    async with session.post(address, json=fields) as response:
        body = await response.json()
        if response.status == 503:
            assert response.headers["Retry-After"] == "1"
        return response.status, body["text" if response.status == 200 else "error"]


async def test_one_connection_serves_many_requests(loaded: LoadedModel) -> None:
    made, reused = [], []
    trace = aiohttp.TraceConfig()

    async def on_made(*facts: object) -> None:
        made.append(facts)

    async def on_reused(*facts: object) -> None:
        reused.append(facts)

    trace.on_connection_create_end.append(on_made)
    trace.on_connection_reuseconn.append(on_reused)
    async with serving(loaded) as address, aiohttp.ClientSession(trace_configs=[trace]) as session:
        for _ in range(2):
            assert (await ask(session, address))[0] == 200
            assert (await ask(session, address, max_tokens=0))[0] == 400
            async with session.get(f"{address}/nothing") as response:
                assert response.status == 404
                await response.read()
    assert (len(made), len(reused)) == (1, 5)


async def test_disconnected_client_frees_its_slot(
    session: aiohttp.ClientSession, gated: LoadedModel, gate: threading.Event
) -> None:
    async with serving(gated) as address:
        request = asyncio.create_task(ask(session, address))
        await until_sequences(address, 1)
        request.cancel()
        await until_sequences(address, 0)
        gate.set()
        async with asyncio.timeout(WAIT_S):
            assert (await ask(session, address))[0] == 200


async def test_requests_beyond_the_limit_get_503(
    session: aiohttp.ClientSession,
    loaded: LoadedModel,
    gated: LoadedModel,
    gate: threading.Event,
) -> None:
    async with serving(gated, max_sequences=4) as address:
        prompts = ["the", "quick", "brown", "fox"]
        tasks = [asyncio.create_task(ask(session, address, prompt=prompt)) for prompt in prompts]
        await until_sequences(address, 4)
        async with asyncio.timeout(WAIT_S):
            refused = await asyncio.gather(*(ask(session, address) for _ in range(3)))
        assert refused == [(503, "4 of at most 4 sequences are running or waiting; retry later")] * 3
        async with session.get(f"{address}/health") as response:
            assert response.status == 200
        gate.set()
        expected = [loaded.language_model.generate(prompt, max_tokens=20, temperature=0) for prompt in prompts]
        assert await asyncio.gather(*tasks) == [(200, text) for text in expected]
        assert (await ask(session, address))[0] == 200


async def test_concurrent_requests_get_their_own_text(session: aiohttp.ClientSession, loaded: LoadedModel) -> None:
    prompts = [f"{word} {other}" for word in ("the", "fox", "lazy") for other in ("dog", "over", "jumps", "quick")]
    async with serving(loaded, threads=2) as address:
        replies = await asyncio.gather(*(ask(session, address, prompt=prompt, max_tokens=50) for prompt in prompts))
    expected = [loaded.language_model.generate(prompt, max_tokens=50, temperature=0) for prompt in prompts]
    assert replies == [(200, text) for text in expected]


def is_listening(address: str) -> bool:
    host, port = address.removeprefix("http://").rsplit(":", 1)
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


async def test_shutdown_finishes_running_requests(
    session: aiohttp.ClientSession,
    loaded: LoadedModel,
    gated: LoadedModel,
    gate: threading.Event,
) -> None:
    stop = asyncio.Event()
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with serving(gated) as address:
            started.set_result(address)
            await stop.wait()

    server = asyncio.create_task(serve())
    address = await started
    request = asyncio.create_task(ask(session, address))
    await until_sequences(address, 1)
    stop.set()
    await until(lambda: not is_listening(address))
    await asyncio.wait([request, server], timeout=0.2)  # long enough for a shutdown that does not wait
    assert not request.done()
    gate.set()
    expected = loaded.language_model.generate("the", max_tokens=20, temperature=0)
    assert await request == (200, expected)
    async with asyncio.timeout(WAIT_S):
        await server


async def test_shutdown_does_not_wait_for_idle_connections(session: aiohttp.ClientSession, loaded: LoadedModel) -> None:
    async with asyncio.timeout(WAIT_S):
        async with serving(loaded) as address:
            await ask(session, address)
        assert not is_listening(address)


async def test_shutdown_does_not_wait_longer_than_its_timeout(
    session: aiohttp.ClientSession, loaded: LoadedModel
) -> None:
    async with asyncio.timeout(WAIT_S):
        async with serving(loaded, shutdown_timeout_s=0.01) as address:
            fields = {"max_tokens": 4096, "temperature": 0, "n": 16}
            request = asyncio.create_task(session.post(f"{address}/v1/completions", json=fields))
            await until_sequences(address, 16)
        with pytest.raises(aiohttp.ClientError):
            await request


async def test_address_in_use_is_reported(loaded: LoadedModel) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        context = serving(loaded, port=taken.getsockname()[1])
        with pytest.raises(CannotListen, match=r"127\.0\.0\.1:\d+: .*in use"):
            await context.__aenter__()


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_ipv6_address(session: aiohttp.ClientSession, loaded: LoadedModel) -> None:
    async with serving(loaded, host="::1") as address:
        assert address.startswith("http://[::1]:")
        assert (await ask(session, address))[0] == 200
