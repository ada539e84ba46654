"""Connections over real websockets to honest, slow, broken and hostile relays."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import orjson
import pytest
from support.scripted_relay import ScriptedRelay
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from relay_client.connection import Connection
from relay_client.errors import CallerError, InvalidMessage, PeerError, RelayRefused, RelayTimeout, TransportError
from relay_client.event import Event, EventDraft
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.outcomes import OkReceived, Verdict
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts
from relay_client.url import normalize_url

KEY = SecretKey(bytes.fromhex("11" * 32))
EVENT = EventDraft(kind=1, created_at=1, content="hello").sign(KEY)
WANTED = Filter(ids=(EVENT.id,), limit=1)
IMPATIENT = Timeouts(answer_s=0.05)  # for relays that never answer
GIVE_UP_S = 60  # a test that waits this long has failed

Handler = Callable[[ServerConnection], Awaitable[None]]


@contextlib.asynccontextmanager
async def relay_that(handler: Handler) -> AsyncIterator[str]:
    """Address of a relay that runs `handler` for every connection."""
    async with serve(handler, "127.0.0.1", 0, compression=None, max_size=1 << 20) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


@contextlib.asynccontextmanager
async def opened(
    url: str, key: SecretKey | None = None, timeouts: Timeouts = DEFAULT_TIMEOUTS
) -> AsyncIterator[Connection]:
    async with asyncio.timeout(GIVE_UP_S):
        connection = await Connection.open(url, key, timeouts=timeouts)
        try:
            yield connection
        finally:
            await connection.close()


def answering(*frames: object) -> Handler:
    """Make a handler that answers the first message with these frames (JSON, or raw bytes) and then is silent."""

    async def handler(peer: ServerConnection) -> None:
        await peer.recv()
        for frame in frames:
            await peer.send(frame if isinstance(frame, bytes) else orjson.dumps(frame), text=True)
        async for _ in peer:
            pass

    return handler


@contextlib.asynccontextmanager
async def server_that_answers(answer: bytes | None) -> AsyncIterator[str]:
    """Address of a server that is no relay: it answers a request with this, or waits for the client to go if None."""
    done = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await reader.read()
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        done.set()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await done.wait()


def ignore(_raw_event: Mapping[str, object]) -> None:
    """Ignore an event."""


# --- connecting


async def test_unreachable_relay_is_an_error(free_port: int) -> None:
    with pytest.raises(TransportError, match=rf"^ws://127\.0\.0\.1:{free_port}: "):
        await Connection.open(f"ws://127.0.0.1:{free_port}")


@pytest.mark.parametrize("url", ["ws://relay..example", f"ws://{'a' * 64}.example", "ws://\udcff.example"], ids=ascii)
async def test_impossible_host_is_an_error(url: str) -> None:
    with pytest.raises((CallerError, TransportError)):
        await Connection.open(normalize_url(url))


@pytest.mark.parametrize("answer", [b"", b"220 mail ready\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
async def test_server_that_is_no_relay_is_an_error(answer: bytes) -> None:
    async with server_that_answers(answer) as url:
        with pytest.raises(TransportError, match=f"^{url}: .+"):
            await Connection.open(url)


@pytest.mark.parametrize(
    "status", [b"301 Moved Permanently", b"302 Found", b"307 Temporary Redirect", b"308 Permanent"]
)
@pytest.mark.parametrize("path", ["", "/inbox"], ids=["other origin", "same origin"])
async def test_redirect_is_not_followed(scripted: ScriptedRelay, status: bytes, path: str) -> None:
    target = path or scripted.url
    answer = b"HTTP/1.1 " + status + b"\r\nLocation: " + target.encode() + b"\r\nContent-Length: 0\r\n\r\n"
    async with server_that_answers(answer) as url:
        with pytest.raises(TransportError, match=f"^{url}: redirects to '{target}', which is not followed"):
            await Connection.open(url)
    assert scripted.connections == 0


async def test_endless_handshake_times_out() -> None:
    async with server_that_answers(None) as url:
        with pytest.raises(TransportError, match=f"^{url}: no answer in time"):
            await Connection.open(url, timeouts=Timeouts(connect_s=0.05))


async def test_close_passes_cancellation_on(scripted: ScriptedRelay) -> None:
    connection = await Connection.open(scripted.url)
    closing = asyncio.create_task(connection.close())
    await asyncio.sleep(0)  # it is waiting for the reader now
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing


# --- sending


async def test_sent_event_is_answered(scripted: ScriptedRelay) -> None:
    async with opened(scripted.url) as connection:
        await connection.send(EVENT)
        (first,) = await connection.answers()
        await connection.send(EVENT)
        (second,) = await connection.answers()
    assert first == OkReceived(event_id=EVENT.id, verdict=Verdict.ACCEPTED, reason="")
    assert second == OkReceived(event_id=EVENT.id, verdict=Verdict.DUPLICATE, reason="duplicate: have it")
    assert scripted.events == {EVENT.id.hex(): orjson.loads(EVENT.to_json())}


async def test_closed_connection_fails_every_call() -> None:
    async def handler(peer: ServerConnection) -> None:
        await peer.recv()
        await peer.close(1011, "out of disk")

    async with relay_that(handler) as url, opened(url) as connection:
        await connection.send(EVENT)
        with pytest.raises(TransportError, match="out of disk"):
            await connection.answers()
        with pytest.raises(TransportError, match="out of disk"):
            await connection.send(EVENT)
        with pytest.raises(TransportError, match="out of disk"):
            await connection.query(WANTED, ignore)


async def test_close_reason_is_safe_to_print() -> None:
    async def handler(peer: ServerConnection) -> None:
        await peer.send('["NOTICE","\\u001b[2J"]')
        await peer.close(1008, "\x1b[31mred\r\n\u202e")

    async with relay_that(handler) as url, opened(url) as connection:
        with pytest.raises(TransportError, match="red") as caught:
            await connection.query(WANTED, ignore)
    assert str(caught.value).isprintable()


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="Linux only")
async def test_answers_are_acknowledged_at_once(scripted: ScriptedRelay) -> None:
    # A relay without TCP_NODELAY holds the end of an answer back until its start is acknowledged.
    async with opened(scripted.url) as connection:
        for _ in range(20):
            await connection.query(WANTED, lambda _: None)
            opened_socket = connection._socket.transport.get_extra_info("socket")
            assert opened_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1


async def test_unanswered_event_times_out(scripted: ScriptedRelay) -> None:
    scripted.silent = True
    async with opened(scripted.url, timeouts=IMPATIENT) as connection:
        await connection.send(EVENT)
        with pytest.raises(TransportError, match="no answer"):
            await connection.answers()


async def test_notices_do_not_extend_the_timeout() -> None:
    async def handler(peer: ServerConnection) -> None:
        await peer.recv()
        with contextlib.suppress(ConnectionClosed):
            while True:
                await peer.send('["NOTICE","busy"]')
                await asyncio.sleep(IMPATIENT.answer_s / 10)

    async with relay_that(handler) as url, opened(url, timeouts=IMPATIENT) as connection:
        with pytest.raises(TransportError, match=r"no answer.*it said: busy"):
            await connection.query(WANTED, ignore)


async def test_challenges_do_not_extend_the_timeout() -> None:
    async def handler(peer: ServerConnection) -> None:
        await peer.recv()
        with contextlib.suppress(ConnectionClosed):
            while True:
                await peer.send('["AUTH","who?"]')
                await asyncio.sleep(IMPATIENT.answer_s / 10)

    async with relay_that(handler) as url, opened(url, timeouts=IMPATIENT) as connection:
        with pytest.raises(RelayTimeout, match="no answer"):
            await connection.query(WANTED, ignore)


async def test_events_do_not_extend_the_deadline() -> None:
    timeouts = Timeouts(request_s=0.2, event_s=0)

    async def handler(peer: ServerConnection) -> None:
        await peer.recv()
        with contextlib.suppress(ConnectionClosed):
            while True:
                await peer.send(orjson.dumps(["EVENT", "r1", EVENT.to_dict()]), text=True)
                await asyncio.sleep(0.01)

    async with relay_that(handler) as url, opened(url, timeouts=timeouts) as connection:
        with pytest.raises(RelayTimeout, match="no complete answer"):
            await connection.query(Filter(limit=1_000_000), ignore)


# --- authentication


async def test_endless_demand_for_authentication_is_an_error() -> None:
    async def handler(peer: ServerConnection) -> None:
        async for frame in peer:
            kind, *rest = orjson.loads(frame)
            if kind == "AUTH":
                await peer.send(orjson.dumps(["OK", rest[0]["id"], True, ""]), text=True)
            elif kind == "REQ":
                await peer.send('["AUTH","once more"]')
                await peer.send(orjson.dumps(["CLOSED", rest[0], "auth-required: who?"]), text=True)

    async with relay_that(handler) as url, opened(url, KEY) as connection:
        with pytest.raises(RelayRefused, match="auth-required"):
            await connection.query(WANTED, ignore)


async def test_query_authenticates_on_demand() -> None:
    heard: list[Any] = []

    async def handler(peer: ServerConnection) -> None:
        await peer.send('["AUTH","prove it"]')
        async for frame in peer:
            kind, *rest = orjson.loads(frame)
            heard.append((kind, rest))
            known = any(kind == "AUTH" for kind, _ in heard)
            if kind == "AUTH":
                await peer.send(orjson.dumps(["OK", rest[0]["id"], True, ""]), text=True)
            elif kind == "REQ" and known:
                await peer.send(orjson.dumps(["EVENT", rest[0], EVENT.to_dict()]), text=True)
                await peer.send(orjson.dumps(["EOSE", rest[0]]), text=True)
            elif kind == "REQ":
                await peer.send(orjson.dumps(["CLOSED", rest[0], "auth-required: members only"]), text=True)

    received: list[Mapping[str, object]] = []
    async with relay_that(handler) as url, opened(url, KEY) as connection:
        await connection.query(WANTED, received.append)
        assert connection.authenticated
    said = Event.parse(next(rest[0] for kind, rest in heard if kind == "AUTH"))
    assert (said.pubkey, said.kind, said.content) == (KEY.pubkey, 22242, "")
    assert said.tags == (("relay", url), ("challenge", "prove it"))
    assert abs(said.created_at - time.time()) < 60
    assert [Event.parse(raw_event) for raw_event in received] == [EVENT]


async def test_challenge_alone_is_not_answered() -> None:
    heard: list[str] = []

    async def handler(peer: ServerConnection) -> None:
        await peer.send('["AUTH","prove it"]')
        async for frame in peer:
            heard.append(orjson.loads(frame)[0])
            await peer.send('["EOSE","r1"]')

    async with relay_that(handler) as url, opened(url, KEY) as connection:
        await connection.query(WANTED, ignore)
        assert not connection.authenticated
    assert "AUTH" not in heard


async def test_auth_without_signer_is_refused(nip42_relay: str) -> None:
    async with opened(nip42_relay) as connection:
        with pytest.raises(RelayRefused, match=f"^{nip42_relay}: .*auth-required: "):
            await connection.query(WANTED, ignore)


async def test_real_relay_accepts_authentication(nip42_relay: str) -> None:
    async with opened(nip42_relay, KEY) as connection:
        await connection.query(WANTED, ignore)
        assert connection.authenticated


async def test_concurrent_queries_authenticate_once(nip42_relay: str) -> None:
    async with opened(nip42_relay, KEY) as connection:
        await asyncio.gather(*(connection.query(WANTED, ignore) for _ in range(3)))
        assert connection.authenticated


async def test_real_relay_accepts_events_after_auth(nip42_relay: str) -> None:
    async with opened(nip42_relay, KEY) as connection:
        await connection.send(EVENT)
        (refused,) = await connection.answers()
        assert isinstance(refused, OkReceived)
        assert refused.verdict is Verdict.AUTH_REQUIRED
        await connection.authenticate(refused.reason)
        await connection.send(EVENT)
        assert await connection.answers() == [OkReceived(event_id=EVENT.id, verdict=Verdict.ACCEPTED, reason="")]


async def test_refused_key_is_reported() -> None:
    async def handler(peer: ServerConnection) -> None:
        await peer.send('["AUTH","prove it"]')
        async for frame in peer:
            kind, content, *_ = orjson.loads(frame)
            answer = ["CLOSED", content, "auth-required: members only"]
            if kind == "AUTH":
                answer = ["OK", content["id"], False, "restricted: not a member"]
            await peer.send(orjson.dumps(answer), text=True)

    async with relay_that(handler) as url, opened(url, KEY) as connection:
        with pytest.raises(RelayRefused, match="does not accept this key: restricted: not a member"):
            await connection.query(WANTED, ignore)
        assert not connection.authenticated


# --- queries


async def test_query_returns_stored_events(scripted: ScriptedRelay) -> None:
    scripted.events[EVENT.id.hex()] = orjson.loads(EVENT.to_json())
    received: list[Mapping[str, object]] = []
    async with opened(scripted.url) as connection:
        await connection.query(WANTED, received.append)
    assert [Event.parse(raw_event) for raw_event in received] == [EVENT]
    assert scripted.requests == [{"ids": [EVENT.id.hex()], "limit": 1}]


async def test_answered_query_is_closed() -> None:
    heard: asyncio.Queue[list[Any]] = asyncio.Queue()

    async def handler(peer: ServerConnection) -> None:
        async for frame in peer:
            message = orjson.loads(frame)
            heard.put_nowait(message)
            if message[0] == "REQ":
                await peer.send(orjson.dumps(["EOSE", message[1]]), text=True)

    async with relay_that(handler) as url, opened(url) as connection:
        await connection.query(WANTED, ignore)
        request, close = await heard.get(), await heard.get()
    assert close == ["CLOSE", request[1]]


async def test_concurrent_queries_do_not_mix(scripted: ScriptedRelay) -> None:
    events = [EventDraft(kind=kind, created_at=1).sign(KEY) for kind in range(5)]
    scripted.events = {event.id.hex(): orjson.loads(event.to_json()) for event in events}

    async def kinds_of(connection: Connection, kind: int) -> list[object]:
        received: list[object] = []
        await connection.query(Filter(kinds=(kind,), limit=9), lambda raw: received.append(raw["kind"]))
        return received

    async with opened(scripted.url) as connection:
        received = await asyncio.gather(*(kinds_of(connection, kind) for kind in range(5)))
    assert received == [[kind] for kind in range(5)]


async def test_refused_query_has_a_reason() -> None:
    async with relay_that(answering(["CLOSED", "r1", "auth-required: who?"])) as url, opened(url) as connection:
        with pytest.raises(TransportError, match=f"^{url}: refused a request: auth-required: who"):
            await connection.query(WANTED, ignore)


@pytest.mark.parametrize("frames", [[["CLOSED", "r1", ""]], [["EOSE", "r1"], ["CLOSED", "r1", "too many"]]])
async def test_closed_after_stored_events_is_success(frames: list[object]) -> None:
    received: list[object] = []
    async with relay_that(answering(["EVENT", "r1", EVENT.to_dict()], *frames)) as url, opened(url) as connection:
        await connection.query(WANTED, received.append)
    assert len(received) == 1


@pytest.mark.parametrize("raw_id", [[], {}, None, 1, "", "zz"], ids=repr)
async def test_event_with_impossible_id_is_skipped(raw_id: object) -> None:
    received: list[Mapping[str, object]] = []
    handler = answering(["EVENT", "r1", {"id": raw_id}], ["EVENT", "r1", EVENT.to_dict()], ["EOSE", "r1"])
    async with relay_that(handler) as url, opened(url) as connection:
        await connection.query(WANTED, received.append)
    assert [Event.parse(raw_event) for raw_event in received] == [EVENT]


async def test_silent_relay_times_out_with_its_notice() -> None:
    async with (
        relay_that(answering(["NOTICE", "come back later"])) as url,
        opened(url, timeouts=IMPATIENT) as connection,
    ):
        with pytest.raises(TransportError, match=f"^{url}: no answer for .* it said: come back later"):
            await connection.query(WANTED, ignore)


async def test_connection_closed_during_an_answer_is_an_error() -> None:
    received: list[object] = []

    async def handler(peer: ServerConnection) -> None:
        await peer.recv()
        await peer.send(orjson.dumps(["EVENT", "r1", EVENT.to_dict()]), text=True)
        await peer.send(b'["NOTICE","too many requests"]', text=True)
        await peer.close(1008, "policy")

    async with relay_that(handler) as url, opened(url) as connection:
        with pytest.raises(TransportError, match=r"policy.*it said: too many requests"):
            await connection.query(WANTED, received.append)
    assert len(received) == 1


async def test_broken_connection_is_an_error() -> None:
    async def handler(peer: ServerConnection) -> None:
        await peer.recv()
        peer.transport.abort()

    async with relay_that(handler) as url, opened(url) as connection:
        with pytest.raises(TransportError, match=url):
            await connection.query(WANTED, ignore)


async def test_frame_at_the_limit_is_read() -> None:
    raw_event = EVENT.to_dict() | {"padding": "x" * (255 << 10)}
    received: list[object] = []
    handler = answering(["EVENT", "r1", raw_event], ["EOSE", "r1"])
    async with relay_that(handler) as url, opened(url) as connection:
        await connection.query(WANTED, received.append)
    assert len(received) == 1


async def test_frame_over_the_limit_ends_the_connection() -> None:
    raw_event = EVENT.to_dict() | {"padding": "x" * (256 << 10)}
    handler = answering(["EVENT", "r1", raw_event], ["EOSE", "r1"])
    async with relay_that(handler) as url, opened(url) as connection:
        with pytest.raises(TransportError, match="too big"):
            await connection.query(WANTED, ignore)


@pytest.mark.parametrize("frame", [b"hello", b"{}", b'["EVENT","r1"]', b'["OK","r1",true,""]'])
async def test_malformed_message_ends_the_connection(frame: bytes) -> None:
    async with relay_that(answering(frame)) as url, opened(url) as connection:
        with pytest.raises(InvalidMessage, match=f"^{url}: "):
            await connection.query(WANTED, ignore)
        with pytest.raises(PeerError):
            await connection.send(EVENT)


async def test_flood_ends_the_connection() -> None:
    async with relay_that(answering(*[["EVENT", "r7", {}]] * 1_001)) as url, opened(url) as connection:
        with pytest.raises(InvalidMessage, match="unsolicited"):
            await connection.query(WANTED, ignore)


async def test_callback_error_ends_only_the_query(scripted: ScriptedRelay) -> None:
    scripted.events[EVENT.id.hex()] = orjson.loads(EVENT.to_json())
    received: list[object] = []

    def fail(_raw_event: Mapping[str, object]) -> None:
        raise OSError("disk full")

    async with opened(scripted.url) as connection:
        with pytest.raises(OSError, match="disk full"):
            await connection.query(WANTED, fail)
        await connection.query(WANTED, received.append)
    assert len(received) == 1
