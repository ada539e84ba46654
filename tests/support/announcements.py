"""Announcements of models for tests of search: manifest, release and head, without the files themselves."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgpack
import orjson

from distribution.chunking import CHUNK_SIZE, count
from distribution.events import RELEASE_KIND, Release, chunk_draft, head_draft, release_draft
from relay_client.event import Event, EventDraft, Tags
from relay_client.keys import SecretKey
from support.scripted_relay import RawEvent


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """The events that announce a model, without those of its files."""

    manifest: Event
    release: Event
    head: Event

    @property
    def events(self) -> tuple[Event, ...]:
        return self.manifest, self.release, self.head


def announce(
    key: SecretKey,
    name: str,
    *,
    version: int = 1,
    created_at: int,
    size: int = 300,
    card: Mapping[str, object] = MappingProxyType({}),
    tags: Tags = (),
) -> Announcement:
    """Sign the announcement of a model of `size` bytes."""
    encoded = manifest_bytes(size)
    manifest = chunk_draft(encoded, sha256=bytes(32), created_at=created_at).sign(key)
    draft = release_draft(
        encoded,
        [manifest.id],
        name=name,
        version=version,
        format="RGPT0003",
        size=size,
        card=dict(card),
        hint="",
        created_at=created_at,
        tags=tags,
    )
    release = draft.sign(key)
    head = head_draft(Release.parse(release, now=created_at), hint="", created_at=created_at).sign(key)
    return Announcement(manifest=manifest, release=release, head=head)


@functools.cache
def manifest_bytes(size: int) -> bytes:
    """Return a manifest of three files that have `size` bytes together."""
    files = [_file("m.bin", "checkpoint", "weights", size - 2)]
    files += [_file(f"{role}.json", role, "data", 1) for role in ("tokenizer", "config")]
    encoded: bytes = msgpack.packb({"v": 1, "chunk_size": CHUNK_SIZE, "files": files})
    return encoded


def _file(path: str, role: str, segment: str, size: int) -> dict[str, Any]:
    references = b"".join(bytes([number % 251]) * 64 for number in range(count(size)))
    digest = bytes(32)
    segments = [[segment, size, digest]]
    return {"path": path, "role": role, "size": size, "sha256": digest, "segments": segments, "chunks": references}


def stored(events: Iterable[Event]) -> dict[str, RawEvent]:
    """Return events as a scripted relay stores them."""
    return {event.id.hex(): orjson.loads(event.to_json()) for event in events}


def real_models(now: int) -> list[Announcement]:
    """Return 20 complete models by ten authors, older than any flood."""
    authors = [SecretKey.generate() for _ in range(10)]
    return [
        announce(key, f"model{author}-{number}", created_at=now - 50_000 - 10 * author - number)
        for author, key in enumerate(authors)
        for number in range(2)
    ]


def flood(count: int, now: int) -> list[Event]:
    """Return hostile events of the kinds that a search reads, most of them newer than every real model.

    A third are releases by as many keys, without a head; others are events that are no release, many of one second;
    models of one key; models whose manifest is missing, by names of real models; heads that name nothing; and events as
    large as relays allow.
    """
    spammer = SecretKey.generate()
    events: list[Event] = []
    for number in range(-(-count // 6)):
        one = SecretKey.generate()
        events += [announce(one, f"spam{number}", created_at=now - number % 3_000).release]
        events += [announce(SecretKey.generate(), f"spam-{number}", created_at=now - 7).release]
        junk: Tags = (("t", "randygpt"), ("name", f"{number}"))
        content = "x" * (60_000 if number % 50 == 0 else 10)
        events += [EventDraft(kind=RELEASE_KIND, created_at=now - number % 2, tags=junk, content=content).sign(one)]
        many = announce(spammer, f"many{number}", created_at=now - number)
        imitation = announce(one, f"model{number % 10}-{number % 2}", size=300 + number, created_at=now - 100)
        events += [many.release, imitation.release, imitation.head]
    return events[:count]
