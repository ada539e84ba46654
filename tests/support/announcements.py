"""Announcements of models for tests of search: manifest, release and head, without the files themselves."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgpack
import orjson

from distribution.chunking import CHUNK_SIZE, count
from distribution.events import Release, chunk_draft, head_draft, release_draft
from relay_client.event import Event, Tags
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
