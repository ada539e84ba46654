"""Nostr events (NIP-01): drafts, signing, and events verified by construction. No I/O.

`EventDraft` is an event before signing. `HashedEvent` has the id that its fields hash to; its signature is unchecked.
`Event` has a valid id and a valid signature. No object of these types can be constructed otherwise.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import coincurve
import orjson

from relay_client.errors import CallerError, InvalidEvent
from relay_client.hexadecimal import parse_hex

Tags = tuple[tuple[str, ...], ...]

MAX_KIND = 65_535
MAX_TIMESTAMP = 2**53 - 1  # the largest integer that every JSON reader keeps exact

# Bytes of a signed event as JSON beyond those that its id hashes: names, "id" and "sig", less the 0 and a comma.
_SIGNED_EXTRA = sum(len(f'"{name}":') for name in ("id", "pubkey", "created_at", "kind", "tags", "content", "sig"))
_SIGNED_EXTRA += len('"",') + 64 + len('"",') + 128 - len("0,")


class Signer(Protocol):
    """Signer of one author's events, for example `relay_client.keys.SecretKey`."""

    @property
    def pubkey(self) -> bytes:
        """X-only public key, 32 bytes (BIP-340)."""

    def sign(self, digest: bytes) -> bytes:
        """Return the BIP-340 signature (64 bytes) of a 32-byte digest."""


class EventSigner(Protocol):
    """Signer of a person's events: a `SecretKey`, or a remote signer (NIP-46), which may ask the person first."""

    @property
    def pubkey(self) -> bytes:
        """X-only public key of the person, 32 bytes (BIP-340)."""

    async def sign_event(self, draft: "EventDraft") -> "Event":
        """Return the signed event: exactly the draft, by `pubkey`.

        Raises:
            CallerError: The event is too large for a remote signer.
            SignerRefused: The remote signer refuses, or does not answer.
            InvalidSigned: The remote signer signed something else.
        """


def decode_hex(raw_text: object, size: int) -> bytes:
    """Return the bytes of a lower-case hex string of exactly `size` bytes; raises InvalidEvent."""
    if (data := parse_hex(raw_text, size)) is None:
        raise InvalidEvent(f"not {size} bytes in lower-case hex")
    return data


def first_tag_value(raw_event: Mapping[str, object], name: str) -> str | None:
    """Return the second element of the first tag called `name` in an unchecked event, or None."""
    raw_tags = raw_event.get("tags")
    for raw_item in raw_tags if isinstance(raw_tags, list) else []:
        match raw_item:
            case [str(found), str(value), *_] if found == name:
                return value
    return None


def claimed_id(raw_event: Mapping[str, object]) -> str:
    """Return the id that an unchecked event claims; empty if it is no text."""
    raw_id = raw_event.get("id")
    return raw_id if isinstance(raw_id, str) else ""


def _serialise(pubkey: bytes, created_at: int, kind: int, tags: Tags, content: str) -> bytes:
    """Return the bytes that the id of an event hashes (NIP-01)."""
    return _dump([0, pubkey.hex(), created_at, kind, tags, content])


def _dump(fields: list[object]) -> bytes:
    try:
        return orjson.dumps(fields)
    except TypeError as error:  # a lone surrogate has no UTF-8
        raise InvalidEvent(f"cannot be serialised: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventDraft:
    """An event before it is signed. Raises CallerError for values that no event can have."""

    kind: int  # 0 to 65,535
    created_at: int  # seconds since 1970
    tags: Tags = ()
    content: str = ""

    def __post_init__(self) -> None:
        try:
            _check_fields(self.kind, self.created_at, self.tags, self.content)
            _dump([self.tags, "" if self.content.isascii() else self.content])
        except InvalidEvent as error:
            raise CallerError(f"no event can be made of this: {error}") from None

    def id_for(self, pubkey: bytes) -> bytes:
        """Return the id this draft gets when the key `pubkey` (32 bytes) signs it (NIP-01)."""
        return self.identify(pubkey)[0]

    @property
    def signed_size(self) -> int:
        """Size in bytes of the signed event as JSON."""
        return self.identify(bytes(32))[1]

    def identify(self, pubkey: bytes) -> tuple[bytes, int]:
        """Return `id_for(pubkey)` and `signed_size`, which take one serialisation together."""
        serialised = _serialise(pubkey, self.created_at, self.kind, self.tags, self.content)
        return hashlib.sha256(serialised).digest(), len(serialised) + _SIGNED_EXTRA

    def sign(self, signer: Signer) -> "Event":
        """Sign the event. The signature is made here, so it is not verified again."""
        event = object.__new__(Event)
        event_id = self.id_for(signer.pubkey)
        fields = {
            "id": event_id,
            "pubkey": signer.pubkey,
            "created_at": self.created_at,
            "kind": self.kind,
            "tags": self.tags,
            "content": self.content,
            "sig": signer.sign(event_id),
        }
        for name, value in fields.items():
            object.__setattr__(event, name, value)
        return event


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedEvent:
    """An event whose fields hash to its id. Its signature is NOT checked: use it only where the id is trusted."""

    id: bytes  # 32
    pubkey: bytes  # 32, x-only
    created_at: int  # seconds since 1970
    kind: int
    tags: Tags
    content: str
    sig: bytes  # 64, BIP-340

    def __post_init__(self) -> None:
        if not (_is_bytes(self.id, 32) and _is_bytes(self.pubkey, 32) and _is_bytes(self.sig, 64)):
            raise InvalidEvent("id, pubkey or sig has a wrong size")
        _check_fields(self.kind, self.created_at, self.tags, self.content)
        serialised = _serialise(self.pubkey, self.created_at, self.kind, self.tags, self.content)
        if hashlib.sha256(serialised).digest() != self.id:
            raise InvalidEvent("the id is not the hash of the event")

    @classmethod
    def parse(cls, raw_event: object) -> Self:
        """Parse an event from decoded JSON; raises InvalidEvent. Unknown fields are ignored, as NIP-01 clients do."""
        if not isinstance(raw_event, Mapping):
            raise InvalidEvent("not an object")
        return cls(
            id=decode_hex(raw_event.get("id"), 32),
            pubkey=decode_hex(raw_event.get("pubkey"), 32),
            created_at=_integer(raw_event.get("created_at"), "created_at", MAX_TIMESTAMP),
            kind=_integer(raw_event.get("kind"), "kind", MAX_KIND),
            tags=_tags(raw_event.get("tags")),
            content=_string(raw_event.get("content"), "content"),
            sig=decode_hex(raw_event.get("sig"), 64),
        )

    def to_dict(self) -> dict[str, object]:
        """Return the event as a JSON object (NIP-01)."""
        return {
            "id": self.id.hex(),
            "pubkey": self.pubkey.hex(),
            "created_at": self.created_at,
            "kind": self.kind,
            "tags": self.tags,
            "content": self.content,
            "sig": self.sig.hex(),
        }

    def to_json(self) -> bytes:
        """Return the event as one line of UTF-8 JSON."""
        return orjson.dumps(self.to_dict())

    def tag_values(self, name: str) -> list[str]:
        """Return the second element of every tag called `name`, in order; shorter tags are skipped."""
        return [tag[1] for tag in self.tags if len(tag) > 1 and tag[0] == name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(HashedEvent):
    """An event with a valid id and Schnorr signature (BIP-340). Constructing any other raises InvalidEvent."""

    def __post_init__(self) -> None:
        HashedEvent.__post_init__(self)  # super() does not survive slots=True before Python 3.14
        try:
            is_valid = coincurve.PublicKeyXOnly(self.pubkey).verify(self.sig, self.id)
        except ValueError:  # the public key is not on the curve
            is_valid = False
        if not is_valid:
            raise InvalidEvent("the signature does not verify")


def _check_fields(kind: object, created_at: object, tags: object, content: object) -> None:
    """Raise InvalidEvent unless the fields have the types and ranges of NIP-01."""
    _integer(created_at, "created_at", MAX_TIMESTAMP)
    _integer(kind, "kind", MAX_KIND)
    if not isinstance(tags, tuple) or not all(isinstance(tag, tuple) for tag in tags):
        raise InvalidEvent("tags is not a tuple of tuples")
    _tags(tags)
    _string(content, "content")


def _is_bytes(value: object, size: int) -> bool:
    return isinstance(value, bytes) and len(value) == size


def _integer(raw_value: object, name: str, maximum: int) -> int:
    if type(raw_value) is not int or not 0 <= raw_value <= maximum:  # bool is a subclass of int
        raise InvalidEvent(f"{name} is not an integer from 0 to {maximum}")
    return raw_value


def _string(raw_value: object, name: str) -> str:
    if not isinstance(raw_value, str):
        raise InvalidEvent(f"{name} is not text")
    return raw_value


def _tags(raw_value: object) -> Tags:
    if not isinstance(raw_value, list | tuple):
        raise InvalidEvent("tags is not a list")
    for raw_tag in raw_value:
        if not isinstance(raw_tag, list | tuple) or not all(isinstance(item, str) for item in raw_tag):
            raise InvalidEvent("a tag is not a list of text")
    return tuple(tuple(raw_tag) for raw_tag in raw_value)


def latest_event(events: Iterable[Event], *, kind: int, author: bytes) -> Event | None:
    """Return the current event of a replaceable kind, or None (NIP-01): the newest; the lower id wins a tie."""
    found = [event for event in events if event.kind == kind and event.pubkey == author]
    return min(found, key=lambda event: (-event.created_at, event.id), default=None)
