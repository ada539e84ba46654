"""PUT /mirror of the built-in Blossom server: blobs of another server, and addresses that must not be read."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from support.blossom import blob_server
from support.blossom_server import Answer, blossom_server

from relay_client.blossom.blob_limits import BlobLimits
from relay_client.blossom.mirror import MirrorSource
from relay_client.blossom.token import Verb, encode_header, token_draft
from relay_client.errors import InvalidResponse, TransportError
from relay_client.keys import SecretKey
from relay_client.timeouts import Timeouts

BLOB = b"a blob" * 1000
DIGEST = hashlib.sha256(BLOB).digest()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


def token(key: SecretKey, origin: str, sha256: bytes = DIGEST) -> dict[str, str]:
    draft = token_draft(Verb.UPLOAD, hashes=[sha256], origins=[origin], now=int(time.time()))
    return {"Authorization": encode_header(draft.sign(key))}


async def mirror(
    session: aiohttp.ClientSession, origin: str, url: str, key: SecretKey, sha256: bytes = DIGEST
) -> tuple[int, str]:
    """Return the status and the reason of a request to mirror."""
    headers = token(key, origin, sha256)
    async with session.put(f"{origin}/mirror", json={"url": url}, headers=headers) as response:
        await response.read()
        return response.status, response.headers.get("X-Reason", "")


@pytest.fixture
async def source() -> AsyncIterator[tuple[str, list[str]]]:
    """Origin of a server that lies in several ways, and the paths it was asked for."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        place = request.path.split("/")[1]
        if place == "moved":
            raise web.HTTPFound(f"/good/{DIGEST.hex()}")
        if place == "elsewhere":
            raise web.HTTPFound(f"/good/{'0' * 64}")
        if place == "endless":
            response = web.StreamResponse()
            await response.prepare(request)
            return response
        if place == "missing":
            raise web.HTTPNotFound
        return web.Response(body=BLOB[::-1] if place == "wrong" else BLOB)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    await runner.cleanup()


async def test_blob_of_another_server_is_stored(tmp_path: Path, session: aiohttp.ClientSession, key: SecretKey) -> None:
    async with blob_server(tmp_path / "a") as first, blob_server(tmp_path / "b") as second:
        async with session.put(f"{first}/upload", data=BLOB, headers=token(key, first)) as response:
            url = (await response.json())["url"]
        assert await mirror(session, second, url, key) == (201, "")
        assert await mirror(session, second, url, key) == (200, "")
        async with session.get(f"{second}/{DIGEST.hex()}") as response:
            assert await response.read() == BLOB
        status, reason = await mirror(session, second, f"{first}/{'0' * 64}", key, bytes(32))
        assert (status, "does not have it" in reason) == (502, True)


@pytest.mark.parametrize(
    ("place", "status", "reason"),
    [
        ("moved", 201, ""),
        ("elsewhere", 502, "another blob"),
        ("wrong", 409, "other bytes"),
        ("endless", 502, "length"),
        ("missing", 502, "does not have it"),
    ],
)
async def test_source_is_not_trusted(
    tmp_path: Path,
    session: aiohttp.ClientSession,
    key: SecretKey,
    source: tuple[str, list[str]],
    place: str,
    status: int,
    reason: str,
) -> None:
    async with blob_server(tmp_path) as origin:
        found = await mirror(session, origin, f"{source[0]}/{place}/{DIGEST.hex()}.bin", key)
        assert found[0] == status
        assert reason in found[1]
        kept = [path.name for folder in ("blobs", "incoming") for path in (tmp_path / folder).iterdir()]
        assert kept == ([DIGEST.hex()] if status == 201 else [])


async def test_private_address_is_not_asked(
    tmp_path: Path, session: aiohttp.ClientSession, key: SecretKey, source: tuple[str, list[str]]
) -> None:
    async with blob_server(tmp_path, mirror_private=False) as origin:
        status, reason = await mirror(session, origin, f"{source[0]}/good/{DIGEST.hex()}", key)
        assert (status, "not a public https address" in reason) == (400, True)
        url = f"https://localhost.example.invalid/{DIGEST.hex()}"
        assert (await mirror(session, origin, url, key))[0] == 502  # the name has no address
    assert source[1] == []


async def test_slow_source_is_left_at_the_deadline() -> None:
    async with blossom_server() as slow:
        slow.script = lambda _: Answer(status=404, body=bytes(40), trickle=True)
        raw_request = json.dumps({"url": f"{slow.url}/{DIGEST.hex()}"}).encode()
        source = MirrorSource.parse(raw_request, only_public=False)
        with pytest.raises(TransportError, match="no answer in time"):
            async with source.open(only_public=False, timeouts=Timeouts(request_s=0.1)):
                pass


async def test_mirror_that_waits_for_its_source_counts(
    tmp_path: Path, session: aiohttp.ClientSession, key: SecretKey
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await answer.wait()
        writer.close()

    async with (
        await asyncio.start_server(hold, "127.0.0.1", 0) as source,
        blob_server(tmp_path, limits=BlobLimits(max_uploads=1)) as origin,
    ):
        url = f"http://127.0.0.1:{source.sockets[0].getsockname()[1]}/{DIGEST.hex()}"
        waiting = asyncio.create_task(mirror(session, origin, url, key))
        await asked.wait()
        async with session.put(f"{origin}/upload", data=BLOB, headers=token(key, origin)) as response:
            status = response.status
        answer.set()
        assert (status, (await waiting)[0]) == (503, 502)


async def test_request_that_arrives_too_slowly_is_refused(
    tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay_client.blossom.blob_http._SMALL_BODY_S", 0.1)
    async with blob_server(tmp_path) as origin:
        reader, writer = await asyncio.open_connection(*origin.removeprefix("http://").split(":"))
        authorization = token(key, origin)["Authorization"]
        head = f"PUT /mirror HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nAuthorization: {authorization}\r\n\r\n"
        writer.write(head.encode())

        async def trickle() -> None:
            for _ in range(100):
                writer.write(b" ")
                await asyncio.sleep(0.02)

        sending = asyncio.create_task(trickle())
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        assert not sending.done()
        sending.cancel()
        writer.close()
        await writer.wait_closed()


async def test_limits_hold_for_mirrors(
    tmp_path: Path, session: aiohttp.ClientSession, key: SecretKey, stranger: SecretKey, source: tuple[str, list[str]]
) -> None:
    url = f"{source[0]}/good/{DIGEST.hex()}"
    limits = BlobLimits(max_blob_size=len(BLOB) - 1)
    async with blob_server(tmp_path, limits=limits, may_upload=lambda pubkey: pubkey == key.pubkey) as origin:
        assert (await mirror(session, origin, url, key))[0] == 413
        assert (await mirror(session, origin, url, stranger))[0] == 403
        assert (await mirror(session, origin, url, key, bytes(32)))[0] == 401
        headers = token(key, origin)
        async with session.put(f"{origin}/mirror", data=b"x" * 20_000, headers=headers) as response:
            assert response.status == 413
    assert len(source[1]) == 1


@pytest.mark.parametrize(
    "url",
    [
        f"http://blobs.example/{DIGEST.hex()}",
        f"https://127.0.0.1/{DIGEST.hex()}",
        f"https://[::1]/{DIGEST.hex()}",
        f"https://[::ffff:127.0.0.1]/{DIGEST.hex()}",
        f"https://localhost/{DIGEST.hex()}",
        f"https://10.0.0.1/{DIGEST.hex()}",
        f"https://169.254.169.254/{DIGEST.hex()}",
        f"https://0x7f000001/{DIGEST.hex()}",
        f"https://user@blobs.example/{DIGEST.hex()}",
        f"ftp://blobs.example/{DIGEST.hex()}",
        f"https://blobs.example/?x={DIGEST.hex()}",
        "https://blobs.example/",
        "",
    ],
)
def test_address_that_must_not_be_read_is_refused(url: str) -> None:
    with pytest.raises(InvalidResponse):
        MirrorSource.parse(json.dumps({"url": url}).encode(), only_public=True)


@pytest.mark.parametrize("raw_request", [b"", b"[]", b"{}", b'{"url": 7}', b"\xff"])
def test_malformed_request_is_refused(raw_request: bytes) -> None:
    with pytest.raises(InvalidResponse):
        MirrorSource.parse(raw_request, only_public=False)


def test_address_keeps_its_query() -> None:
    url = f"https://Blobs.Example/x/{DIGEST.hex()}.bin?xs=1"
    source = MirrorSource.parse(json.dumps({"url": url}).encode(), only_public=True)
    assert source.url == url.replace("Blobs.Example", "blobs.example")
    assert (source.origin, source.sha256) == ("https://blobs.example", DIGEST)
