"""Live subscriptions: over sockets of relays that are merely unreliable, and of one that is real."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import orjson
import pytest
from websockets.asyncio.server import ServerConnection, serve

from relay_client.backoff import Backoff
from relay_client.event import EventDraft
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.pool import Pool
from relay_client.subscription import Subscription, SubscriptionStatus

GIVE_UP_S = 60

Script = Callable[[ServerConnection], Awaitable[None]]


@contextlib.asynccontextmanager
async def peer(script: Script) -> AsyncIterator[str]:
    """A relay that waits for a request and then does what `script` says, once per connection."""

    async def handle(socket: ServerConnection) -> None:
        await socket.recv()
        await script(socket)
        await socket.wait_closed()

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def say(socket: ServerConnection, *message: object) -> None:
    await socket.send(orjson.dumps(message), text=True)


class Watched:
    """A watch at work: what came, and every change of a link."""

    def __init__(self, urls: Sequence[str], *, wanted: bool = True, signer: SecretKey | None = None) -> None:
        self.came: list[tuple[str, object]] = []
        self.changes: list[SubscriptionStatus] = []
        self.heard = asyncio.Event()
        self._wanted = wanted
        self.watch = Subscription(
            urls,
            Filter(kinds=(1,), limit=10),
            self._on_event,
            signer=signer,
            on_change=self._on_change,
            backoff=lambda: Backoff(lambda _low, _high: 0),
        )

    def _on_event(self, url: str, raw_event: Mapping[str, object]) -> bool:
        self.came.append((url, raw_event["content"]))
        self.heard.set()
        return self._wanted

    def _on_change(self, link: SubscriptionStatus) -> None:
        self.changes.append(link)
        self.heard.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(GIVE_UP_S):
            while not condition():
                self.heard.clear()
                await self.heard.wait()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Watched"]:
        task = asyncio.create_task(self.watch.run())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_what_is_stored_comes_and_then_what_is_new(relay: str, key: SecretKey) -> None:
    async def publish(text: str) -> None:
        event = EventDraft(kind=1, created_at=100, content=text).sign(key)
        async with Pool([relay]) as pool:
            await pool.publish([(event, [relay])])

    await publish("stored")
    async with Watched([relay]).running() as watched:
        await watched.until(lambda: watched.watch.statuses[relay].connected)
        assert watched.came == [(relay, "stored")]
        await publish("new")
        await watched.until(lambda: len(watched.came) == 2)
    assert watched.came == [(relay, "stored"), (relay, "new")]


async def test_a_relay_that_closes_the_subscription_is_asked_again() -> None:
    async def script(socket: ServerConnection) -> None:
        await say(socket, "EVENT", "live", {"content": "again"})
        await say(socket, "EOSE", "live")
        await say(socket, "CLOSED", "live", "error: tired")

    async with peer(script) as url, Watched([url]).running() as watched:
        await watched.until(lambda: len(watched.came) > 2)
    assert SubscriptionStatus(connected=True) in watched.changes
    assert SubscriptionStatus(reason=f"{url}: ended the subscription: error: tired") in watched.changes


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (("EVENT", "live", {"content": "junk"}), "of no use"),
        (("EVENT", "another", {"content": "junk"}), "of no use"),
        (("NOTICE", "buy something"), "of no use"),
        (("EOSE", "another"), "of no use"),
        (("EOSE", "live"), "of no use"),
        (("NONSENSE",), "message"),
    ],
)
async def test_a_flood_ends_the_connection_and_the_others_stay(message: tuple[object, ...], says: str) -> None:
    async def flood(socket: ServerConnection) -> None:
        for _ in range(1_002):
            await say(socket, *message)

    async def quiet(socket: ServerConnection) -> None:
        await say(socket, "EOSE", "live")

    async with peer(flood) as bad, peer(quiet) as good, Watched([bad, good], wanted=False).running() as watched:
        await watched.until(lambda: bool(watched.watch.statuses[bad].reason) and watched.watch.statuses[good].connected)
        assert says in watched.watch.statuses[bad].reason
        assert watched.watch.statuses[good] == SubscriptionStatus(connected=True)


async def test_one_event_again_and_again_is_a_flood_too() -> None:
    async def flood(socket: ServerConnection) -> None:
        for _ in range(1_002):
            await say(socket, "EVENT", "live", {"id": "one", "content": "again"})

    async with peer(flood) as url, Watched([url]).running() as watched:
        await watched.until(lambda: "of no use" in watched.watch.statuses[url].reason)


async def test_a_real_relay_for_members_only_learns_who_watches(nip42_relay: str, key: SecretKey) -> None:
    event = EventDraft(kind=1, created_at=100, content="for members").sign(key)
    async with Pool([nip42_relay], signer=key) as pool:
        await pool.publish([(event, [nip42_relay])])
    async with Watched([nip42_relay], signer=key).running() as watched:
        await watched.until(lambda: watched.watch.statuses[nip42_relay].connected)
    assert watched.came == [(nip42_relay, "for members")]
    async with Watched([nip42_relay]).running() as watched:
        await watched.until(lambda: "auth-required" in watched.watch.statuses[nip42_relay].reason)
    assert watched.came == []


async def test_a_relay_that_does_not_accept_the_key_says_so(key: SecretKey) -> None:
    async def script(socket: ServerConnection) -> None:
        await say(socket, "AUTH", "who is there?")
        await say(socket, "CLOSED", "live", "auth-required: members only")
        answer = orjson.loads(await socket.recv())[1]
        await say(socket, "OK", answer["id"], False, "restricted: not a member")

    async with peer(script) as url, Watched([url], signer=key).running() as watched:
        await watched.until(lambda: "restricted: not a member" in watched.watch.statuses[url].reason)


async def test_silence_before_anything_was_sent_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay_client.subscription.ANSWER_S", 0.05)

    async def silence(_socket: ServerConnection) -> None:
        return

    async with peer(silence) as url, Watched([url]).running() as watched:
        await watched.until(lambda: "no answer" in watched.watch.statuses[url].reason)
