"""Canonical form of relay addresses."""

import asyncio
from http import HTTPStatus

import pytest
from support.scripted_relay import ScriptedRelay
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from relay_client.errors import CallerError, TransportError
from relay_client.nip11 import fetch_relay_infos
from relay_client.pool import Pool
from relay_client.url import normalize_url


@pytest.mark.parametrize(
    ("raw_url", "url"),
    [
        ("wss://relay.example", "wss://relay.example"),
        ("wss://relay.example/", "wss://relay.example"),
        ("wss://relay.example//", "wss://relay.example//"),
        ("wss://relay.example/?", "wss://relay.example"),
        ("wss://relay.example:443", "wss://relay.example"),
        ("wss://relay.example:0443/", "wss://relay.example"),
        ("wss://relay.example:/a", "wss://relay.example/a"),
        ("ws://relay.example:80", "ws://relay.example"),
        ("ws://relay.example:443", "ws://relay.example:443"),
        ("wss://relay.example.", "wss://relay.example"),
        ("wss://relay.example.:443/", "wss://relay.example"),
        ("wss://MÜNCHEN.example/x", "wss://xn--mnchen-3ya.example/x"),
        ("wss://münchen.example.:8443", "wss://xn--mnchen-3ya.example:8443"),
        ("wss://XN--mnchen-3ya.example", "wss://xn--mnchen-3ya.example"),
        ("wss://faß.example", "wss://xn--fa-hia.example"),
        ("wss://relay。example", "wss://relay.example"),
        ("wss://\uff52elay.example", "wss://relay.example"),
        ("wss://a_b.example", "wss://a_b.example"),
        ("wss://relay.example?x=1", "wss://relay.example/?x=1"),
        ("wss://relay.example/a?x=1&y=%2f", "wss://relay.example/a?x=1&y=/"),
        ("wss://relay.example/a b", "wss://relay.example/a%20b"),
        ("wss://relay.example/%7ea/é", "wss://relay.example/~a/%C3%A9"),
        ("wss://relay.example/a%2Fb", "wss://relay.example/a%2Fb"),
        ("wss://relay.example/a/./b/../c", "wss://relay.example/a/c"),
        ("wss://[2001:0DB8:0000:0000:0000:0000:0000:0001]:443", "wss://[2001:db8::1]"),
        ("ws://[0:0:0:0:0:0:0:1]:7777/", "ws://[::1]:7777"),
        ("wss://[::ffff:8.8.8.8]", "wss://[::ffff:808:808]"),
        ("wss://127.1", "wss://127.0.0.1"),
        ("wss://0x7f000001:8080", "wss://127.0.0.1:8080"),
        ("wss://0177.0.258", "wss://127.0.1.2"),
        ("wss://\uff11\uff12\uff17.0.0.1", "wss://127.0.0.1"),
        (" ws://127.0.0.1:4848\n", "ws://127.0.0.1:4848"),
        ("WSS://relay.example", "wss://relay.example"),
        ("wss://Relay.EXAMPLE/Path", "wss://relay.example/Path"),
        ("wss://relay.example/a/b/", "wss://relay.example/a/b/"),
        ("ws://[::1]:7777/", "ws://[::1]:7777"),
        ("ws://localhost:1", "ws://localhost:1"),
        ("wss://relay.example:65535", "wss://relay.example:65535"),
    ],
)
def test_url_is_normalized(raw_url: str, url: str) -> None:
    assert normalize_url(raw_url) == url
    assert normalize_url(url) == url


@pytest.mark.parametrize(
    "raw_url",
    [
        "",
        " ",
        "wss://[]@",  # an IndexError in yarl
        "relay.example",
        "//relay.example",
        "relay.example:443",
        "http://relay.example",
        "https://relay.example",
        "file:///etc/passwd",
        "wss:relay.example",
        "wss:/relay.example",
        "wss://",
        "wss:///path",
        "wss://:443",
        "wss://me@relay.example",
        "wss://me:word@relay.example",
        "wss://:word@relay.example",
        "wss://@relay.example",
        "wss://re lay.example",
        "wss://relay.example .",
        "wss://re\tlay.example",
        "wss://relay.example/a\nb",
        "wss://relay.example/\u202e",
        "wss://relay.example\\x",
        "wss://relay%41.example",
        "wss://relay.example..",
        "wss://.example",
        "wss://-relay.example",
        f"wss://{'a' * 64}.example",
        f"wss://{'a.' * 127}example",
        f"wss://relay.example/{'a' * 2_000}",
        "wss://☃.example",
        "wss://\udcff.example",
        "wss://relay.example:0",
        "wss://1.2.3.4.5",
        "wss://256.1.1.1",
        "wss://1.2.3.256",
        "wss://08.1",
        "wss://4294967296",
        "wss://[fe80::1%25eth0]",
        "wss://[::1]x",
        "wss://[127.0.0.1]",
        "wss://relay.example/#x",
        "wss://relay.example:99999",
        "wss://relay.example:-1",
        "wss://relay.example:port",
        "wss://relay\x1b[2J.example",
        "wss://[::1",
        "wss://[relay.example]",
    ],
)
def test_invalid_relay_url_is_refused(raw_url: str) -> None:
    with pytest.raises(CallerError, match="not a relay's address"):
        normalize_url(raw_url)


async def test_pool_counts_spellings_of_a_relay_once(scripted: ScriptedRelay) -> None:
    port = scripted.url.rpartition(":")[2]
    async with Pool([scripted.url, f"{scripted.url}/", f"WS://127.1:{port}", f"ws://0x7f.1:0{port}"]) as pool:
        assert pool.urls == [scripted.url]
    assert scripted.connections == 1


async def test_slash_and_query_reach_the_relay() -> None:
    paths = []

    def describe(connection: ServerConnection, request: Request) -> Response:
        paths.append(request.path)
        return connection.respond(HTTPStatus.NOT_FOUND, "")

    async with serve(lambda _: asyncio.sleep(0), "127.0.0.1", 0, process_request=describe) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/inbox/?who=me"
        with pytest.raises(TransportError):
            await Pool([url]).__aenter__()
        await fetch_relay_infos([url])
    assert paths == ["/inbox/?who=me"] * 2
