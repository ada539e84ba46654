"""Release, head and chunk events: their kinds and tags in protocol version 1, to and from drafts. No I/O.

A `Release` or `Head` is parsed from a verified `Event`. Its rules are checked when the object is made, so none that
breaks the protocol can exist.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeGuard

import orjson

from distribution.chunking import CHUNK_SIZE, encode
from distribution.errors import InvalidRelease
from distribution.manifest import MAX_FILE_SIZE, is_count, is_digest, is_name
from relay_client.blossom.address import MAX_SERVERS, is_public_origin
from relay_client.errors import InvalidEvent
from relay_client.event import Event, EventDraft, Tags
from relay_client.filter import Filter
from relay_client.hexadecimal import parse_hex

CHUNK_KIND = 1064  # registered as NIP-95 blob data
RELEASE_KIND = 4181  # regular: a release never changes
HEAD_KIND = 34181  # addressable: the latest release of a name
PROTOCOL = "1"

MAX_VERSION = 2**31 - 1
MAX_MANIFEST_CHUNKS = 64
MAX_MANIFEST_SIZE = MAX_MANIFEST_CHUNKS * CHUNK_SIZE  # bytes
MAX_CARD_DEPTH = 64  # nested objects and lists
MAX_FUTURE_S = 900  # as relays allow
_HEADS_PER_RELAY = 10  # an honest relay returns one

_DECIMAL = re.compile("[1-9][0-9]{0,15}")
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

    def __post_init__(self) -> None:
        same = (self.id, self.author, self.created_at) == (self.event.id, self.event.pubkey, self.event.created_at)
        _check(same, "the release and its event differ")
        _check(is_name(self.name), "the release's name is not allowed")
        _check(is_count(self.version, MAX_VERSION), f"a version is a whole number from 1 to {MAX_VERSION}")
        _check(is_format(self.format), "the release's format is malformed")
        _check(is_count(self.size, MAX_FILE_SIZE), f"a size is a whole number from 1 to {MAX_FILE_SIZE}")
        _check(is_digest(self.manifest_sha256), "the manifest's hash is not 32 bytes")
        parts = len(self.manifest_ids)
        _check(1 <= parts <= MAX_MANIFEST_CHUNKS, f"a manifest has 1 to {MAX_MANIFEST_CHUNKS} chunks, not {parts}")
        _check(all(map(is_digest, self.manifest_ids)), "an id of the manifest's chunks is not 32 bytes")
        _check(is_card(self.card), f"the card is not a JSON object of at most {MAX_CARD_DEPTH} levels")

    @classmethod
    def parse(cls, event: Event, *, now: int) -> Self:
        """Parse the release in a verified event.

        Args:
            event: A verified event.
            now: Seconds since 1970.

        Raises:
            InvalidRelease: The event breaks the protocol, or is dated in the future.
        """
        if event.kind != RELEASE_KIND:
            raise InvalidRelease(f"kind {event.kind} is not a release ({RELEASE_KIND})")
        check_time(event, now)
        if _one(event, "v") != PROTOCOL:
            raise InvalidRelease("unsupported protocol version of a release")
        return cls(
            id=event.id,
            author=event.pubkey,
            created_at=event.created_at,
            name=_one(event, "name"),
            version=_decimal(event, "version", MAX_VERSION),
            format=_one(event, "format"),
            size=_decimal(event, "size", MAX_FILE_SIZE),
            manifest_sha256=_hex32(_one(event, "x")),
            manifest_ids=tuple(_hex32(value) for value in event.tag_values("e")),
            card=_card(event.content),
            hints=_hints(event),
            servers=_servers(event),
            event=event,
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
        _check(is_name(self.name), "the head's name is not allowed")
        _check(is_count(self.version, MAX_VERSION), f"a version is a whole number from 1 to {MAX_VERSION}")

    @classmethod
    def parse(cls, event: Event, *, now: int) -> Self:
        """Parse the head in a verified event.

        Args:
            event: A verified event.
            now: Seconds since 1970.

        Raises:
            InvalidRelease: The event breaks the protocol, or is dated in the future.
        """
        if event.kind != HEAD_KIND:
            raise InvalidRelease(f"kind {event.kind} is not a head ({HEAD_KIND})")
        check_time(event, now)
        return cls(
            id=event.id,
            author=event.pubkey,
            created_at=event.created_at,
            name=_one(event, "d"),
            version=_decimal(event, "version", MAX_VERSION),
            manifest_sha256=_hex32(_one(event, "x")),
            release_id=_hex32(_one(event, "e")),
            hints=_hints(event),
            servers=_servers(event),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundHead:
    """A verified head and the relay that returned it."""

    url: str
    head: Head
    event: Event


def heads_filter(author: bytes, name: str) -> Filter:
    """Return the filter that asks for the heads of an author's name."""
    return Filter(authors=(author,), kinds=(HEAD_KIND,), tags={"d": (name,)}, limit=_HEADS_PER_RELAY)


def read_heads(
    answers: Iterable[tuple[str, Mapping[str, object]]], author: bytes, name: str, *, now: int
) -> tuple[list[FoundHead], list[Exception]]:
    """Verify the answers to `heads_filter`.

    Args:
        answers: (relay, raw event) pairs, as `Pool.query` returns them.
        author: X-only public key, 32 bytes.
        name: Model name.
        now: Seconds since 1970.

    Returns:
        The valid heads of this author and name, and one error for each answer that is not one.
    """
    found: list[FoundHead] = []
    errors: list[Exception] = []
    for url, raw_event in answers:
        try:
            event = Event.parse(raw_event)
            head = Head.parse(event, now=now)
        except (InvalidEvent, InvalidRelease) as error:
            errors.append(error)
            continue
        if (head.author, head.name) == (author, name):
            found.append(FoundHead(url=url, head=head, event=event))
        else:
            errors.append(InvalidRelease("the head belongs to another author or name"))
    return found, errors


def chunk_draft(data: bytes, *, sha256: bytes, created_at: int, expires: int | None = None) -> EventDraft:
    """Return the draft of the event that carries one chunk (at most 46,080 bytes)."""
    tags: Tags = (("x", sha256.hex()), *_expiration(expires))
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
    """
    tags: Tags = (
        ("v", PROTOCOL),
        ("name", name),
        ("version", str(version)),
        ("format", format),
        ("size", str(size)),
        ("x", hashlib.sha256(manifest).hexdigest()),
        *(("e", event_id.hex(), hint) for event_id in manifest_ids),
        *_server_tags(servers),
        ("t", "randygpt"),
        ("t", "ai-model"),
        ("alt", f"Language model {name}, version {version}: fetch it with randygpt"),
        *_expiration(expires),
    )
    content = orjson.dumps(card, option=orjson.OPT_SORT_KEYS).decode()
    return EventDraft(kind=RELEASE_KIND, created_at=created_at, tags=tags, content=content)


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
        *_server_tags(servers),
        ("alt", f"Latest version of the language model {release.name}: {release.version}"),
        *_expiration(expires),
    )
    return EventDraft(kind=HEAD_KIND, created_at=created_at, tags=tags)


def _expiration(expires: int | None) -> Tags:
    """Return the tag that allows relays to delete an event (NIP-40); readers ignore it."""
    return () if expires is None else (("expiration", str(expires)),)


def public_servers(origins: Iterable[str]) -> tuple[str, ...]:
    """Return the servers that a release or head may name: readers follow only public `https` origins, at most 16."""
    return tuple(origin for origin in origins if is_public_origin(origin))[:MAX_SERVERS]


def _server_tags(servers: Iterable[str]) -> Tags:
    return tuple(("server", origin) for origin in public_servers(servers))


def check_time(event: Event, now: int) -> None:
    """Raise InvalidRelease for an event from the future; `now` is in seconds since 1970."""
    if event.created_at > now + MAX_FUTURE_S:
        raise InvalidRelease(f"the event is dated {event.created_at - now} s in the future")


def _hints(event: Event) -> tuple[str, ...]:
    """Return the relay hints in the `e` tags of an event, each once."""
    return tuple(dict.fromkeys(hint for tag in event.tags if tag[:1] == ("e",) for hint in tag[2:3] if hint))


def _servers(event: Event) -> tuple[str, ...]:
    """Return the Blossom servers that an event names, each once; what is no public origin is skipped."""
    return tuple(dict.fromkeys(public_servers(event.tag_values("server")[:MAX_SERVERS])))


def _one(event: Event, tag: str) -> str:
    values = event.tag_values(tag)
    if len(values) != 1:
        raise InvalidRelease(f"the event does not have exactly one tag {tag}")
    return values[0]


def _decimal(event: Event, tag: str, maximum: int) -> int:
    text = _one(event, tag)
    if not _DECIMAL.fullmatch(text) or int(text) > maximum:
        raise InvalidRelease(f"tag {tag} is not a whole number from 1 to {maximum}")
    return int(text)


def _hex32(text: str) -> bytes:
    if (value := parse_hex(text, 32)) is None:
        raise InvalidRelease("an id or hash is not 32 bytes in lower-case hex")
    return value


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


def is_card(value: object) -> TypeGuard[Mapping[str, object]]:
    """Return whether this is a JSON object of at most 64 levels, which every JSON library can read."""
    if not isinstance(value, dict):
        return False
    nested: list[dict[str, object] | list[object]] = [value]
    for _ in range(MAX_CARD_DEPTH):
        inner = (item for outer in nested for item in (outer.values() if isinstance(outer, dict) else outer))
        nested = [item for item in inner if isinstance(item, dict | list)]
    return not nested
