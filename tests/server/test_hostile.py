"""Malformed and hostile requests, byte by byte: each gets an error or ends its connection; none is logged."""

import asyncio
import gzip
import io
import json
import socket
import struct
import zlib
from collections.abc import AsyncIterator

import orjson
import pytest
from support.models import endless
from support.serving import serving, small_buffers, unread_request

from server.models import LoadedModel

WAIT_S = 60
BODY = b'{"prompt": "the", "max_tokens": 2}'
SECRET = b"s3cret"


@pytest.fixture
async def address(logged: io.StringIO) -> AsyncIterator[str]:
    loaded = LoadedModel(language_model=endless(), release_id=None, label="endless")
    async with serving(loaded, hosts={"localhost"}, linger_s=0.1) as found:
        yield found
    assert SECRET.decode() not in logged.getvalue()
    assert all(orjson.loads(line)["level"] == "info" for line in logged.getvalue().splitlines())


async def send(address: str, *parts: bytes) -> bytes:
    """Send parts one by one and return everything received until the server ends the connection."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(WAIT_S):
        try:
            for part in parts[:-1]:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            writer.write(parts[-1])
            return await reader.read()
        finally:
            writer.close()


def post(body: bytes, *headers: bytes, path: bytes = b"/v1/completions", version: bytes = b"1.1") -> bytes:
    lines = [b"POST %b HTTP/%b" % (path, version), b"Host: localhost", b"Connection: close", *headers]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


def status_of(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1])


MALFORMED = {
    "binary": b"\x00\x01\x02 s3cret\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03s3cret",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown method": b"FOO / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization : Bearer s3cret\r\n\r\n",
    "NUL in header": b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3cret\x00\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: s3cret" + b"x" * 10_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: s3cret\r\n" * 1000 + b"\r\n",
    "long path": b"GET /s3cret" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n\r\n",
    "two lengths": post(BODY, b"Content-Length: 5"),
    "negative length": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    "overlong length": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "length and chunked": post(BODY, b"Transfer-Encoding: chunked"),
    "chunk without length": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\ns3cret\r\n",
    "unknown encoding": post(BODY, b"Content-Encoding: br"),
}


@pytest.mark.parametrize("how", MALFORMED)
async def test_malformed_http_ends_the_connection(address: str, how: str) -> None:
    reply = await send(address, MALFORMED[how])
    head, _, body = reply.partition(b"\r\n\r\n")
    assert status_of(reply) == 400
    assert b"aiohttp" not in head
    assert json.loads(body) == {"error": "this is not a well-formed HTTP request"}


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        (b"gzip", gzip.compress(BODY), 200),
        (b"deflate", zlib.compress(BODY), 200),
        (b"gzip", BODY, 400),
        (b"gzip", gzip.compress(BODY)[:-12], 400),
        (b"gzip", gzip.compress(b" " * 10_000_000), 413),
    ],
    ids=["gzip", "deflate", "not gzip", "truncated", "bomb"],
)
async def test_compressed_body(address: str, encoding: bytes, body: bytes, status: int) -> None:
    reply = await send(address, post(body, b"Content-Encoding: " + encoding))
    assert status_of(reply) == status
    assert (b'"type":"invalid_request_error"' in reply) == (status >= 400)


async def test_malformed_chunk_is_refused(address: str) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = await send(address, head + b'5\r\n{"pro\r\n', b"s3cret\r\n")
    assert status_of(reply) == 400


async def test_too_large_body_is_refused_before_it_is_sent(address: str) -> None:
    reply = await send(address, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n{")
    assert status_of(reply) == 413


async def test_pipelined_requests_are_answered_in_order(address: str) -> None:
    one = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    reply = await send(address, one * 20 + b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert reply.count(b"HTTP/1.1 200 OK\r\n") == 21
    assert reply.count(b'"completion_tokens":2') == 20
    assert reply.endswith(b'"failure":null}')


async def test_http_1_0_ends_a_stream_with_the_connection(address: str) -> None:
    body = b'{"prompt": "the", "max_tokens": 5, "temperature": 0, "stream": true}'
    head, _, events = (await send(address, post(body, version=b"1.0"))).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK")
    assert b"chunked" not in head
    assert events.startswith(b"data: {")
    assert events.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"HEAD /health", 200),
        (b"HEAD /v1/completions", 405),
        (b"OPTIONS /v1/completions", 405),
        (b"OPTIONS *", 404),
        (b"CONNECT localhost:80", 404),
        (b"TRACE /health", 405),
        (b"GET http://localhost/health", 200),
        (b"GET /%ff%00?a=%zz", 404),
        (b"GET /v1/models/%ed%a0%80", 404),
    ],
)
async def test_unusual_methods_and_paths(address: str, request_line: bytes, status: int) -> None:
    reply = await send(address, request_line + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert status_of(reply) == status
    assert (b"\r\n\r\n{" in reply) != request_line.startswith(b"HEAD")


@pytest.mark.parametrize("header", [b"X-Request-Id: \xff\x80", b"Cookie: \xed\xa0\x80", b"Content-Type: a;b=;;\xff"])
async def test_undecodable_headers_are_harmless(address: str, header: bytes) -> None:
    assert status_of(await send(address, post(BODY, header))) == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"seed": -9223372036854775808, "n": 2}', 200),
        ('{"seed": 9223372036854775807, "n": 2}', 200),
        ('{"seed": 18446744073709551616}', 400),
        ('{"seed": -0}', 200),
        ('{"seed": -0.0}', 400),
        ('{"temperature": -0.0}', 200),
        ('{"temperature": 5e-324, "top_p": 5e-324, "top_k": 9223372036854775807}', 200),
        ('{"temperature": 1e400}', 400),
        ('{"prompt": "\\ud800"}', 400),
        ('{"prompt": "\\u0000\\uffff\\ud83d\\ude00"}', 200),
        ('{"prompt": "x", "prompt": 5}', 400),
        ('{"prompt": 5, "prompt": "x"}', 200),
        ('{"x": ' + "[" * 900 + "]" * 900 + "}", 200),
        ('{"x": ' + "[" * 9000 + "]" * 9000 + "}", 400),
        ('{"stop": []}', 200),
        ('{"stop": [""]}', 400),
        ('{"prompt": []}', 400),
        ('{"echo": true, "n": 3, "stream": true, "stop": "e", "logprobs": null}', 200),
        ('{"logprobs": 20, "n": 16, "ignore_eos": true, "temperature": 100}', 200),
        ("\ufeff{}", 400),
    ],
)
async def test_json_at_its_limits(address: str, body: str, status: int) -> None:
    fields = body if "max_tokens" in body else body.replace("{", '{"max_tokens": 3, ', 1).replace(", }", "}")
    assert status_of(await send(address, post(fields.encode()))) == status


@pytest.mark.parametrize("read", [0, 1, 20_000])
async def test_aborted_connections_free_their_slots(address: str, logged: io.StringIO, read: int) -> None:
    host, port = address.removeprefix("http://").split(":")
    for _ in range(20):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(post(b'{"max_tokens": 4000, "ignore_eos": true, "stream": true, "n": 4}'))
        await reader.read(read)
        reset = struct.pack("ii", 1, 0)  # close with RST
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.transport.abort()
    counted = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    async with asyncio.timeout(WAIT_S):
        while b"randygpt_sequences_running 0.0" not in await send(address, counted):
            pass
    assert {orjson.loads(line)["status"] for line in logged.getvalue().splitlines()} <= {200, 499, 503}


async def test_unread_response_ends_with_its_connection(logged: io.StringIO) -> None:
    loaded = LoadedModel(language_model=endless(), release_id=None, label="endless")
    body = b'{"max_tokens": 100, "n": 4, "temperature": 0, "logprobs": 20}'  # about 200 kB
    with small_buffers() as listening:
        async with (
            serving(loaded, write_timeout_s=0.05, listen_sockets=[listening]) as address,
            unread_request(address, post(body)),
            asyncio.timeout(WAIT_S),
        ):
            while '"status": 499' not in logged.getvalue():  # noqa: ASYNC110 (there is no event for it)
                await asyncio.sleep(0.01)
