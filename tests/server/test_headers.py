"""Headers and request targets as clients and attackers spell them: Expect, Host, paths, CORS preflights."""

import asyncio
import io
import json
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest
from support.models import endless
from support.serving import serving

from server.models import LoadedModel

WAIT_S = 60
BODY = b'{"prompt": "the", "max_tokens": 2}'
ORIGIN = "https://mine.example"
STAINLESS = "authorization, content-type, x-stainless-arch, x-stainless-lang, x-stainless-retry-count, openai-project"


@pytest.fixture
async def address(logged: io.StringIO) -> AsyncIterator[str]:
    loaded = LoadedModel(language_model=endless(), release_id=None, label="endless")
    async with serving(loaded, hosts={"127.0.0.1", "localhost", "::1"}, origins=[ORIGIN], linger_s=0.1) as found:
        yield found
    assert all(orjson.loads(line)["level"] == "info" for line in logged.getvalue().splitlines())


async def send(address: str, request: bytes) -> bytes:
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(WAIT_S):
        writer.write(request)
        reply = await reader.read()
        writer.close()
        return reply


async def reply_to(
    address: str, *headers: bytes, target: bytes = b"/v1/completions", host: bytes = b"localhost"
) -> bytes:
    lines = [b"POST %b HTTP/1.1" % target, b"Host: " + host, b"Connection: close", *headers]
    return await send(address, b"\r\n".join([*lines, b"Content-Length: %d" % len(BODY), b"", BODY]))


@pytest.mark.parametrize(
    ("expect", "status"),
    [(b"100-continue", 200), (b"100-Continue", 200), (b"\xff", 417), (b"tea", 417), (b"100-continue, tea", 417)],
)
@pytest.mark.parametrize("target", [b"/v1/completions", b"/nothing"])
async def test_expectation_is_met_or_refused(address: str, expect: bytes, status: int, target: bytes) -> None:
    reply = await reply_to(address, b"Expect: " + expect, target=target)
    if status == 200 and target == b"/v1/completions":
        assert reply.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        return
    found = 404 if status == 200 else status
    assert reply.startswith(b"HTTP/1.1 %d " % found)
    assert b"X-Request-Id" in reply
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize("expect", [b"100-continue", b"\xff", b"tea"])
async def test_host_is_checked_before_the_expectation(address: str, expect: bytes) -> None:
    reply = await reply_to(address, b"Expect: " + expect, host=b"evil.example")
    assert reply.startswith(b"HTTP/1.1 403 ")


async def test_expectation_of_an_old_client_is_ignored(address: str) -> None:
    head = b"POST / HTTP/1.0\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    assert (await send(address, head + BODY)).startswith(b"HTTP/1.0 200 OK\r\n")


@pytest.mark.parametrize(
    "host",
    [
        b"evil@127.0.0.1",
        b"127.0.0.1#.evil",
        b"127.0.0.1/.evil",
        b"127.0.0.1?.evil",
        b"127.0.0.1\\.evil",
        b"127.0.0.1:80:80",
        b"127.0.0.1:x",
        b"127.0.0.1 evil",
        b"127.0.0.1, evil",
        b"[127.0.0.1]",
        b"::1",
        b"[::1",
        b"[::1%251]",
        b"[::1]x",
        b"localhost..",
        b"\xff",
        b"127.0.0.1%00",
        b":80",
    ],
)
async def test_malformed_host_is_refused(address: str, host: bytes) -> None:
    assert (await reply_to(address, host=host)).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("host", [b"LOCALHOST:1", b"localhost.", b"localhost.:80", b"[0:0::1]:80", b"127.0.0.1:"])
async def test_other_spelling_of_a_host_is_accepted(address: str, host: bytes) -> None:
    assert (await reply_to(address, host=host)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("target", "status"),
    [(b"http://localhost/health", 200), (b"http://evil.example/health", 403), (b"http://evil@localhost/health", 403)],
)
async def test_host_in_the_target_counts(address: str, target: bytes, status: int) -> None:
    reply = await send(address, b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % target)
    assert reply.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("path", ["//v1/models", "/v1/models/", "/v1//models", "//v1/models//", "/v1/models/?a=1"])
async def test_path_with_extra_slashes_is_served(address: str, path: str) -> None:
    reply = await send(address, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert b'"object":"list"' in reply


@pytest.mark.parametrize("path", [b"///", b"/v1/nothing/", b"/../", b"/%2f/"])
async def test_slashes_alone_name_no_other_route(address: str, path: bytes) -> None:
    reply = await send(address, b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path)
    assert reply.startswith(b"HTTP/1.1 200 " if path == b"///" else b"HTTP/1.1 404 ")


async def test_preflight_allows_what_openais_client_sends(session: aiohttp.ClientSession, address: str) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": STAINLESS,
    }
    async with session.options(f"{address}/v1/chat/completions", headers=asked) as response:
        assert response.status == 204
        allowed = {name.strip() for name in response.headers["Access-Control-Allow-Headers"].lower().split(",")}
    assert {*STAINLESS.split(", ")} <= allowed


@pytest.mark.parametrize("names", ["a b", "x,;", "a" * 3000, ""])
async def test_preflight_repeats_only_header_names(session: aiohttp.ClientSession, address: str, names: str) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": names}
    async with session.options(f"{address}/v1/completions", headers=asked) as response:
        assert response.headers["Access-Control-Allow-Headers"] == "Authorization, Content-Type, X-Request-Id"
