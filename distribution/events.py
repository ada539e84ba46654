"""Release, head and chunk events: their kinds and tags in protocol version 1, to and from drafts. No I/O.

A `Release` or `Head` is parsed from a verified `Event`. Its rules are checked when the object is made, so none that
breaks the protocol can exist.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeGuard

import orjson

from distribution.ancestors import NO_ANCESTORS, Ancestor, Lineage, parse_lineage
from distribution.chunking import CHUNK_SIZE, encode
from distribution.errors import InvalidRelease
from distribution.event_tags import (
    check_time,
    decimal_value,
    expiration_tags,
    named_servers,
    parse_digest,
    relay_hints,
    server_tags,
    single_value,
)
from distribution.manifest import MAX_FILE_SIZE, is_count, is_digest, is_name
from relay_client.event import Event, EventDraft, Tags

CHUNK_KIND = 1064  # registered as NIP-95 blob data
RELEASE_KIND = 4181  # regular: a release never changes
HEAD_KIND = 34181  # addressable: the latest release of a name
FILE_KIND = 1063  # describes a file for other programs (NIP-94)
PROTOCOL = "1"
TOPIC = "randygpt"  # tag t of every release, by which it is found

MAX_VERSION = 2**31 - 1
MAX_MANIFEST_CHUNKS = 64
MAX_MANIFEST_SIZE = MAX_MANIFEST_CHUNKS * CHUNK_SIZE  # bytes
MAX_CARD_DEPTH = 64  # nested objects and lists
SHORT_ID = 12  # hex digits of an id where people read it

_FORMAT = re.compile("[A-Za-z0-9._-]{1,32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """An immutable version of a model, as its author signed it."""

    id: bytes  # event id, 32
    author: bytes  # x-only public key, 32
    created_at: int  # seconds since 1970
    name: str
    version: int
    format: str
    size: int  # bytes of all files
    manifest_sha256: bytes
    manifest_ids: tuple[bytes, ...]  # the events that carry the manifest, in order
    card: Mapping[str, object]  # the author's description of it; shown, never interpreted
    event: Event
    hints: tuple[str, ...] = ()  # relays that may have it, untrusted
    servers: tuple[str, ...] = ()  # origins of Blossom servers that may have it, untrusted
    lineage: Lineage = NO_ANCESTORS  # what it was made from, as the author claims

    def __post_init__(self) -> None:
        same = (self.id, self.author, self.created_at) == (self.event.id, self.event.pubkey, self.event.created_at)
        _check(same, "the release and its event differ")
        _check_name_and_version(self.name, self.version, "release")
        _check(is_format(self.format), "the release's format is malformed")
        _check(is_count(self.size, MAX_FILE_SIZE), f"a size is a whole number from 1 to {MAX_FILE_SIZE}")
        _check(is_digest(self.manifest_sha256), "the manifest's hash is not 32 bytes")
        parts = len(self.manifest_ids)
        _check(1 <= parts <= MAX_MANIFEST_CHUNKS, f"a manifest has 1 to {MAX_MANIFEST_CHUNKS} chunks, not {parts}")
        _check(all(map(is_digest, self.manifest_ids)), "an id of the manifest's chunks is not 32 bytes")
        _check(is_card(self.card), f"the card is not a JSON object of at most {MAX_CARD_DEPTH} levels")

    @property
    def title(self) -> str:
        """Name and version, as people read them."""
        return f"{self.name} version {self.version}"

    @property
    def short_id(self) -> str:
        """First hex digits of the id."""
        return self.id.hex()[:SHORT_ID]

    @property
    def base(self) -> Ancestor | None:
        """The release from which it was made, None if the author names none."""
        return self.lineage.base

    @property
    def merged(self) -> tuple[Ancestor, ...]:
        """The inputs of a merge; empty for other releases."""
        return self.lineage.merged

    @classmethod
    def parse(cls, event: Event, *, now: int) -> Self:
        """Parse the release in a verified event.

        Args:
            event: A verified event.
            now: Seconds since 1970.

        Raises:
            InvalidRelease: The event breaks the protocol, or is dated in the future.
        """
        _check_event(event, RELEASE_KIND, "release", now)
        if single_value(event, "v") != PROTOCOL:
            raise InvalidRelease("unsupported protocol version of a release")
        return cls(
            **_shared_fields(event),
            name=single_value(event, "name"),
            format=single_value(event, "format"),
            size=decimal_value(event, "size", MAX_FILE_SIZE),
            manifest_ids=tuple(parse_digest(value) for value in event.tag_values("e")),
            card=_card(event.content),
            event=event,
            lineage=parse_lineage(event.tags),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """An author's statement of which release of a name is the latest."""

    id: bytes  # event id, 32
    author: bytes  # x-only public key, 32
    created_at: int  # seconds since 1970
    name: str
    version: int
    manifest_sha256: bytes
    release_id: bytes
    hints: tuple[str, ...] = ()  # relays that may have the release, untrusted
    servers: tuple[str, ...] = ()  # origins of Blossom servers that may have it, untrusted

    def __post_init__(self) -> None:
        digests = (self.id, self.author, self.manifest_sha256, self.release_id)
        _check(all(map(is_digest, digests)), "an id or hash of the head is not 32 bytes")
        _check_name_and_version(self.name, self.version, "head")

    @classmethod
    def parse(cls, event: Event, *, now: int) -> Self:
        """Parse the head in a verified event.

        Args:
            event: A verified event.
            now: Seconds since 1970.

        Raises:
            InvalidRelease: The event breaks the protocol, or is dated in the future.
        """
        _check_event(event, HEAD_KIND, "head", now)
        return cls(
            **_shared_fields(event),
            name=single_value(event, "d"),
            release_id=parse_digest(single_value(event, "e")),
        )

    def names(self, release: Release) -> bool:
        """Return whether the head and the release agree; only then does the head count."""
        return (self.release_id, self.author, self.name, self.version, self.manifest_sha256) == (
            release.id,
            release.author,
            release.name,
            release.version,
            release.manifest_sha256,
        )


def _check_event(event: Event, kind: int, noun: str, now: int) -> None:
    if event.kind != kind:
        raise InvalidRelease(f"kind {event.kind} is not a {noun} ({kind})")
    check_time(event, now)


def _shared_fields(event: Event) -> dict[str, Any]:
    """Return the fields that a release and a head have in common."""
    return {
        "id": event.id,
        "author": event.pubkey,
        "created_at": event.created_at,
        "version": decimal_value(event, "version", MAX_VERSION),
        "manifest_sha256": parse_digest(single_value(event, "x")),
        "hints": relay_hints(event.tags),
        "servers": named_servers(event),
    }


def chunk_draft(data: bytes, *, sha256: bytes, created_at: int, expires: int | None = None) -> EventDraft:
    """Return the draft of the event that carries one chunk (at most 46,080 bytes)."""
    tags: Tags = (("x", sha256.hex()), *expiration_tags(expires))
    return EventDraft(kind=CHUNK_KIND, created_at=created_at, tags=tags, content=encode(data))


def release_draft(  # noqa: PLR0913 (a release has this many facts)
    manifest: bytes,
    manifest_ids: Sequence[bytes],
    *,
    name: str,
    version: int,
    format: str,  # noqa: A002 (the protocol's word)
    size: int,
    card: Mapping[str, object],
    hint: str,
    created_at: int,
    expires: int | None = None,
    servers: Sequence[str] = (),
    tags: Tags = (),
) -> EventDraft:
    """Return the draft of the event that announces a release.

    Args:
        manifest: The encoded manifest.
        manifest_ids: Ids of the events that carry it, in order.
        name: Model name.
        version: Version of the release.
        format: Format of the checkpoint.
        size: Bytes of all files together.
        card: JSON object that describes the model.
        hint: URL of a relay that has the manifest.
        created_at: Seconds since 1970.
        expires: Seconds since 1970 (NIP-40); None: never.
        servers: Origins of Blossom servers that have its blobs.
        tags: Further tags, as `event_tags.find_further_fault` allows them.
    """
    all_tags: Tags = (
        ("v", PROTOCOL),
        ("name", name),
        ("version", str(version)),
        ("format", format),
        ("size", str(size)),
        ("x", hashlib.sha256(manifest).hexdigest()),
        *(("e", event_id.hex(), hint) for event_id in manifest_ids),
        *server_tags(servers),
        ("t", TOPIC),
        ("t", "ai-model"),
        *tags,
        ("alt", f"Language model {name}, version {version}: fetch it with randygpt"),
        *expiration_tags(expires),
    )
    content = orjson.dumps(card, option=orjson.OPT_SORT_KEYS).decode()
    return EventDraft(kind=RELEASE_KIND, created_at=created_at, tags=all_tags, content=content)


class Named(Protocol):
    """What a head states about a release; `Release` has it."""

    @property
    def id(self) -> bytes:
        """Event id, 32 bytes."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def version(self) -> int:
        """Version of the release."""

    @property
    def manifest_sha256(self) -> bytes:
        """SHA-256 of the manifest."""


def head_draft(
    release: Named, *, hint: str, created_at: int, expires: int | None = None, servers: Sequence[str] = ()
) -> EventDraft:
    """Return the draft of the event that names `release` as the latest of its name; `servers` have its blobs."""
    tags: Tags = (
        ("d", release.name),
        ("e", release.id.hex(), hint),
        ("version", str(release.version)),
        ("x", release.manifest_sha256.hex()),
        *server_tags(servers),
        ("alt", f"Latest version of the language model {release.name}: {release.version}"),
        *expiration_tags(expires),
    )
    return EventDraft(kind=HEAD_KIND, created_at=created_at, tags=tags)


def _card(content: str) -> Any:  # noqa: ANN401 (decoded JSON; Release checks it)
    try:
        card = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return card


def is_format(raw_text: object) -> bool:
    """Return whether this can be the format of a checkpoint: `[A-Za-z0-9._-]{1,32}`."""
    return isinstance(raw_text, str) and _FORMAT.fullmatch(raw_text) is not None


def _check(holds: bool, fault: str) -> None:  # noqa: FBT001 (a condition)
    if not holds:
        raise InvalidRelease(fault)


def _check_name_and_version(name: str, version: int, noun: str) -> None:
    _check(is_name(name), f"the {noun}'s name is not allowed")
    _check(is_count(version, MAX_VERSION), f"a version is a whole number from 1 to {MAX_VERSION}")


def is_card(value: object) -> TypeGuard[Mapping[str, object]]:
    """Return whether this is a JSON object of at most 64 levels, which every JSON library can read."""
    if not isinstance(value, dict):
        return False
    nested: list[dict[str, object] | list[object]] = [value]
    for _ in range(MAX_CARD_DEPTH):
        inner = (item for outer in nested for item in (outer.values() if isinstance(outer, dict) else outer))
        nested = [item for item in inner if isinstance(item, dict | list)]
    return not nested
