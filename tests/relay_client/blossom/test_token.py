"""Authorization tokens: one text in every base64 alphabet, and what a server accepts."""

import base64

import orjson
import pytest

from relay_client.blossom.token import (
    CLOCK_SKEW_S,
    LIFETIME_S,
    MAX_HASHES,
    Token,
    Verb,
    encode_header,
    token_draft,
)
from relay_client.errors import CallerError, InvalidToken
from relay_client.event import EventDraft, Tags
from relay_client.keys import SecretKey

NOW = 1_790_000_000
ORIGIN = "https://blobs.example:8443"
HASH = bytes(range(32))


def header(key: SecretKey, verb: Verb = Verb.UPLOAD, hashes: tuple[bytes, ...] = (HASH,), origin: str = ORIGIN) -> str:
    return encode_header(token_draft(verb, hashes=hashes, origins=[origin], now=NOW).sign(key))


def custom(key: SecretKey, tags: Tags, *, kind: int = 24242, created_at: int = NOW) -> str:
    return encode_header(EventDraft(kind=kind, created_at=created_at, tags=tags).sign(key))


@pytest.mark.parametrize("origin", ["https://a.example", "https://ab.example", "https://abc.example"])
@pytest.mark.parametrize("count", [1, MAX_HASHES])
def test_every_base64_spells_a_token_alike(key: SecretKey, origin: str, count: int) -> None:
    encoded = header(key, hashes=(HASH,) * count, origin=origin).removeprefix("Nostr ")
    text = base64.b64decode(encoded)
    assert base64.b64encode(text).decode() == base64.urlsafe_b64encode(text).decode() == encoded
    assert "=" not in encoded
    assert len(encoded) < 8_000


def test_token_names_blobs_servers_and_expiry(key: SecretKey) -> None:
    token = Token.parse(header(key), now=NOW)
    assert (token.pubkey, token.verb, token.hashes) == (key.pubkey, Verb.UPLOAD, frozenset({HASH}))
    assert token.hosts == ("blobs.example",)
    assert token.expires == NOW - CLOCK_SKEW_S + LIFETIME_S


@pytest.mark.parametrize("count", [0, MAX_HASHES + 1])
def test_token_for_no_or_too_many_blobs_is_not_made(count: int) -> None:
    with pytest.raises(CallerError):
        token_draft(Verb.UPLOAD, hashes=[HASH] * count, origins=[ORIGIN], now=NOW)


def test_token_without_a_server_is_not_made() -> None:
    with pytest.raises(CallerError):
        token_draft(Verb.UPLOAD, hashes=[HASH], origins=[], now=NOW)


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode], ids=["standard", "url-safe"])
@pytest.mark.parametrize("padding", ["", "="])
def test_tokens_of_other_clients_are_read(key: SecretKey, encode: object, padding: str) -> None:
    tags = (("t", "upload"), ("x", HASH.hex()), ("expiration", str(NOW + 9)), ("server", "https://Blobs.example:1/"))
    event = EventDraft(kind=24242, created_at=NOW, tags=tags, content="ÿ>?~").sign(key)
    text = encode(event.to_json()).decode().rstrip("=")  # type: ignore[operator]
    token = Token.parse(f"nostr {text}{padding * (-len(text) % 4)}", now=NOW)
    token.check(Verb.UPLOAD, host="blobs.example", sha256=HASH)


GOOD: Tags = (("t", "upload"), ("x", HASH.hex()), ("expiration", str(NOW + 9)))


@pytest.mark.parametrize(
    ("tags", "kind", "created_at"),
    [
        (GOOD, 24241, NOW),
        (GOOD, 24242, NOW + CLOCK_SKEW_S + 1),
        (GOOD[:2], 24242, NOW),
        ((*GOOD[:2], ("expiration", str(NOW))), 24242, NOW),
        ((*GOOD[:2], ("expiration", "²")), 24242, NOW),
        (GOOD[1:], 24242, NOW),
        ((("t", "upload"), ("t", "delete"), *GOOD[1:]), 24242, NOW),
        ((GOOD[0], ("x", "zz"), GOOD[2]), 24242, NOW),
    ],
    ids=["kind", "future", "no expiration", "expired", "digits", "no verb", "two verbs", "no hash"],
)
def test_invalid_token_is_refused(key: SecretKey, tags: Tags, kind: int, created_at: int) -> None:
    with pytest.raises(InvalidToken):
        Token.parse(custom(key, tags, kind=kind, created_at=created_at), now=NOW)


@pytest.mark.parametrize("raw_header", ["", "Nostr", "Nostr !", "Nostr e30", "Basic e30=", "Nostr " + "A" * 70_000])
def test_header_without_a_token_is_refused(raw_header: str) -> None:
    with pytest.raises(InvalidToken):
        Token.parse(raw_header, now=NOW)


def test_changed_token_is_refused(key: SecretKey) -> None:
    event = orjson.loads(base64.b64decode(header(key).removeprefix("Nostr ")))
    event["tags"][1][1] = "00" * 32
    with pytest.raises(InvalidToken):
        Token.parse("Nostr " + base64.b64encode(orjson.dumps(event)).decode(), now=NOW)


@pytest.mark.parametrize(
    ("verb", "host", "sha256"),
    [
        (Verb.DELETE, "blobs.example", HASH),
        (Verb.UPLOAD, "other.example", HASH),
        (Verb.UPLOAD, "blobs.example", bytes(32)),
    ],
    ids=["verb", "server", "blob"],
)
def test_token_allows_nothing_else(key: SecretKey, verb: Verb, host: str, sha256: bytes) -> None:
    token = Token.parse(header(key), now=NOW)
    token.check(Verb.UPLOAD, host="blobs.example", sha256=HASH)
    with pytest.raises(InvalidToken):
        token.check(verb, host=host, sha256=sha256)


def test_upload_token_without_a_blob_allows_no_upload(key: SecretKey) -> None:
    token = Token.parse(custom(key, (GOOD[0], GOOD[2])), now=NOW)
    with pytest.raises(InvalidToken):
        token.check(Verb.UPLOAD, host="blobs.example", sha256=HASH)
