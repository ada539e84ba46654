"""What servers that are not ours answer to uploads and requests, and how the client bears it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from support.blossom import FAST
from support.blossom_server import Answer, Asked, BlossomServer, blossom_server
from support.tcp_server import tcp_server

from relay_client.blossom.client import BlossomClient
from relay_client.blossom.response import retry_after_s
from relay_client.errors import ServerRefused

DATA = b"".join(number.to_bytes(2, "big") for number in range(20_000))
SIZE = len(DATA)


@pytest.fixture
async def server() -> AsyncIterator[BlossomServer]:
    async with blossom_server() as running:
        yield running


@pytest.fixture
async def client(server: BlossomServer) -> AsyncIterator[BlossomClient]:
    async with BlossomClient(server.url, timeouts=FAST) as opened:
        yield opened


async def body() -> AsyncIterator[bytes]:
    yield DATA


async def token(_fresh: bool) -> str:  # noqa: FBT001 (the client's type)
    return "Nostr token"


def answer_uploads(server: BlossomServer, answer: Answer, *, stored_after: int | None) -> None:
    """Answer uploads so; the server has the blob after this number of HEAD requests (None: never)."""

    def script(asked: Asked) -> Answer | None:
        if asked.method == "PUT":
            return answer
        if stored_after is not None and server.count("HEAD") > stored_after:
            server.add(DATA)
        return None

    server.script = script


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=201),
        Answer(status=202, body=b'{"status":"processing"}'),
        Answer(status=204),
        Answer(status=200, body=b'{"sha256":"' + BlossomServer().add(DATA).hex().encode() + b'"}'),
    ],
    ids=["created", "accepted", "no content", "no size"],
)
async def test_upload_without_a_descriptor_is_confirmed(
    client: BlossomClient, server: BlossomServer, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay_client.blossom.client._CONFIRM_WAIT_S", 0.001)
    digest = BlossomServer().add(DATA)
    answer_uploads(server, answer, stored_after=2)
    assert (await client.upload(digest, SIZE, body, token)).sha256 == digest
    assert (server.count("PUT"), server.count("HEAD")) == (1, 3)


async def test_conflict_with_the_blob_itself_is_success(client: BlossomClient, server: BlossomServer) -> None:
    digest = BlossomServer().add(DATA)
    answer_uploads(server, Answer(status=409, body=b"exists"), stored_after=0)
    assert (await client.upload(digest, SIZE, body, token)).size == SIZE
    server.blobs.clear()
    answer_uploads(server, Answer(status=409, body=b"hash mismatch"), stored_after=None)
    with pytest.raises(ServerRefused, match="other bytes than the hash names: hash mismatch"):
        await client.upload(digest, SIZE, body, token)


def test_busy_server_may_name_a_date() -> None:
    date = {"Date": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert retry_after_s(date | {"Retry-After": "Wed, 21 Oct 2015 07:28:09 GMT"}) == 9
    assert retry_after_s(date | {"Retry-After": "Wed, 21 Oct 2015 09:28:09 GMT"}) == 60
    assert retry_after_s(date | {"Retry-After": "Wed, 21 Oct 2015 07:27:00 GMT"}) == 0
    assert retry_after_s({"Retry-After": "Wed, 21 Oct 2015 07:28:09 GMT"}) is None


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    ],
    ids=["HTTP/1.0", "chunked", "interim response"],
)
async def test_body_without_a_length_is_read(head: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        chunked = b"chunked" in head
        writer.write(head + (b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, DATA) if chunked else DATA))
        await writer.drain()
        writer.close()

    async with tcp_server(answer) as port, BlossomClient(f"http://127.0.0.1:{port}", timeouts=FAST) as client:
        digest = BlossomServer().add(DATA)
        assert await client.get(digest, max_size=SIZE) == DATA
        assert await client.read_range(digest, size=SIZE, start=100, end=200) == DATA[100:200]


async def test_upload_that_is_refused_before_its_end_is_told_in_words() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nX-Reason: at most 1 MB\r\nContent-Length: 0\r\n\r\n")
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 20)

    async with tcp_server(answer) as port, BlossomClient(f"http://127.0.0.1:{port}", timeouts=FAST) as client:
        with pytest.raises(ServerRefused, match="no file of this size: at most 1 MB"):
            await client.upload(bytes(32), 1 << 40, endless, token)


@pytest.mark.parametrize(
    "spelled", ["bytes 100-199/{}", "Bytes 100-199/{}", "bytes=100-199/{}", " bytes 100 - 199 / * "]
)
@pytest.mark.parametrize("encoding", ["", "Identity"])
async def test_range_is_read_however_it_is_spelled(
    client: BlossomClient, server: BlossomServer, spelled: str, encoding: str
) -> None:
    headers = {"Content-Range": spelled.format(SIZE), "Content-Encoding": encoding}
    server.script = lambda _: Answer(status=206, headers=headers, body=DATA[100:200])
    assert await client.read_range(server.add(DATA), size=SIZE, start=100, end=200) == DATA[100:200]


@pytest.mark.parametrize("status", [408, 425, 500, 520])
async def test_request_that_may_succeed_later_is_repeated(
    client: BlossomClient, server: BlossomServer, status: int
) -> None:
    server.script = lambda _: Answer(status=status) if len(server.asked) < 3 else None
    assert await client.has(server.add(DATA), SIZE)
    assert len(server.asked) == 3
