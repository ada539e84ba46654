"""The client of one Blossom server, against honest and lying ones on real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import orjson
import pytest
from support.blossom_server import Answer, Asked, BlossomServer, blossom_server

from relay_client.blossom.client import MAX_UPLOADS, BlossomClient
from relay_client.errors import InvalidResponse, PeerError, ServerRefused, SignerRefused, TransportError
from relay_client.timeouts import Timeouts

DATA = bytes(range(256)) * 1_000
SIZE = len(DATA)
FAST = Timeouts(connect_s=2, answer_s=0.3, request_s=0.5, rate_limit_first_s=0.01)


@pytest.fixture
async def server() -> AsyncIterator[BlossomServer]:
    async with blossom_server() as running:
        yield running


@pytest.fixture
async def client(server: BlossomServer) -> AsyncIterator[BlossomClient]:
    async with BlossomClient(server.url, timeouts=FAST) as opened:
        yield opened


def body_of(data: bytes) -> Callable[[], AsyncIterator[bytes]]:
    async def opened() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    return opened


async def token(fresh: bool) -> str:  # noqa: FBT001 (the client's type)
    return f"Nostr {'second' if fresh else 'first'}"


async def read(client: BlossomClient, sha256: bytes, start: int, end: int) -> bytes:
    async with client.open_blob(sha256, size=SIZE, start=start, end=end) as stream:
        await stream.skip(start - stream.offset)
        return await stream.read(end - start)


@pytest.mark.parametrize(("start", "end"), [(0, SIZE), (0, 10), (1_000, 90_000), (SIZE - 1, SIZE)])
async def test_range_is_read(client: BlossomClient, server: BlossomServer, start: int, end: int) -> None:
    assert await read(client, server.add(DATA), start, end) == DATA[start:end]
    (asked,) = server.asked
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.range == (None if (start, end) == (0, SIZE) else (start, end - 1))


async def test_range_that_breaks_off_is_read_again(client: BlossomClient, server: BlossomServer) -> None:
    digest = server.add(DATA)

    def break_off(asked: Asked) -> Answer | None:
        honest = server.honest(asked)
        broken = Answer(status=206, headers={**honest.headers, "Content-Length": "1000"}, body=honest.body[:9])
        return broken if len(server.asked) < 3 else None

    server.script = break_off
    assert await client.read_range(digest, size=SIZE, start=500, end=1_500) == DATA[500:1_500]
    assert len(server.asked) == 3


async def test_whole_blob_in_answer_to_a_range_is_used(client: BlossomClient, server: BlossomServer) -> None:
    digest = server.add(DATA)
    server.script = lambda _: Answer(body=DATA)
    assert await read(client, digest, 5_000, 6_000) == DATA[5_000:6_000]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=206, headers={"Content-Range": f"bytes 0-999/{SIZE}"}, body=DATA[:1_000]),
        Answer(status=206, headers={"Content-Range": f"bytes 1000-1999/{SIZE - 1}"}, body=DATA[1_000:2_000]),
        Answer(status=206, body=DATA[1_000:2_000]),
        Answer(body=DATA[:-1]),
        Answer(headers={"Content-Encoding": "gzip"}, body=DATA),
        Answer(status=204),
    ],
    ids=["another range", "another size", "no range", "another length", "gzip", "no content"],
)
async def test_wrong_answer_is_refused(client: BlossomClient, server: BlossomServer, answer: Answer) -> None:
    digest = server.add(DATA)
    server.script = lambda _: answer
    with pytest.raises(InvalidResponse, match=server.url):
        await read(client, digest, 1_000, 2_000)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(headers={"Content-Length": str(SIZE)}, body=DATA[:-1]),
        Answer(headers={"Content-Length": ""}, body=DATA[:-1]),
        Answer(headers={"Content-Length": str(SIZE)}, body=DATA[:-1], hang=True),
    ],
    ids=["short", "short without length", "silent"],
)
async def test_body_that_does_not_arrive_ends(client: BlossomClient, server: BlossomServer, answer: Answer) -> None:
    digest = server.add(DATA)
    server.script = lambda _: answer
    with pytest.raises(TransportError, match=server.url):
        await asyncio.wait_for(read(client, digest, 0, SIZE), 30)


async def test_trickle_does_not_put_the_end_off(client: BlossomClient, server: BlossomServer) -> None:
    digest = server.add(DATA)
    span = f"bytes 0-999/{SIZE}"
    server.script = lambda _: Answer(status=206, headers={"Content-Range": span}, body=DATA[:1_000], trickle=True)
    with pytest.raises(TransportError, match="no answer in time"):
        await asyncio.wait_for(read(client, digest, 0, 1_000), 30)


async def test_endless_body_is_left_at_the_last_wanted_byte(client: BlossomClient, server: BlossomServer) -> None:
    digest = server.add(DATA)
    server.script = lambda _: Answer(headers={"Content-Length": ""}, body=DATA, endless=True)
    assert await read(client, digest, 0, SIZE) == DATA
    assert server.served < SIZE + (8 << 20)


async def test_blob_of_unknown_size_is_read_up_to_a_limit(client: BlossomClient, server: BlossomServer) -> None:
    digest = server.add(DATA)
    assert await client.get(digest, max_size=SIZE) == DATA
    with pytest.raises(InvalidResponse):
        await client.get(digest, max_size=SIZE - 1)
    server.script = lambda _: Answer(headers={"Content-Length": ""}, endless=True)
    with pytest.raises(InvalidResponse):
        await client.get(digest, max_size=SIZE)


@pytest.mark.parametrize("target", ["http://127.0.0.1:1", "https://127.0.0.1:1", "https://localhost"])
async def test_redirect_into_this_network_is_refused(client: BlossomClient, server: BlossomServer, target: str) -> None:
    digest = server.add(DATA)
    server.script = lambda asked: Answer(status=307, headers={"Location": f"{target}{asked.path}"})
    with pytest.raises(InvalidResponse, match="public"):
        await read(client, digest, 0, SIZE)


async def test_redirect_to_another_blob_is_refused(client: BlossomClient, server: BlossomServer) -> None:
    digest, other = server.add(DATA), server.add(b"other")
    server.script = lambda _: Answer(status=302, headers={"Location": f"/{other.hex()}"})
    with pytest.raises(InvalidResponse, match="another blob"):
        await read(client, digest, 0, SIZE)
    assert len(server.asked) == 1


async def test_redirects_on_the_same_server_are_followed_twice(client: BlossomClient, server: BlossomServer) -> None:
    digest = server.add(DATA)

    def script(asked: Asked) -> Answer | None:
        depth = asked.path.count("/")
        return Answer(status=308, headers={"Location": f"/x{asked.path}"}) if depth <= allowed else Answer(body=DATA)

    allowed = 2
    server.script = script
    assert await read(client, digest, 0, SIZE) == DATA
    allowed = 3
    with pytest.raises(InvalidResponse, match="redirects more than"):
        await read(client, digest, 0, SIZE)


async def test_upload_is_never_redirected(client: BlossomClient, server: BlossomServer) -> None:
    server.script = lambda asked: Answer(status=307, headers={"Location": f"{server.url}{asked.path}"})
    with pytest.raises(ServerRefused):
        await client.upload(server.add(DATA), SIZE, body_of(DATA), token)
    assert len(server.asked) == 1


async def test_hinted_server_must_have_a_public_address(server: BlossomServer, monkeypatch: pytest.MonkeyPatch) -> None:
    port = server.url.rpartition(":")[2]

    async def resolve(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    async with BlossomClient(f"https://blobs.example:{port}", only_public=True, timeouts=FAST) as hinted:
        with pytest.raises(TransportError, match="not a public address"):
            await read(hinted, server.add(DATA), 0, SIZE)
    assert not server.asked


async def test_upload_returns_the_descriptor(client: BlossomClient, server: BlossomServer) -> None:
    digest = BlossomServer().add(DATA)
    found = await client.upload(digest, SIZE, body_of(DATA), token)
    assert (found.sha256, found.size) == (digest, SIZE)
    assert server.blobs[digest.hex()] == DATA
    (asked,) = server.asked
    assert asked.headers["authorization"] == "Nostr first"
    assert asked.headers["content-type"] == "application/octet-stream"
    assert asked.headers["x-sha-256"] == digest.hex()
    assert "transfer-encoding" not in asked.headers


async def test_upload_renews_a_refused_token_once(client: BlossomClient, server: BlossomServer) -> None:
    server.script = lambda _: Answer(status=401, body=b"invalid base64")
    with pytest.raises(ServerRefused, match="does not accept the authorization: invalid base64"):
        await client.upload(server.add(DATA), SIZE, body_of(DATA), token)
    assert [asked.headers["authorization"] for asked in server.asked] == ["Nostr first", "Nostr second"]


async def test_signer_that_refuses_is_asked_once(client: BlossomClient, server: BlossomServer) -> None:
    asked = []

    async def refuse(fresh: bool) -> str:  # noqa: FBT001 (the client's type)
        asked.append(fresh)
        raise SignerRefused("not now")

    with pytest.raises(SignerRefused, match="not now"):
        await client.upload(server.add(DATA), SIZE, body_of(DATA), refuse)
    assert asked == [False]
    assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(status=413, headers={"X-Reason": "at most 20 MB"}), "takes no file of this size: at most 20 MB"),
        (Answer(status=415, body=b'{"message":"images only"}'), "takes no model files .*: images only"),
        (Answer(status=402, headers={"X-Lightning": "lnbc10u1p0x"}), r"payment \(Lightning, 1,000 sat\), which is ne"),
        (Answer(status=402, headers={"X-Cashu": "creqA"}), r"payment \(Cashu\)"),
        (Answer(status=403, body=b"<h1>", headers={"Content-Type": "text/html"}), "refuses this key or file$"),
        (Answer(status=507, body=b"a\x1b[2Jb"), "no space left: a .2Jb"),
        (
            Answer(status=308, headers={"Location": "https://b.example/upload"}),
            "redirects to .https://b.example/upload",
        ),
        (Answer(status=418), "HTTP status 418"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else "",
)
async def test_refusal_is_told_in_words(
    client: BlossomClient, server: BlossomServer, answer: Answer, words: str
) -> None:
    server.script = lambda _: answer
    with pytest.raises(ServerRefused, match=words):
        await client.upload(server.add(DATA), SIZE, body_of(DATA), token)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_busy_server_is_asked_again(client: BlossomClient, server: BlossomServer, status: int) -> None:
    digest = server.add(DATA)
    server.script = lambda _: Answer(status=status) if len(server.asked) < 4 else None
    await client.upload(digest, SIZE, body_of(DATA), token)
    server.asked.clear()
    assert await read(client, digest, 0, SIZE) == DATA
    assert len(server.asked) == 4


async def test_busy_server_is_asked_when_it_says(
    client: BlossomClient, server: BlossomServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    answers = iter(["7", "999999", "soon", ""])
    server.script = lambda _: Answer(status=503, headers={"Retry-After": text}) if (text := next(answers, "")) else None
    monkeypatch.setattr("relay_client.blossom.transport.asyncio.sleep", sleep)
    assert await client.has(server.add(DATA), SIZE)
    assert waits == [7, 60, 0.04]


async def test_server_that_stays_busy_is_given_up(client: BlossomClient, server: BlossomServer) -> None:
    server.script = lambda _: Answer(status=503)
    with pytest.raises(TransportError, match="is busy"):
        await read(client, server.add(DATA), 0, SIZE)


async def test_upload_survives_a_failing_server(client: BlossomClient, server: BlossomServer) -> None:
    server.script = lambda _: Answer(status=502) if len(server.asked) < 3 else None
    await client.upload(server.add(DATA), SIZE, body_of(DATA), token)
    assert len(server.asked) == 3


@pytest.mark.parametrize("body", [b"", orjson.dumps({"sha256": "00" * 32, "size": SIZE})], ids=["empty", "another"])
async def test_success_without_our_blob_is_refused(
    client: BlossomClient, server: BlossomServer, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay_client.blossom.client._CONFIRM_WAIT_S", 0.001)
    digest = server.add(DATA)
    server.script = lambda _: Answer(status=200, body=body)
    with pytest.raises(InvalidResponse):
        await client.upload(digest, SIZE, body_of(DATA), token)
    with pytest.raises(InvalidResponse):
        await client.mirror("https://blobs.example", digest, SIZE, token)


async def test_mirrored_blob_is_copied(client: BlossomClient, server: BlossomServer) -> None:
    digest = server.add(DATA)
    assert (await client.mirror("https://blobs.example", digest, SIZE, token)).size == SIZE
    assert orjson.loads(server.asked[0].body) == {"url": f"https://blobs.example/{digest.hex()}"}


async def test_error_of_the_file_is_not_the_servers(client: BlossomClient, server: BlossomServer) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield DATA[:100]
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        await client.upload(server.add(DATA), SIZE, broken, token)


async def test_few_uploads_run_at_a_time(client: BlossomClient, server: BlossomServer) -> None:
    digest = server.add(DATA)
    await asyncio.gather(*(client.upload(digest, SIZE, body_of(DATA), token) for _ in range(6)))
    assert 1 <= server.largest <= MAX_UPLOADS


async def test_upload_that_stalls_ends(client: BlossomClient, server: BlossomServer) -> None:
    server.script = lambda _: Answer(headers={"Content-Length": "9"}, hang=True)
    with pytest.raises(TransportError, match="no answer in time"):
        await client.upload(server.add(DATA), SIZE, body_of(DATA), token)


async def test_has_trusts_no_other_size(client: BlossomClient, server: BlossomServer) -> None:
    digest = server.add(DATA)
    assert await client.has(digest, SIZE)
    assert not await client.has(digest, SIZE - 1)
    assert not await client.has(bytes(32), SIZE)
    server.script = lambda _: Answer(headers={"Content-Length": ""})
    assert await client.has(digest, SIZE)


@pytest.mark.parametrize("status", [200, 204, 400, 401, 404, 405, 500])
async def test_upload_may_be_tried(client: BlossomClient, server: BlossomServer, status: int) -> None:
    server.script = lambda _: Answer(status=status)
    await client.check_upload(bytes(32), SIZE)
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("HEAD", "/upload")
    assert (asked.headers["x-content-length"], asked.headers["x-sha-256"]) == (str(SIZE), "00" * 32)


async def test_upload_is_refused_before_anything_is_signed(client: BlossomClient, server: BlossomServer) -> None:
    server.script = lambda _: Answer(status=415, headers={"X-Reason": "media only"})
    with pytest.raises(ServerRefused, match="media only"):
        await client.check_upload(bytes(32), SIZE)


async def test_deleted_blob_is_gone(client: BlossomClient, server: BlossomServer) -> None:
    digest = server.add(DATA)
    assert await client.delete(digest, token)
    assert not server.blobs
    assert not await client.delete(digest, token)


async def test_statuses_of_other_servers_mean_the_same(client: BlossomClient, server: BlossomServer) -> None:
    digest = server.add(DATA)
    stored = orjson.dumps({"sha256": digest.hex(), "size": SIZE, "url": "http://10.0.0.1/x"})
    server.script = lambda _: Answer(status=200, body=stored)  # there already
    assert (await client.upload(digest, SIZE, body_of(DATA), token)).size == SIZE
    server.script = lambda _: Answer(status=200, body=b'{"deleted":true}')
    assert await client.delete(digest, token)
    server.script = lambda _: Answer(status=410)
    assert not await client.has(digest, SIZE)


async def test_unreachable_server_is_named() -> None:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{probe.getsockname()[1]}"
        async with BlossomClient(origin, timeouts=FAST) as client:
            with pytest.raises(TransportError, match=origin):
                await client.has(bytes(32), 1)


def test_errors_of_servers_have_their_category() -> None:
    assert issubclass(InvalidResponse, PeerError)
    assert issubclass(ServerRefused, TransportError)
