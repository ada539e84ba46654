"""Connections to the built-in Blossom server: how many, and how long they may be idle."""

import asyncio
from pathlib import Path

import pytest
from support.blossom import blob_server
from yarl import URL

from relay_client.blossom.blob_limits import BlobLimits
from relay_client.errors import CallerError

REQUEST = b"GET /" + b"0" * 64 + b" HTTP/1.1\r\nHost: localhost\r\n"


async def open_connection(origin: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = URL(origin)
    return await asyncio.open_connection(url.host, url.port)


async def test_connections_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    async with blob_server(tmp_path, limits=BlobLimits(max_connections=2)) as origin, asyncio.timeout(20):
        idle = [await open_connection(origin) for _ in range(2)]
        for reader, writer in idle:
            writer.write(REQUEST + b"\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 404")
        reader, writer = await open_connection(origin)
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        writer.close()
        idle.pop()[1].close()
        while True:  # until the server has noticed
            reader, writer = await open_connection(origin)
            writer.write(REQUEST + b"Connection: close\r\n\r\n")
            status = await reader.read()
            writer.close()
            if status.startswith(b"HTTP/1.1 404"):
                break
        idle.pop()[1].close()


@pytest.mark.parametrize("sent", [b"", REQUEST, REQUEST + b"\r\n"], ids=["nothing", "half a request", "one request"])
async def test_idle_connection_is_closed(tmp_path: Path, sent: bytes) -> None:
    async with blob_server(tmp_path, limits=BlobLimits(headers_s=0.1)) as origin, asyncio.timeout(20):
        reader, writer = await open_connection(origin)
        writer.write(sent)
        await reader.read()  # to the end
        writer.close()


async def test_slow_headers_do_not_put_off_their_deadline(tmp_path: Path) -> None:
    async with blob_server(tmp_path, limits=BlobLimits(headers_s=0.2)) as origin, asyncio.timeout(20):
        reader, writer = await open_connection(origin)
        ended = asyncio.ensure_future(reader.read())
        writer.write(REQUEST)
        while not ended.done():
            writer.write(b"X-Slow: 1\r\n")
            await asyncio.wait({ended}, timeout=0.05)
        assert ended.result() == b""
        writer.close()


def test_limits_are_above_zero() -> None:
    for limits in ({"max_connections": 0}, {"headers_s": 0}):
        with pytest.raises(CallerError, match="must be at least 1"):
            BlobLimits(**limits)  # type: ignore[arg-type]
