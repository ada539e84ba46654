"""A remote signer over a real relay: pairing, signatures, and everything it can do wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
from support.bunker import TOKEN, Bunker, Reply, Sign, lossy_relay, running, signs
from websockets.asyncio.client import connect

from relay_client.errors import CallerError, InvalidSigned, SignerRefused
from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip46.pairing import Pairing
from relay_client.nip46.remote_signer import RemoteSigner, accept_pairing, kept_open, pair
from relay_client.nip46.uri import BunkerUri
from relay_client.timeouts import Timeouts

FAST = Timeouts(sign_s=10, sign_repeat_s=0.05, sign_notice_s=0.05, pair_s=10, retry_first_s=0.01)
HURRIED = Timeouts(sign_s=0.3, sign_repeat_s=0.1, pair_s=0.3, retry_first_s=0.01)
DRAFT = EventDraft(kind=4181, created_at=1_790_000_000, tags=(("name", "demo"),), content='{"a": "é\n"}')
STRANGER = SecretKey.generate()


@pytest.fixture
async def bunker(relay: str) -> AsyncIterator[Bunker]:
    async with running(Bunker(relay)) as started:
        yield started


def ignore(_text: str) -> None:
    pass


async def accept(
    relays: list[str], key: SecretKey, secret: str, timeouts: Timeouts, on_failure: Callable[[str], None] = ignore
) -> Pairing:
    return await accept_pairing(
        relays, key, secret, on_waiting=ignore, on_auth_url=ignore, on_failure=on_failure, timeouts=timeouts
    )


async def paired(bunker: Bunker, timeouts: Timeouts = FAST) -> Pairing:
    return await pair(
        BunkerUri.parse(bunker.uri),
        permissions="sign_event:4181",
        on_waiting=lambda _: None,
        on_auth_url=ignore,
        timeouts=timeouts,
    )


def signer_of(pairing: Pairing, timeouts: Timeouts = FAST, **told: list[str]) -> RemoteSigner:
    return RemoteSigner(
        pairing,
        describe=lambda draft: f"release {draft.tags[0][1]} 3",
        on_waiting=told.get("waiting", []).append,
        on_auth_url=told.get("urls", []).append,
        timeouts=timeouts,
    )


async def test_bunker_is_paired_and_signs(bunker: Bunker) -> None:
    pairing = await paired(bunker)
    assert (pairing.signer, pairing.user) == (bunker.key.pubkey, bunker.user.pubkey)
    assert bunker.asked[0]["params"] == [bunker.key.pubkey.hex(), TOKEN, "sign_event:4181"]
    event = await signer_of(pairing).sign_event(DRAFT)
    assert (event.pubkey, event.id) == (bunker.user.pubkey, DRAFT.id_for(bunker.user.pubkey))
    assert TOKEN not in repr(pairing)


async def test_open_signer_asks_one_question_at_a_time(bunker: Bunker) -> None:
    open_questions = []

    async def slowly(bunker: Bunker, draft: dict[str, Any]) -> AsyncIterator[Reply]:
        open_questions.append(draft)
        assert len(open_questions) == 1
        await asyncio.sleep(0.02)
        open_questions.clear()
        async for reply in signs(bunker, draft):
            yield reply

    bunker.sign = slowly
    signer = signer_of(await paired(bunker), Timeouts())
    drafts = [EventDraft(kind=4181, created_at=n, tags=(("name", "demo"),)) for n in range(3)]
    async with kept_open(signer):
        events = await asyncio.gather(*map(signer.sign_event, drafts))
    assert [event.created_at for event in events] == [0, 1, 2]
    async with kept_open(bunker.user):  # a local key needs no connection
        pass


async def test_signer_that_asks_before_pairing_is_announced(bunker: Bunker) -> None:
    bunker.answers, waiting = 0, list[str]()
    hurried = Timeouts(sign_s=0.2, sign_notice_s=0.01)
    with pytest.raises(SignerRefused, match="approve the connection there"):
        await pair(
            BunkerUri.parse(bunker.uri),
            permissions="",
            on_waiting=waiting.append,
            on_auth_url=ignore,
            timeouts=hurried,
        )
    assert waiting == ["the connection"]


async def test_wrong_secret_is_refused_in_one_line(bunker: Bunker) -> None:
    uri = BunkerUri.parse(bunker.uri.replace(TOKEN, "other"))
    with pytest.raises(SignerRefused, match=r"^your signer refuses the connection: 'wrong secret'$"):
        await pair(uri, permissions="", on_waiting=ignore, on_auth_url=ignore, timeouts=FAST)


async def refuses(_bunker: Bunker, _draft: dict[str, Any]) -> AsyncIterator[Reply]:
    yield {"error": "no"}


async def says_nonsense(_bunker: Bunker, _draft: dict[str, Any]) -> AsyncIterator[Reply]:
    yield {"result": "\x1b[2J"}


async def signs_as_another(bunker: Bunker, draft: dict[str, Any]) -> AsyncIterator[Reply]:
    async for reply in signs(bunker, draft, STRANGER):
        yield reply


async def signs_something_else(bunker: Bunker, draft: dict[str, Any]) -> AsyncIterator[Reply]:
    async for reply in signs(bunker, draft | {"content": "{}"}):
        yield reply


async def forges(bunker: Bunker, draft: dict[str, Any]) -> AsyncIterator[Reply]:
    async for reply in signs(bunker, draft):
        event = orjson.loads(reply["result"])
        yield {"result": orjson.dumps(event | {"sig": DRAFT.sign(STRANGER).sig.hex()}).decode()}


async def says_nothing(_bunker: Bunker, _draft: dict[str, Any]) -> AsyncIterator[Reply]:
    for reply in list[Reply]():
        yield reply


@pytest.mark.parametrize(
    ("sign", "error", "words"),
    [
        (refuses, SignerRefused, "refuses release demo 3: 'no'"),
        (says_nonsense, InvalidSigned, "something that is not an event"),
        (signs_as_another, InvalidSigned, "signed as npub1.*, not as npub1"),
        (signs_something_else, InvalidSigned, "changed the event"),
        (forges, InvalidSigned, "an invalid event"),
    ],
    ids=["refusal", "no event", "another key", "another event", "wrong signature"],
)
async def test_wrong_answer_is_refused(bunker: Bunker, sign: Sign, error: type[Exception], words: str) -> None:
    pairing = await paired(bunker)
    bunker.sign = sign
    with pytest.raises(error, match=words):
        await signer_of(pairing).sign_event(DRAFT)


async def test_silent_signer_ends_at_the_deadline(bunker: Bunker) -> None:
    pairing = await paired(bunker)
    bunker.sign, waiting = says_nothing, list[str]()
    hurried = Timeouts(sign_s=0.3, sign_repeat_s=0.1, sign_notice_s=0.01)
    with pytest.raises(SignerRefused, match="did not answer in time: approve release demo 3 there, and run this again"):
        await signer_of(pairing, hurried, waiting=waiting).sign_event(DRAFT)
    assert waiting == ["release demo 3"]


async def test_unreachable_relay_is_named(bunker: Bunker, unused_port: int) -> None:
    pairing = await paired(bunker)
    away = Pairing(
        signer=pairing.signer, relays=(f"ws://127.0.0.1:{unused_port}",), client_key=STRANGER, user=pairing.user
    )
    with pytest.raises(SignerRefused, match=f"in time.*127.0.0.1:{unused_port}"):
        await signer_of(away, HURRIED).sign_event(DRAFT)


async def test_auth_url_is_shown_once_and_waited_for(bunker: Bunker) -> None:
    async def asks_in_the_browser(bunker: Bunker, draft: dict[str, Any]) -> AsyncIterator[Reply]:
        yield {"result": "auth_url", "error": "https://signer.example/approve"}
        yield {"result": "auth_url", "error": "https://signer.example/again"}
        await asyncio.sleep(0.3)  # longer than requests are repeated
        async for reply in signs(bunker, draft):
            yield reply

    pairing = await paired(bunker)
    bunker.sign, urls = asks_in_the_browser, list[str]()
    event = await signer_of(pairing, urls=urls).sign_event(DRAFT)
    assert event.id == DRAFT.id_for(bunker.user.pubkey)
    assert urls == ["https://signer.example/approve"]
    assert bunker.signed_kinds == [4181]  # not asked again


@pytest.mark.parametrize("every", [3, 4], ids=["loses requests", "loses answers"])
async def test_relay_that_loses_messages_delays_only(bunker: Bunker, every: int) -> None:
    async with lossy_relay(bunker.relay, every=every) as (url, lost):
        uri = BunkerUri(signer=bunker.key.pubkey, relays=(url,), secret=TOKEN)
        pairing = await pair(uri, permissions="", on_waiting=ignore, on_auth_url=ignore, timeouts=FAST)
        async with kept_open(signer := signer_of(pairing)):
            drafts = [EventDraft(kind=1, created_at=n, tags=(("name", "demo"),)) for n in range(6)]
            events = [await signer.sign_event(draft) for draft in drafts]
    assert [event.created_at for event in events] == list(range(6))
    assert len({each["id"] for each in bunker.asked}) == 2 + len(drafts)  # asked again under the same id
    assert lost


async def test_signer_scans_our_address(relay: str) -> None:
    key, secret, bunker = SecretKey.generate(), "0123456789abcdef", Bunker(relay)

    async def scan() -> None:
        while not bunker.clients:
            async with connect(relay) as socket:
                await bunker.send(socket, key.pubkey, {"id": "1", "result": "guessed"}, STRANGER)
                await bunker.send(socket, key.pubkey, {"id": "2", "result": "ack"}, STRANGER)
                await bunker.send(socket, key.pubkey, {"id": "3", "result": secret})
                await asyncio.sleep(0.05)

    async with running(bunker):
        scanning = asyncio.create_task(scan())
        pairing = await accept([relay], key, secret, FAST)
        scanning.cancel()
    assert (pairing.signer, pairing.user) == (bunker.key.pubkey, bunker.user.pubkey)
    assert pairing.client_key is key


async def test_address_that_no_signer_scans_expires(relay: str) -> None:
    with pytest.raises(SignerRefused, match="no signer connected for"):
        await accept([relay], STRANGER, "secret", HURRIED)


async def test_relay_that_is_away_is_reported_once(free_port: int) -> None:
    url, reasons = f"ws://127.0.0.1:{free_port}", list[str]()
    with pytest.raises(SignerRefused, match="no signer connected for"):
        await accept([url], STRANGER, "secret", HURRIED, reasons.append)
    assert len(reasons) == 1
    assert url in reasons[0]


async def test_event_that_no_relay_passes_on_is_not_sent(bunker: Bunker) -> None:
    signer = signer_of(await paired(bunker))
    with pytest.raises(CallerError, match="too large for a remote signer"):
        await signer.sign_event(EventDraft(kind=4181, created_at=1, tags=(("name", "demo"),), content="x" * 41_000))
    assert bunker.signed_kinds == []


async def test_cancelled_request_leaves_nothing_running(bunker: Bunker) -> None:
    asked = asyncio.Event()

    async def waits(_bunker: Bunker, _draft: dict[str, Any]) -> AsyncIterator[Reply]:
        asked.set()
        async for reply in says_nothing(_bunker, _draft):
            yield reply

    pairing, bunker.sign = await paired(bunker), waits
    task = asyncio.create_task(signer_of(pairing).sign_event(DRAFT))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [each for each in asyncio.all_tasks() if each.get_name().startswith("signer at")]
