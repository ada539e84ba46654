"""Live subscriptions at several relays: scripted ones that fail in many ways, and a real one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import orjson
import pytest
from websockets.asyncio.server import ServerConnection, serve

from relay_client.event import EventDraft
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.pool import Pool
from relay_client.subscription import Subscription, SubscriptionStatus
from relay_client.timeouts import Timeouts

GIVE_UP_S = 60
QUICK = Timeouts(retry_first_s=0, retry_longest_s=0)
ID, OTHER_ID = "aa" * 32, "bb" * 32

Script = Callable[[ServerConnection], Awaitable[None]]


@contextlib.asynccontextmanager
async def relay_with(script: Script) -> AsyncIterator[str]:
    """Address of a relay that reads a request and then runs `script`, once per connection."""

    async def handle(peer: ServerConnection) -> None:
        await peer.recv()
        await script(peer)
        await peer.wait_closed()

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def say(peer: ServerConnection, *message: object) -> None:
    await peer.send(orjson.dumps(message), text=True)


class Recorder:
    """A running subscription, the events it received and every change of status."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        wanted: bool = True,
        signer: SecretKey | None = None,
        timeouts: Timeouts = QUICK,
    ) -> None:
        self.events: list[tuple[str, object]] = []
        self.changes: list[SubscriptionStatus] = []
        self._changed = asyncio.Event()
        self._wanted = wanted
        self._subscription = Subscription(
            urls,
            Filter(kinds=(1,), limit=10),
            self._on_event,
            signer=signer,
            on_change=self._on_change,
            timeouts=timeouts,
        )

    def status(self, url: str) -> SubscriptionStatus:
        return self._subscription.statuses[url]

    def _on_event(self, url: str, raw_event: Mapping[str, object]) -> bool:
        self.events.append((url, raw_event["content"]))
        self._changed.set()
        return self._wanted

    def _on_change(self, status: SubscriptionStatus) -> None:
        self.changes.append(status)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(GIVE_UP_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Recorder"]:
        task = asyncio.create_task(self._subscription.run())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_stored_events_arrive_before_new_ones(relay: str, key: SecretKey) -> None:
    async def publish(text: str) -> None:
        event = EventDraft(kind=1, created_at=100, content=text).sign(key)
        async with Pool([relay]) as pool:
            await pool.publish([(event, [relay])])

    await publish("stored")
    async with Recorder([relay]).running() as recorder:
        await recorder.until(lambda: recorder.status(relay).connected)
        assert recorder.events == [(relay, "stored")]
        await publish("new")
        await recorder.until(lambda: len(recorder.events) == 2)
    assert recorder.events == [(relay, "stored"), (relay, "new")]


async def test_closed_subscription_is_reopened() -> None:
    async def script(peer: ServerConnection) -> None:
        await say(peer, "EVENT", "r1", {"id": ID, "content": "again"})
        await say(peer, "EOSE", "r1")
        await say(peer, "CLOSED", "r1", "error: tired")

    async with relay_with(script) as url, Recorder([url]).running() as recorder:
        await recorder.until(lambda: len(recorder.events) > 2)
    assert SubscriptionStatus(connected=True) in recorder.changes
    assert SubscriptionStatus(reason=f"{url}: closed the subscription: error: tired") in recorder.changes


async def test_subscription_closed_without_reason_is_reported() -> None:
    async def script(peer: ServerConnection) -> None:
        await say(peer, "CLOSED", "r1", "")

    async with relay_with(script) as url, Recorder([url]).running() as recorder:
        await recorder.until(
            lambda: recorder.status(url) == SubscriptionStatus(reason=f"{url}: closed the subscription")
        )


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (("EVENT", "r1", {"content": "no id"}), "unsolicited"),
        (("EVENT", "r9", {"id": ID, "content": "junk"}), "unsolicited"),
        (("NOTICE", "buy something"), "unsolicited"),
        (("EOSE", "r9"), "unsolicited"),
        (("EOSE", "r1"), "unsolicited"),
        (("EVENT", "r1", {"id": ID, "content": "again"}), "unsolicited"),
        (("NONSENSE",), "unsolicited"),
        (("EVENT",), "malformed"),
    ],
    ids=["no id", "other subscription", "notice", "other EOSE", "EOSE", "repeated event", "unknown type", "malformed"],
)
async def test_flood_ends_only_that_connection(message: tuple[object, ...], reason: str) -> None:
    async def flood(peer: ServerConnection) -> None:
        for _ in range(1 if reason == "malformed" else 1_002):
            await say(peer, *message)

    async def quiet(peer: ServerConnection) -> None:
        await say(peer, "EOSE", "r1")

    async with relay_with(flood) as bad, relay_with(quiet) as good, Recorder([bad, good]).running() as recorder:
        await recorder.until(lambda: bool(recorder.status(bad).reason) and recorder.status(good).connected)
        assert reason in recorder.status(bad).reason
        assert recorder.status(good) == SubscriptionStatus(connected=True)


async def test_flood_of_unwanted_events_ends_the_connection() -> None:
    async def flood(peer: ServerConnection) -> None:
        for number in range(1_002):
            await say(peer, "EVENT", "r1", {"id": f"{number:064x}", "content": "junk"})

    async with relay_with(flood) as url, Recorder([url], wanted=False).running() as recorder:
        await recorder.until(lambda: "unsolicited" in recorder.status(url).reason)


async def test_wanted_events_are_not_limited() -> None:
    async def many(peer: ServerConnection) -> None:
        for number in range(1_500):
            await say(peer, "EVENT", "r1", {"id": f"{number:064x}", "content": "news"})
        await say(peer, "EOSE", "r1")

    async with relay_with(many) as url, Recorder([url]).running() as recorder:
        await recorder.until(lambda: recorder.status(url).connected)
    assert len(recorder.events) == 1_500


async def test_silence_after_stored_events_is_normal() -> None:
    async def script(peer: ServerConnection) -> None:
        await say(peer, "EOSE", "r1")
        await asyncio.sleep(0.2)  # four times the answer timeout
        await say(peer, "EVENT", "r1", {"id": ID, "content": "late"})

    timeouts = Timeouts(answer_s=0.05)
    async with relay_with(script) as url, Recorder([url], timeouts=timeouts).running() as recorder:
        await recorder.until(lambda: bool(recorder.events))
    assert recorder.changes == [SubscriptionStatus(connected=True)]
    assert recorder.events == [(url, "late")]


async def test_subscription_authenticates_at_a_real_relay(nip42_relay: str, key: SecretKey) -> None:
    event = EventDraft(kind=1, created_at=100, content="for members").sign(key)
    async with Pool([nip42_relay], signer=key) as pool:
        await pool.publish([(event, [nip42_relay])])
    async with Recorder([nip42_relay], signer=key).running() as recorder:
        await recorder.until(lambda: recorder.status(nip42_relay).connected)
    assert recorder.events == [(nip42_relay, "for members")]
    async with Recorder([nip42_relay]).running() as recorder:
        await recorder.until(lambda: "auth-required" in recorder.status(nip42_relay).reason)
    assert recorder.events == []


@pytest.mark.parametrize("challenge_first", [True, False], ids=["AUTH before CLOSED", "AUTH after CLOSED"])
async def test_subscription_authenticates_in_either_order(key: SecretKey, *, challenge_first: bool) -> None:
    async def script(peer: ServerConnection) -> None:
        messages = [("AUTH", "prove it"), ("CLOSED", "r1", "auth-required: members only")]
        for message in messages if challenge_first else messages[::-1]:
            await say(peer, *message)
            await asyncio.sleep(0.02)  # the client has handled it by now
        answer = orjson.loads(await peer.recv())[1]
        await say(peer, "OK", answer["id"], True, "")
        subscription = orjson.loads(await peer.recv())[1]
        await say(peer, "EVENT", subscription, {"id": ID, "content": answer["pubkey"]})
        await say(peer, "EOSE", subscription)

    async with relay_with(script) as url, Recorder([url], signer=key).running() as recorder:
        await recorder.until(lambda: bool(recorder.changes))
    assert recorder.changes == [SubscriptionStatus(connected=True)]
    assert recorder.events == [(url, key.pubkey.hex())]


async def test_live_subscription_authenticates_again_when_challenged(key: SecretKey) -> None:
    challenges: list[str] = []

    async def script(peer: ServerConnection) -> None:
        subscription = "r1"
        for challenge in ("one", "two"):
            await say(peer, "EOSE", subscription)
            await say(peer, "AUTH", challenge)
            await say(peer, "CLOSED", subscription, "auth-required: your session expired")
            answer = orjson.loads(await peer.recv())[1]
            challenges.extend(tag[1] for tag in answer["tags"] if tag[0] == "challenge")
            await say(peer, "OK", answer["id"], True, "")
            subscription = orjson.loads(await peer.recv())[1]
        await say(peer, "EVENT", subscription, {"id": OTHER_ID, "content": "for members"})

    async with relay_with(script) as url, Recorder([url], signer=key).running() as recorder:
        await recorder.until(lambda: bool(recorder.events))
    assert challenges == ["one", "two"]


async def test_refused_key_is_reported(key: SecretKey) -> None:
    async def script(peer: ServerConnection) -> None:
        await say(peer, "AUTH", "prove it")
        await say(peer, "CLOSED", "r1", "auth-required: members only")
        answer = orjson.loads(await peer.recv())[1]
        await say(peer, "OK", answer["id"], False, "restricted: not a member")

    async with relay_with(script) as url, Recorder([url], signer=key).running() as recorder:
        await recorder.until(lambda: "restricted: not a member" in recorder.status(url).reason)


async def test_silence_before_stored_events_is_a_failure() -> None:
    async def silence(_peer: ServerConnection) -> None:
        return

    timeouts = Timeouts(answer_s=0.05)
    async with relay_with(silence) as url, Recorder([url], timeouts=timeouts).running() as recorder:
        await recorder.until(lambda: "no answer" in recorder.status(url).reason)
