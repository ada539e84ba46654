"""Version, time and expiry of a publish: those that the journal has of the same files, or new ones.

Disk I/O through the journal.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from distribution.ancestors import Ancestor
from distribution.errors import CallerError
from distribution.event_tags import MAX_FUTURE_S, public_servers
from distribution.events import MAX_VERSION, Head, Release
from distribution.journal import Journal
from distribution.manifest import Manifest
from distribution.plan import sign_chunks
from distribution.publish_record import PublishRecord, contents_digest
from distribution.release_spec import ReleaseSpec
from distribution.source import HashedSource
from relay_client.keys import SecretKey


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishHistory:
    """Publishes of one author.

    Args:
        journal: Journal of earlier publishes.
        author: X-only public key, 32 bytes.
        now: Clock, in seconds since 1970.
    """

    journal: Journal
    author: bytes
    now: Callable[[], int]

    def find(self, spec: ReleaseSpec, hashed: Sequence[HashedSource]) -> PublishRecord | None:
        """Return the record of these files under this name, or None; raises CallerError if it has expired."""
        record = None if spec.new_version else self.journal.find(self.author, spec.name, _digest(hashed))
        if record and record.created_at > self.now() + MAX_FUTURE_S:
            return None  # recorded with a wrong clock: readers refuse it
        if record and record.expires is not None and record.expires <= self.now():
            raise CallerError(
                f"version {record.version} of {spec.name} was these files, and has expired: use --new-version"
            )
        return record

    async def begin(
        self,
        spec: ReleaseSpec,
        hashed: Sequence[HashedSource],
        heads: Iterable[Head] = (),
        *,
        hint: str,
        servers: Sequence[str] = (),
        blob_size: int | None = None,
        chunk_key: SecretKey | None = None,
    ) -> PublishRecord:
        """Return the record of these files, or record a new publish of them.

        Args:
            spec: What to publish.
            hashed: Hashes of its files.
            heads: Heads of the name on relays: the version is above theirs.
            hint: URL of a relay, for the tags of the release.
            servers: Origins of the Blossom servers that get the files; the tags name public ones only.
            blob_size: Size of the pieces of large files, in bytes; None: no file is cut.
            chunk_key: Throw-away key that signs the chunks of a new publish; None: the author does.

        Raises:
            CallerError: The recorded version has expired, or no version can follow.
            OSError: A file cannot be read.
        """
        highest = self._highest(spec.name, heads)
        if record := self.find(spec, hashed):
            return record
        new = self._new(spec, highest, hint=hint, servers=public_servers(servers), blob_size=blob_size)
        return self.journal.begin(
            self.author,
            spec.name,
            _digest(hashed),
            above=highest,
            created_at=new.created_at,
            card=new.card,
            hint=new.hint,
            expires=new.expires,
            blob_size=new.blob_size,
            servers=new.servers,
            tags=new.tags,
            chunk_signatures=await asyncio.to_thread(sign_chunks, spec.files, new, chunk_key) if chunk_key else None,
        )

    def preview(
        self,
        spec: ReleaseSpec,
        hashed: Sequence[HashedSource],
        *,
        hint: str,
        servers: Sequence[str],
        blob_size: int | None,
        chunk_author: bytes | None,
    ) -> PublishRecord:
        """Return what `begin` would, as far as it is known without relays; records nothing."""
        return self.find(spec, hashed) or self._new(
            spec,
            self._highest(spec.name, ()),
            hint=hint,
            servers=tuple(servers),
            blob_size=blob_size,
            chunk_author=chunk_author,
        )

    def record_release(self, release: Release, manifest: Manifest, *, hint: str) -> None:
        """Record which release has the weights of the published checkpoint."""
        checkpoint = next(file for file in manifest.files if file.role == "checkpoint")
        published = Ancestor(release_id=release.id, author=release.author, hint=hint)
        self.journal.record_weights(checkpoint.segments[0].sha256, published)

    def records(self, name: str) -> list[PublishRecord]:
        """Return the records of a name, oldest first."""
        return [record for other, record in self.journal.publishes(self.author) if other == name]

    def _new(
        self,
        spec: ReleaseSpec,
        highest: int,
        *,
        hint: str,
        servers: tuple[str, ...],
        blob_size: int | None,
        chunk_author: bytes | None = None,
    ) -> PublishRecord:
        now = self.now()
        return PublishRecord(
            version=highest + 1,
            created_at=now,
            card=spec.card,
            hint=hint,
            expires=None if spec.expires_in_s is None else now + spec.expires_in_s,
            blob_size=blob_size,
            servers=servers,
            tags=spec.tags_at(now),
            chunk_author=chunk_author,
            resumed=False,
        )

    def _highest(self, name: str, heads: Iterable[Head]) -> int:
        """Return the highest version of a name so far; raise CallerError if none can follow it."""
        recorded = self.journal.highest(self.author, name)
        highest = max([recorded, *(head.version for head in heads)])
        if highest >= MAX_VERSION:
            raise CallerError(f"{name} has reached the last version, {MAX_VERSION}: use another name")
        return highest


def _digest(hashed: Sequence[HashedSource]) -> bytes:
    return contents_digest([(file.path, file.sha256) for file in hashed])
