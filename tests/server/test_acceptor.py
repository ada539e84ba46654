"""Accepting connections: more of them than are served, or than there are descriptors."""

import asyncio
import contextlib
import io
import json
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from support.serving import REMOTE, serving

from relay_client.errors import CallerError
from server.acceptor import ensure_descriptors
from server.models import LoadedModel

WAIT_S = 60


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


@contextlib.contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Within: no descriptor can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() - 1, limits[1]))  # iterdir has one, too
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_refused_connections_keep_few_descriptors(loaded: LoadedModel) -> None:
    async with serving(loaded, max_connections=8, linger_s=WAIT_S) as address:
        host, port = address.removeprefix("http://").split(":")
        before, count = descriptors(), 200
        remote = (REMOTE, 0)
        clients = [await asyncio.open_connection(host, int(port), local_addr=remote) for _ in range(count)]
        ends = [asyncio.ensure_future(reader.read()) for reader, _ in clients]
        async with asyncio.timeout(WAIT_S):
            for end in asyncio.as_completed(ends[8:-64]):  # the oldest make room for later ones
                assert (await end).startswith(b"HTTP/1.1 503 ")
        assert descriptors() - before <= count + 8 + 64
        assert not any(end.done() for end in ends[:8])
        for _, writer in clients:
            writer.close()
        await asyncio.gather(*ends, return_exceptions=True)


async def test_idle_connections_leave_some_for_this_machine(loaded: LoadedModel) -> None:
    async with serving(loaded, max_connections=4) as address:
        host, port = address.removeprefix("http://").split(":")
        idle = [await asyncio.open_connection(host, int(port), local_addr=(REMOTE, 0)) for _ in range(4)]
        async with aiohttp.ClientSession() as session, session.get(f"{address}/health") as response:
            assert response.status == 200
        reader, writer = await asyncio.open_connection(host, int(port), local_addr=(REMOTE, 0))
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
        for _, each in [*idle, (reader, writer)]:
            each.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
async def test_failing_accepts_are_logged_once_a_second(loaded: LoadedModel, logged: io.StringIO) -> None:
    async with serving(loaded) as address:
        host, port = address.removeprefix("http://").split(":")
        clients = [socket.socket() for _ in range(20)]
        with no_more_descriptors():
            for client in clients:
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
            async with asyncio.timeout(WAIT_S):
                while "cannot accept" not in logged.getvalue():  # noqa: ASYNC110 (there is no event for it)
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)  # three more attempts
        [line] = [json.loads(line) for line in logged.getvalue().splitlines()]
        assert line["message"].startswith("cannot accept connections: [Errno 24]")
        assert "error" not in line  # no traceback
        for client in clients:
            client.close()
        async with aiohttp.ClientSession() as session, session.get(f"{address}/health") as response:
            assert response.status == 200


def test_connections_must_fit_the_limit_on_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    ensure_descriptors(512)
    assert raised == []
    ensure_descriptors(2000)
    assert raised == [(2136, 4096)]
    with pytest.raises(CallerError, match="--max-connections 4000 needs 4136 open files, and 4096 are allowed"):
        ensure_descriptors(4000)
