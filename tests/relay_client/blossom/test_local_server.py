"""The built-in Blossom server over real HTTP: BUD-01, 02, 06, 11, 12, its limits, and what it answers in words."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.blossom import blob_server
from support.command import background

from relay_client.blossom.blob_limits import BlobLimits
from relay_client.blossom.local_server import LocalBlobServer
from relay_client.blossom.token import Verb, encode_header, token_draft
from relay_client.errors import CallerError
from relay_client.keys import SecretKey

BLOB = b"".join(hashlib.sha256(bytes([n % 256, n >> 8])).digest() for n in range(3125))  # 100,000 bytes
DIGEST = hashlib.sha256(BLOB).digest()
ABSENT = bytes(32)


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


def token(key: SecretKey, verb: Verb, origin: str, *hashes: bytes, now: float | None = None) -> dict[str, str]:
    draft = token_draft(verb, hashes=hashes or (DIGEST,), origins=[origin], now=int(now or time.time()))
    return {"Authorization": encode_header(draft.sign(key))}


async def put(
    web: aiohttp.ClientSession,
    origin: str,
    key: SecretKey,
    blob: bytes = BLOB,
    media_type: str = "application/octet-stream",
) -> aiohttp.ClientResponse:
    allowed = token(key, Verb.UPLOAD, origin, hashlib.sha256(blob).digest())
    response = await web.put(f"{origin}/upload", data=blob, headers=allowed | {"Content-Type": media_type})
    await response.read()
    return response


def files(folder: Path) -> list[str]:
    return [path.name for name in ("blobs", "incoming") for path in (folder / name).iterdir()]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (files tell no one)
            await asyncio.sleep(0.01)


async def test_uploaded_blob_is_served(tmp_path: Path, web: aiohttp.ClientSession, key: SecretKey) -> None:
    async with blob_server(tmp_path) as origin:
        first, second = [await put(web, origin, key, media_type="text/plain; charset=utf-8") for _ in range(2)]
        assert (first.status, second.status) == (201, 200)
        described = await first.json()
        assert await second.json() == described
        assert described["sha256"] == DIGEST.hex()
        assert (described["size"], described["type"]) == (len(BLOB), "text/plain")
        assert abs(described["uploaded"] - time.time()) < 600
        for url in (described["url"], f"{origin}/{DIGEST.hex()}", f"{origin}/{DIGEST.hex().upper()}.pdf"):
            response = await web.get(url)
            assert await response.read() == BLOB
            assert (response.status, response.headers["Content-Type"]) == (200, "text/plain")
            assert "sandbox" in response.headers["Content-Security-Policy"]
            assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert files(tmp_path) == [DIGEST.hex()]


@pytest.mark.parametrize(
    ("wanted", "status", "start", "end"),
    [
        ("bytes=10-19", 206, 10, 20),
        ("bytes=99990-", 206, 99_990, 100_000),
        ("bytes=-5", 206, 99_995, 100_000),
        ("bytes=99990-200000", 206, 99_990, 100_000),
        ("bytes=0-0", 206, 0, 1),
        ("bytes=100000-", 416, 0, 0),
        ("bytes=5-1", 416, 0, 0),
    ],
)
async def test_ranges(
    tmp_path: Path, web: aiohttp.ClientSession, key: SecretKey, wanted: str, status: int, start: int, end: int
) -> None:
    async with blob_server(tmp_path) as origin:
        await put(web, origin, key)
        response = await web.get(f"{origin}/{DIGEST.hex()}", headers={"Range": wanted})
        assert response.status == status
        if status == 206:
            assert await response.read() == BLOB[start:end]
            assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(BLOB)}"
        else:
            assert response.headers["Content-Range"] == f"bytes */{len(BLOB)}"


async def test_head_tells_length_and_ranges(tmp_path: Path, web: aiohttp.ClientSession, key: SecretKey) -> None:
    async with blob_server(tmp_path) as origin:
        await put(web, origin, key)
        response = await web.head(f"{origin}/{DIGEST.hex()}")
        assert response.status == 200
        assert response.headers["Content-Length"] == str(len(BLOB))
        assert response.headers["Accept-Ranges"] == "bytes"
        assert (await web.head(f"{origin}/{ABSENT.hex()}")).status == 404
        missing = await web.get(f"{origin}/{ABSENT.hex()}")
        assert (missing.status, missing.headers["X-Reason"]) == (404, "no such blob")
        assert (await web.get(f"{origin}/robots.txt")).status == 404


async def test_preflight_allows_every_page(tmp_path: Path, web: aiohttp.ClientSession) -> None:
    async with blob_server(tmp_path) as origin:
        for path in ("upload", "mirror", DIGEST.hex()):
            response = await web.options(f"{origin}/{path}")
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert response.headers["Access-Control-Allow-Headers"] == "Authorization, *"
            assert response.headers["Access-Control-Allow-Methods"] == "GET, HEAD, PUT, DELETE"
        assert (await web.put(f"{origin}/upload", data=b"x")).headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize(
    ("make", "status", "reason"),
    [
        (lambda _key, _origin: {}, 401, "token is required"),
        (lambda _key, _origin: {"Authorization": "Bearer x"}, 401, "not a Nostr token"),
        (lambda key, origin: token(key, Verb.DELETE, origin), 401, "allows delete, not upload"),
        (lambda key, origin: token(key, Verb.UPLOAD, origin, ABSENT), 401, "another blob"),
        (lambda key, _origin: token(key, Verb.UPLOAD, "https://other.example"), 401, "another server"),
        (lambda key, origin: token(key, Verb.UPLOAD, origin, now=time.time() - 4000), 401, "expired"),
        (lambda key, origin: token(key, Verb.UPLOAD, origin) | {"X-SHA-256": "x"}, 400, "not a SHA-256"),
        (lambda key, o: token(key, Verb.UPLOAD, o, DIGEST, ABSENT) | {"X-SHA-256": ABSENT.hex()}, 409, "X-SHA-256"),
    ],
    ids=["no token", "bearer", "verb", "blob", "server", "expired", "no hash", "other hash"],
)
async def test_upload_without_valid_token_stores_nothing(
    tmp_path: Path,
    web: aiohttp.ClientSession,
    key: SecretKey,
    make: Callable[[SecretKey, str], dict[str, str]],
    status: int,
    reason: str,
) -> None:
    async with blob_server(tmp_path) as origin:
        response = await web.put(f"{origin}/upload", data=BLOB, headers=make(key, origin))
        assert response.status == status
        assert reason in response.headers["X-Reason"]
        assert reason in await response.text()
        assert files(tmp_path) == []


async def test_host_header_does_not_name_the_server(tmp_path: Path, web: aiohttp.ClientSession, key: SecretKey) -> None:
    # A server that was given a token for itself could otherwise use it here.
    async with blob_server(tmp_path) as origin:
        headers = token(key, Verb.UPLOAD, "https://other.example") | {"Host": "other.example"}
        assert (await web.put(f"{origin}/upload", data=BLOB, headers=headers)).status == 401
    async with LocalBlobServer(folder=tmp_path, url="https://blobs.example") as server:
        assert server._listening
        address = server._listening.sockets[0].getsockname()
        here = f"http://{address[0]}:{address[1]}"
        response = await web.put(f"{here}/upload", data=BLOB, headers=token(key, Verb.UPLOAD, "https://blobs.example"))
        assert response.status == 201
        assert (await response.json())["url"] == f"https://blobs.example/{DIGEST.hex()}.bin"


async def test_only_listed_keys_upload(
    tmp_path: Path, web: aiohttp.ClientSession, key: SecretKey, stranger: SecretKey
) -> None:
    async with blob_server(tmp_path, may_upload=lambda pubkey: pubkey == key.pubkey) as origin:
        refused = await put(web, origin, stranger)
        assert (refused.status, refused.headers["X-Reason"]) == (403, "this key may not upload here")
        assert (await put(web, origin, key)).status == 201


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        ({"max_blob_size": len(BLOB) - 1}, 413),
        ({"types": frozenset({"text/plain"})}, 415),
        ({"max_total_size": len(BLOB) - 1}, 507),
    ],
    ids=["size", "type", "quota"],
)
async def test_limits_are_checked_before_and_at_upload(
    tmp_path: Path, web: aiohttp.ClientSession, key: SecretKey, limits: dict[str, Any], status: int
) -> None:
    wanted = {"X-SHA-256": DIGEST.hex(), "X-Content-Length": str(len(BLOB)), "X-Content-Type": "image/png"}
    async with blob_server(tmp_path / "a", limits=BlobLimits(**limits)) as origin:
        assert (await web.head(f"{origin}/upload", headers=wanted)).status == status
        assert (await put(web, origin, key)).status == status
        assert files(tmp_path / "a") == []
    async with blob_server(tmp_path / "b") as origin:
        assert (await web.head(f"{origin}/upload", headers=wanted)).status == 200
        other = token(key, Verb.UPLOAD, origin, ABSENT)
        assert (await web.head(f"{origin}/upload", headers=wanted | other)).status == 401


async def test_refused_upload_is_not_sent(tmp_path: Path, key: SecretKey) -> None:
    # A client that sends `Expect: 100-continue` sends its blob only when it is asked to.
    async with blob_server(tmp_path, limits=BlobLimits(max_blob_size=len(BLOB))) as origin:
        host, port = origin.removeprefix("http://").split(":")
        for size, answer in ((len(BLOB) + 1, b"HTTP/1.1 413"), (len(BLOB), b"HTTP/1.1 100")):
            reader, writer = await asyncio.open_connection(host, int(port))
            authorization = token(key, Verb.UPLOAD, origin)["Authorization"]
            head = (
                f"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\nExpect: 100-continue\r\n"
                f"Authorization: {authorization}\r\n\r\n"
            )
            writer.write(head.encode())
            assert (await reader.readline()).startswith(answer)
            if size == len(BLOB):
                await reader.readline()
                writer.write(BLOB)
                assert (await reader.readline()).startswith(b"HTTP/1.1 201")
            writer.close()


async def test_broken_off_upload_leaves_nothing(
    tmp_path: Path, key: SecretKey, caplog: pytest.LogCaptureFixture
) -> None:
    async with blob_server(tmp_path, limits=BlobLimits(max_total_size=len(BLOB))) as origin:
        host, port = origin.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        authorization = token(key, Verb.UPLOAD, origin)["Authorization"]
        head = (
            f"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BLOB)}\r\nAuthorization: {authorization}\r\n\r\n"
        )
        writer.write(head.encode() + BLOB[:1000])
        await writer.drain()
        await until(lambda: files(tmp_path) != [])
        writer.close()
        await until(lambda: files(tmp_path) == [])
        async with aiohttp.ClientSession() as web:  # its room is free again
            assert (await put(web, origin, key)).status == 201
    assert caplog.records == []  # the disk is fine


async def test_blob_goes_with_its_last_owner(
    tmp_path: Path, web: aiohttp.ClientSession, key: SecretKey, stranger: SecretKey
) -> None:
    async with blob_server(tmp_path) as origin:
        url = f"{origin}/{DIGEST.hex()}"
        await put(web, origin, key)
        refused = await web.delete(url, headers=token(stranger, Verb.DELETE, origin))
        assert (refused.status, refused.headers["X-Reason"]) == (403, "this key did not upload the blob")
        await put(web, origin, stranger)
        for owner, left in ((key, 200), (stranger, 404)):
            assert (await web.delete(url)).status == 401
            assert (await web.delete(url, headers=token(owner, Verb.DELETE, origin))).status == 204
            assert (await web.get(url)).status == left
        assert (await web.delete(url, headers=token(key, Verb.DELETE, origin))).status == 404
    assert files(tmp_path) == []


async def test_list_has_pages(tmp_path: Path, web: aiohttp.ClientSession, key: SecretKey, stranger: SecretKey) -> None:
    async with blob_server(tmp_path) as origin:
        for number in range(3):
            await put(web, origin, key, bytes([number]))
        await put(web, origin, stranger)
        whole = await (await web.get(f"{origin}/list/{key.pubkey.hex()}")).json()
        assert {each["size"] for each in whole} == {1}
        assert len(whole) == 3
        page = {"limit": "1", "cursor": whole[0]["sha256"]}
        assert await (await web.get(f"{origin}/list/{key.pubkey.hex()}", params=page)).json() == whole[1:2]


async def test_blobs_survive_a_restart(tmp_path: Path, web: aiohttp.ClientSession, key: SecretKey) -> None:
    async with blob_server(tmp_path) as origin:
        await put(web, origin, key)
    async with blob_server(tmp_path) as origin:
        assert await (await web.get(f"{origin}/{DIGEST.hex()}")).read() == BLOB
        [listed] = await (await web.get(f"{origin}/list/{key.pubkey.hex()}")).json()
        assert listed["sha256"] == DIGEST.hex()
        with pytest.raises(CallerError, match="in use by another Blossom server"):
            await LocalBlobServer(folder=tmp_path).__aenter__()


async def test_port_in_use_is_an_error(tmp_path: Path) -> None:
    async with blob_server(tmp_path / "a") as origin:
        port = int(origin.rpartition(":")[2])
        with pytest.raises(CallerError, match=f"cannot listen on 127.0.0.1:{port}"):
            await LocalBlobServer(folder=tmp_path / "b", port=port).__aenter__()


@pytest.mark.full
async def test_killed_server_keeps_whole_blobs_only(tmp_path: Path, free_port: int, unused_port: int) -> None:
    words = ("relay", "--port", free_port, "--blobs", unused_port, "--open", "--data", tmp_path / "data")
    origin, folder, key = f"http://127.0.0.1:{unused_port}", tmp_path / "data" / "blossom", SecretKey.generate()
    other = BLOB[::-1]
    with background(tmp_path, *words) as (process, _):
        async with aiohttp.ClientSession() as web:
            assert (await put(web, origin, key)).status == 201
        _, writer = await asyncio.open_connection("127.0.0.1", unused_port)
        authorization = token(key, Verb.UPLOAD, origin, hashlib.sha256(other).digest())["Authorization"]
        head = (
            f"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(other)}\r\nAuthorization: {authorization}\r\n\r\n"
        )
        writer.write(head.encode() + other[:1000])
        await until(lambda: len(files(folder)) == 2)
        process.kill()
        process.wait()
        writer.close()
    with background(tmp_path, *words):
        assert files(folder) == [DIGEST.hex()]
        async with aiohttp.ClientSession() as web:
            assert await (await web.get(f"{origin}/{DIGEST.hex()}")).read() == BLOB
            assert (await put(web, origin, key, other)).status == 201


@pytest.mark.parametrize("expect", [b"\xcd00-continue", b"tea", b"100-Continue"])
@pytest.mark.parametrize(("target", "status"), [(b"/nothing", b"404"), (b"/" + ABSENT.hex().encode(), b"404")])
async def test_unknown_expectation_is_ignored(tmp_path: Path, expect: bytes, target: bytes, status: bytes) -> None:
    async with blob_server(tmp_path) as origin:
        host, port = origin.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: %b\r\n\r\n" % (target, expect))
        reply = await reader.read()
        writer.close()
    assert b"HTTP/1.1 %b " % status in reply
