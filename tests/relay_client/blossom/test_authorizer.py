"""Tokens for many blobs: few signatures, and new ones in time."""

import pytest

from relay_client.blossom.authorizer import Authorizer
from relay_client.blossom.token import LIFETIME_S, MAX_HASHES, Token, Verb
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


def test_signature_serves_forty_blobs_and_every_server(authorizer: Authorizer) -> None:
    for digest in HASHES:
        for host in ("a.example", "b.example"):
            Token.parse(authorizer.header(digest), now=NOW).check(Verb.UPLOAD, host=host, sha256=digest)
    assert authorizer.signatures == 2


def test_refused_token_is_replaced_for_all_its_blobs(authorizer: Authorizer, clock: Clock) -> None:
    first = authorizer.header(HASHES[0])
    clock.now += 1
    fresh = authorizer.header(HASHES[1], fresh=True)
    assert fresh != first
    assert authorizer.header(HASHES[0]) == fresh


def test_token_is_renewed_before_it_expires(authorizer: Authorizer, clock: Clock) -> None:
    for minutes in range(0, 180, 10):
        clock.now = NOW + 60 * minutes
        left = Token.parse(authorizer.header(HASHES[0]), now=clock.now).expires - clock.now
        assert left >= LIFETIME_S // 3
    assert authorizer.signatures < 10


def test_clock_set_back_needs_a_new_token(authorizer: Authorizer, clock: Clock) -> None:
    authorizer.header(HASHES[0])
    clock.now = NOW - 86_400
    Token.parse(authorizer.header(HASHES[0]), now=clock.now)
    assert authorizer.signatures == 2
