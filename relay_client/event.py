"""Nostr events (NIP-01): drafts, signing, and events verified by construction. No I/O.

Types climb: `EventDraft` (what an author wants to say), `HashedEvent` (its fields hash to its id; who signed it is
not checked), `Event` (id and signature both hold). No object of the last two types can exist otherwise.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import coincurve
import orjson

from relay_client.errors import InvalidEvent
from relay_client.hexadecimal import parse_hex

Tags = tuple[tuple[str, ...], ...]

MAX_KIND = 65_535
MAX_TIMESTAMP = 2**53 - 1  # the largest whole number every JSON reader keeps exact

_FIELDS = ("id", "pubkey", "created_at", "kind", "tags", "content", "sig")


class Signer(Protocol):
    """Whatever can sign as one author; `relay_client.keys.SecretKey` is one."""

    @property
    def pubkey(self) -> bytes:
        """X-only public key, 32 bytes (BIP-340)."""

    def sign(self, digest: bytes) -> bytes:
        """BIP-340 signature, 64 bytes, over a 32-byte digest."""


def decode_hex(raw_text: object, size: int) -> bytes:
    """Bytes of a lower-case hex string of exactly `size` bytes; raises InvalidEvent."""
    if (data := parse_hex(raw_text, size)) is None:
        raise InvalidEvent(f"not {size} bytes in lower-case hex")
    return data


def raw_tag(raw_event: Mapping[str, object], name: str) -> str | None:
    """The second element of the first tag called `name` in decoded JSON of which nothing is checked."""
    raw_tags = raw_event.get("tags")
    for raw_item in raw_tags if isinstance(raw_tags, list) else []:
        match raw_item:
            case [str(found), str(value), *_] if found == name:
                return value
    return None


def _digest(pubkey: bytes, created_at: int, kind: int, tags: Tags, content: str) -> bytes:
    return hashlib.sha256(_dump([0, pubkey.hex(), created_at, kind, tags, content])).digest()


def _dump(fields: list[object]) -> bytes:
    try:
        return orjson.dumps(fields)
    except TypeError as error:  # a lone surrogate has no UTF-8
        raise InvalidEvent(f"cannot be serialised: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventDraft:
    """An event before it is signed."""

    kind: int
    created_at: int  # seconds since 1970
    tags: Tags = ()
    content: str = ""

    def id_for(self, pubkey: bytes) -> bytes:
        """The id this draft gets when `pubkey` (32 bytes) signs it (NIP-01)."""
        return _digest(pubkey, self.created_at, self.kind, self.tags, self.content)

    @property
    def signed_size(self) -> int:
        """Bytes of the event as JSON, once it is signed; raises InvalidEvent if it has no JSON."""
        fields: list[object] = [self.created_at, self.kind, self.tags, self.content]
        names = sum(len(name) + 4 for name in _FIELDS) + 1  # "name":value, with braces for the first comma
        return len(_dump(fields)) - len(fields) - 1 + names + sum(size + 2 for size in (64, 64, 128))

    def sign(self, signer: Signer) -> "Event":
        """The event, signed. The signature is made here, so it is not verified a second time."""
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
    """An event whose fields hash to its id. Who signed it is NOT checked: fit only where the id itself is trusted."""

    id: bytes  # 32
    pubkey: bytes  # 32, x-only
    created_at: int  # seconds since 1970
    kind: int
    tags: Tags
    content: str
    sig: bytes  # 64, BIP-340

    def __post_init__(self) -> None:
        if _digest(self.pubkey, self.created_at, self.kind, self.tags, self.content) != self.id:
            raise InvalidEvent("the id is not the hash of the event")

    @classmethod
    def parse(cls, raw_event: object) -> Self:
        """The event in decoded JSON; raises InvalidEvent. Unknown keys are ignored, as NIP-01 clients do."""
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
        """The event as NIP-01 writes it, ready for JSON."""
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
        """The event as one line of UTF-8 JSON."""
        return orjson.dumps(self.to_dict())

    def tag_values(self, name: str) -> list[str]:
        """The second element of every tag called `name`, in order; a tag without one is passed over."""
        return [tag[1] for tag in self.tags if len(tag) > 1 and tag[0] == name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(HashedEvent):
    """An event whose id and Schnorr signature both hold. Making one that does not raises InvalidEvent."""

    def __post_init__(self) -> None:
        HashedEvent.__post_init__(self)  # super() does not survive slots=True before Python 3.14
        try:
            holds = coincurve.PublicKeyXOnly(self.pubkey).verify(self.sig, self.id)
        except ValueError:  # the public key is not on the curve
            holds = False
        if not holds:
            raise InvalidEvent("the signature does not hold")


def _integer(raw_value: object, name: str, maximum: int) -> int:
    if type(raw_value) is not int or not 0 <= raw_value <= maximum:  # bool is an int too, and not meant
        raise InvalidEvent(f"{name} is not a whole number from 0 to {maximum}")
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
