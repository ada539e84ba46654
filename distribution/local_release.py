"""An installed release as the events that its author signed, rebuilt from its files and the event archive.

A chunk whose signature is unknown becomes a copy under a throw-away key, and readers find it by its hash. Reads files.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import orjson

from distribution.chunking import decode
from distribution.errors import CallerError, InvalidRelease, StoreError
from distribution.events import Release, chunk_draft
from distribution.installed import InstalledFile, InstalledRelease
from distribution.manifest import RESERVED, Chunk, Manifest
from distribution.store import Store
from relay_client.errors import InvalidEvent
from relay_client.event import Event
from relay_client.keys import SecretKey


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalChunk:
    """A local chunk, and whether it is sent under its own signature or as a copy."""

    file: InstalledFile
    chunk: Chunk
    sig: bytes | None  # of the key that signed the release's chunks; None: send a copy

    @property
    def id(self) -> bytes:
        """Id of its event, from the manifest."""
        return self.chunk.event_id

    def read(self) -> bytes:
        """Return its bytes as the author published them; raises StoreError if they are damaged, and OSError."""
        with self.file.local_path.open("rb") as file:
            file.seek(self.chunk.offset)
            data = file.read(self.chunk.size)
        if self.file.original and self.chunk.offset == 0:
            data = self.file.original.start + data[len(self.file.original.start) :]
        if hashlib.sha256(data).digest() != self.chunk.sha256:
            raise StoreError(f"{self.file.local_path}: damaged; fetch the release again")
        return data


class LocalRelease:
    """Events of one installed release.

    Args:
        store: Store with the release.
        installed: The release.
        now: Seconds since 1970.

    Raises:
        CallerError: The author revoked the release.
        StoreError: The store lacks events of the release, or is damaged.
    """

    def __init__(self, store: Store, installed: InstalledRelease, *, now: int) -> None:
        self._installed = installed
        self._archive = store.event_archive
        self._now = now
        self._copier = SecretKey.generate()
        self.release = read_release(installed, now)
        self.announcement = [*self._archive.manifest(installed.id), self.release.event]
        self.manifest = read_manifest(store, self.release)
        check_not_revoked(store, installed)

    def head(self) -> Event | None:
        """Return the head that named the release when it was fetched, if it is stored."""
        return self._archive.head(self._installed.id)

    def chunks(self) -> Iterator[tuple[InstalledFile | None, Chunk]]:
        """Yield every chunk of the manifest, and the installed file that it belongs to."""
        local = {file.path: file for file in self._installed.files}
        for entry in self.manifest.files:
            for chunk in entry.chunks(self.manifest.chunk_size):
                yield local.get(entry.path), chunk

    def plan(self) -> tuple[list[LocalChunk], int]:
        """Return each local chunk once, verified against the manifest, and the number of chunks that are not local."""
        signatures = self._archive.signatures(self._installed.id)
        chunks: dict[bytes, LocalChunk] = {}
        missing = set()
        for file, chunk in self.chunks():
            if chunk.event_id in chunks:
                continue
            if file is None or chunk.offset + chunk.size > file.size:
                missing.add(chunk.event_id)
                continue
            local = LocalChunk(file=file, chunk=chunk, sig=signatures.get(chunk.event_id))
            try:
                self.event(local)
            except InvalidEvent:  # a wrong signature, or an event that another program drafted differently
                local = replace(local, sig=None)
            chunks[chunk.event_id] = local
        return list(chunks.values()), len(missing - chunks.keys())

    def event(self, local: LocalChunk) -> Event:
        """Return the event of a chunk; raises InvalidEvent if it is not the one that the manifest names."""
        expires = self.release.event.tag_values("expiration")
        draft = chunk_draft(
            local.read(),
            sha256=local.chunk.sha256,
            created_at=self.release.created_at if local.sig else self._now,
            expires=int(expires[0]) if expires and expires[0].isdecimal() else None,
        )
        if local.sig is None:
            return draft.sign(self._copier)
        return Event(
            id=local.id,
            pubkey=self.manifest.chunk_author or self.release.author,
            created_at=draft.created_at,
            kind=draft.kind,
            tags=draft.tags,
            content=draft.content,
            sig=local.sig,
        )


def read_release(installed: InstalledRelease, now: int) -> Release:
    """Return the signed release of an installed one; `now` in seconds since 1970. Raises StoreError and OSError."""
    path = installed.folder / RESERVED
    try:
        return Release.parse(Event.parse(orjson.loads(path.read_bytes())["event"]), now=now)
    except (orjson.JSONDecodeError, KeyError, TypeError, InvalidEvent, InvalidRelease) as error:
        raise StoreError(f"{path}: damaged ({error!r})") from None


def check_not_revoked(store: Store, installed: InstalledRelease) -> None:
    """Raise CallerError if the author revoked a release; also raises StoreError."""
    if installed.id in store.seen_versions.seen(installed.author, installed.name).revoked:
        raise CallerError("the author revoked this release")


def read_manifest(store: Store, release: Release) -> Manifest:
    """Return the manifest of an installed release, as its author published it.

    Raises:
        StoreError: The store has neither its events nor its bytes.
        OSError: A file cannot be read.
    """
    archive = store.event_archive
    for encoded in (
        b"".join(decode(event.content) for event in archive.manifest(release.id)),
        archive.manifest_bytes(release.id) or b"",
    ):
        if hashlib.sha256(encoded).digest() == release.manifest_sha256:
            return Manifest.decode(encoded)
    raise StoreError("the manifest of this release is missing in the store: fetch it again")
