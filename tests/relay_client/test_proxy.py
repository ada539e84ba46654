"""The proxy for relays: one decision for websockets and NIP-11 documents, and a clear error if it cannot be used."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from support.scripted_relay import ScriptedRelay

from relay_client.connection import Connection
from relay_client.errors import TransportError
from relay_client.filter import Filter
from relay_client.nip11 import RelayInfo, fetch_relay_infos
from relay_client.pool import Pool
from relay_client.proxy import Proxy, find_proxy

RELAY = "ws://relay.example"  # no such host: reachable only through the proxy
VARIABLES = ["ws", "wss", "http", "https", "all", "socks", "no"]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_PROXY".upper(), raising=False)


@contextlib.asynccontextmanager
async def http_proxy(relay: ScriptedRelay) -> AsyncIterator[tuple[str, list[str]]]:
    """Address of an HTTP proxy in front of a relay, and the first lines of the requests it got."""
    requests: list[str] = []
    port = urlsplit(relay.url).port

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(1 << 16):
                writer.write(block)
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        requests.append(head.partition(b"\r\n")[0].decode())
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        if head.startswith(b"CONNECT "):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            upstream_writer.write(head)
        await asyncio.gather(pump(reader, upstream_writer), pump(upstream_reader, writer))

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests


@pytest.mark.parametrize("variable", ["ws_proxy", "http_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
async def test_websocket_and_document_come_through_the_proxy(
    scripted: ScriptedRelay, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    scripted.description = {"limitation": {"max_limit": 7}}
    async with http_proxy(scripted) as (proxy, requests):
        monkeypatch.setenv(variable, proxy)
        async with Pool([RELAY]) as pool:
            assert await pool.query(Filter(limit=1)) == []
            assert (await fetch_relay_infos([RELAY]))[RELAY].max_limit == 7
    assert requests == ["CONNECT relay.example:80 HTTP/1.1", "GET http://relay.example HTTP/1.1"]


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "socks4://x", "ftp://x:21", "http://", "http://x:port"])
@pytest.mark.parametrize("variable", ["https_proxy", "ALL_PROXY"])
async def test_unusable_proxy_is_one_line(monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str) -> None:
    monkeypatch.setenv(variable, proxy)
    with pytest.raises(TransportError, match=f"the proxy in {variable.lower()} cannot be used") as caught:
        await Connection.open("wss://relay.example")
    assert "\n" not in str(caught.value)
    assert await fetch_relay_infos(["wss://relay.example"]) == {"wss://relay.example": RelayInfo()}


async def test_unreachable_proxy_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("all_proxy", f"http://me:secret@127.0.0.1:{free_port}")
    with pytest.raises(TransportError, match=rf"through the proxy http://127\.0\.0\.1:{free_port}/?\)") as caught:
        await Connection.open("wss://relay.example")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["socks5://me:secret@127.0.0.1", "socks5://me:secret@x:port"])
def test_unusable_proxy_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(TransportError) as caught:
        find_proxy("wss://relay.example")
    assert "secret" not in str(caught.value)


def test_first_variable_for_the_scheme_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_proxy("wss://relay.example") is None
    monkeypatch.setenv("all_proxy", "all.example:1")
    monkeypatch.setenv("http_proxy", "http://plain.example:2")
    assert find_proxy("wss://relay.example") == Proxy(url="http://all.example:1")
    assert find_proxy("ws://relay.example") == Proxy(url="http://plain.example:2")
    monkeypatch.setenv("https_proxy", "http://tls.example:3")
    assert find_proxy("wss://relay.example") == find_proxy("ws://relay.example") == Proxy(url="http://tls.example:3")


@pytest.mark.parametrize("url", ["ws://127.0.0.1:7777", "ws://localhost", "ws://[::1]", "wss://relay.example"])
def test_exceptions_are_reached_directly(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("all_proxy", "socks5://x")
    monkeypatch.setenv("no_proxy", "relay.example")
    assert find_proxy(url) is None
