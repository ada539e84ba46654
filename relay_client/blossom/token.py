"""Authorization tokens of Blossom (BUD-11, kind 24242): made for clients, checked for servers. No I/O, no clock.

Deployed servers disagree on the base64 alphabet and its padding. A token made here is the same text in all of them: its
JSON is ASCII without `>`, `?` and `~`, so that neither `+ /` nor `- _` can occur, and a multiple of three long, so that
it needs no padding.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import orjson
import pybase64

from relay_client.blossom.address import host_of
from relay_client.errors import CallerError, InvalidEvent, InvalidToken
from relay_client.event import Event, EventDraft, Tags
from relay_client.hexadecimal import parse_hex

TOKEN_KIND = 24242
MAX_HASHES = 40  # per token: the header stays below the 8 kB that proxies allow
LIFETIME_S = 3_600
CLOCK_SKEW_S = 60  # that a server should forgive

_SCHEME = "nostr"  # of the header Authorization, in any case
_MAX_HEADER = 65_536  # characters
_NOT_ALIKE = re.compile("[>?~]|[^ -~]")  # characters whose base64 depends on the alphabet
_MAX_DIGITS = 16  # of an expiration
_TRIPLE = 3  # bytes that base64 encodes together


class Verb(StrEnum):
    """What a token allows: its tag `t`."""

    GET = "get"
    UPLOAD = "upload"  # also to mirror
    LIST = "list"
    DELETE = "delete"


_CONTENT = {
    Verb.GET: "Get a blob",
    Verb.UPLOAD: "Upload blobs",
    Verb.LIST: "List blobs",
    Verb.DELETE: "Delete blobs",
}


def token_draft(verb: Verb, *, hashes: Sequence[bytes], origins: Sequence[str], now: int) -> EventDraft:
    """Return the draft of a token for these blobs at these servers, valid for an hour.

    It always names both: a token without servers could be replayed at another server.

    Args:
        verb: What it allows.
        hashes: SHA-256 of each blob, at most 40.
        origins: Servers, as `normalize_server` returns them.
        now: Seconds since 1970.

    Raises:
        CallerError: It has no blob or no server, too many blobs, or a character that base64 alphabets differ in.
    """
    if not 0 < len(hashes) <= MAX_HASHES or not origins:
        raise CallerError(f"a token names 1 to {MAX_HASHES} blobs and at least one server, not {len(hashes)}")
    created_at = now - CLOCK_SKEW_S  # a server whose clock is late refuses a token from the future
    tags: Tags = (
        ("t", str(verb)),
        *(("x", digest.hex()) for digest in hashes),
        ("expiration", str(created_at + LIFETIME_S)),
        *(("server", host) for host in dict.fromkeys(map(host_of, origins))),
    )
    draft = EventDraft(kind=TOKEN_KIND, created_at=created_at, tags=tags, content=_CONTENT[verb])
    if any(_NOT_ALIKE.search(item) for tag in tags for item in tag):
        raise CallerError("a token is in ASCII, without > ? and ~")
    padding = " " * (-draft.signed_size % _TRIPLE)
    return EventDraft(kind=TOKEN_KIND, created_at=created_at, tags=tags, content=draft.content + padding)


def encode_header(token: Event) -> str:
    """Return the value of the header `Authorization` for a signed token."""
    return f"Nostr {pybase64.b64encode_as_string(token.to_json())}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A verified token, as a server reads it."""

    pubkey: bytes  # of its signer, x-only, 32
    verb: Verb
    hashes: frozenset[bytes]  # blobs that it names; empty: none
    hosts: tuple[str, ...]  # servers that it names; empty: any
    expires: int  # seconds since 1970

    @classmethod
    def parse(cls, raw_header: str, *, now: int) -> Self:
        """Parse and verify the header `Authorization`; every base64 alphabet and padding is accepted.

        Args:
            raw_header: Value of the header.
            now: Seconds since 1970.

        Raises:
            InvalidToken: It is not a valid token, or has expired, or is dated in the future.
        """
        scheme, _, encoded = raw_header.strip().partition(" ")
        if scheme.lower() != _SCHEME or len(encoded) > _MAX_HEADER:
            raise InvalidToken("Authorization is not a Nostr token")
        try:
            event = Event.parse(orjson.loads(_decode(encoded.strip())))
        except (ValueError, InvalidEvent) as error:  # JSONDecodeError is a ValueError
            raise InvalidToken(f"the token is not a signed event: {error}") from None
        if event.kind != TOKEN_KIND:
            raise InvalidToken(f"kind {event.kind} is not a token ({TOKEN_KIND})")
        expires = _expiration(event)
        if expires <= now:
            raise InvalidToken("the token has expired")
        if event.created_at > now + CLOCK_SKEW_S:
            raise InvalidToken("the token is dated in the future")
        verbs = [value for value in event.tag_values("t") if value in set(Verb)]
        if len(verbs) != 1:
            raise InvalidToken("the token does not say what it allows")
        hashes = [parse_hex(value, 32) for value in event.tag_values("x")]
        if None in hashes:
            raise InvalidToken("an x tag of the token is not a SHA-256")
        return cls(
            pubkey=event.pubkey,
            verb=Verb(verbs[0]),
            hashes=frozenset(filter(None, hashes)),
            hosts=tuple(map(_host, event.tag_values("server"))),
            expires=expires,
        )

    def check(self, verb: Verb, *, host: str, sha256: bytes | None = None) -> None:
        """Check that the token allows a request.

        Args:
            verb: What is asked for.
            host: Name of this server, without a port.
            sha256: The blob; None for a request without one. Uploads and deletions must be named by the token.

        Raises:
            InvalidToken: It does not; the message says why.
        """
        if self.verb is not verb:
            raise InvalidToken(f"the token allows {self.verb}, not {verb}")
        if self.hosts and host.lower() not in self.hosts:
            raise InvalidToken("the token is for another server")
        must_name = verb in {Verb.UPLOAD, Verb.DELETE} or self.hashes
        if sha256 is not None and must_name and sha256 not in self.hashes:
            raise InvalidToken(
                "the token is for another blob" if self.hashes else "the token has no tag x for the blob"
            )


def _decode(encoded: str) -> bytes:
    standard = encoded.replace("-", "+").replace("_", "/").rstrip("=")
    return pybase64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)


def _expiration(event: Event) -> int:
    found = event.tag_values("expiration")
    if len(found) != 1 or not found[0].isascii() or not found[0].isdecimal() or len(found[0]) > _MAX_DIGITS:
        raise InvalidToken("the token has no expiration")
    return int(found[0])


def _host(raw_server: str) -> str:
    """Return the host of a `server` tag; clients write a host, host:port or a URL."""
    text = raw_server.lower()
    try:
        return host_of(text if "://" in text else f"//{text}")
    except ValueError:  # not a host
        return ""
