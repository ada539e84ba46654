"""Tokens for many blobs: few signatures, and new ones in time."""

import asyncio

import pytest

from relay_client.blossom.authorizer import Authorizer
from relay_client.blossom.token import LIFETIME_S, MAX_HASHES, Token, Verb
from relay_client.event import Event, EventDraft
from relay_client.keys import SecretKey

NOW = 1_790_000_000
ORIGINS = ["https://a.example", "https://b.example:8443"]
HASHES = [number.to_bytes(32, "big") for number in range(MAX_HASHES + 1)]


class Clock:
    now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authorizer(key: SecretKey, clock: Clock) -> Authorizer:
    return Authorizer(key, Verb.UPLOAD, hashes=[*HASHES, HASHES[0]], origins=ORIGINS, now=clock)


async def test_signature_serves_forty_blobs_and_every_server(authorizer: Authorizer) -> None:
    for digest in HASHES:
        for host in ("a.example", "b.example"):
            Token.parse(await authorizer.header(digest), now=NOW).check(Verb.UPLOAD, host=host, sha256=digest)
    assert authorizer.signatures == 2


async def test_refused_token_is_replaced_for_all_its_blobs(authorizer: Authorizer, clock: Clock) -> None:
    first = await authorizer.header(HASHES[0])
    clock.now += 1
    fresh = await authorizer.header(HASHES[1], fresh=True)
    assert fresh != first
    assert await authorizer.header(HASHES[0]) == fresh


async def test_token_is_renewed_before_it_expires(authorizer: Authorizer, clock: Clock) -> None:
    for minutes in range(0, 180, 10):
        clock.now = NOW + 60 * minutes
        left = Token.parse(await authorizer.header(HASHES[0]), now=clock.now).expires - clock.now
        assert left >= LIFETIME_S // 3
    assert authorizer.signatures < 10


async def test_clock_set_back_needs_a_new_token(authorizer: Authorizer, clock: Clock) -> None:
    await authorizer.header(HASHES[0])
    clock.now = NOW - 86_400
    Token.parse(await authorizer.header(HASHES[0]), now=clock.now)
    assert authorizer.signatures == 2


class SlowSigner(SecretKey):
    """A signer that lets others run first, as a remote one does."""

    async def sign_event(self, draft: EventDraft) -> Event:
        await asyncio.sleep(0)
        return draft.sign(self)


async def test_parallel_requests_share_a_signature(clock: Clock) -> None:
    authorizer = Authorizer(SlowSigner.generate(), Verb.UPLOAD, hashes=HASHES[:2], origins=ORIGINS, now=clock)
    first, second = await asyncio.gather(authorizer.header(HASHES[0]), authorizer.header(HASHES[1]))
    assert first == second
    assert authorizer.signatures == 1
