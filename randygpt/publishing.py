"""Publishing of models with the user's home, key and relays, and what was published.

The command line and the public functions of `randygpt` are thin callers of this module. Does network and disk I/O.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from distribution.announce import Announcement, announce
from distribution.chunk_signatures import make_chunk_key
from distribution.download import OnProgress, no_progress
from distribution.dry_run import DryRun
from distribution.journal import Journal
from distribution.publish import Published, Publisher
from distribution.published import PublishedVersion, add_recorded, query_published
from distribution.references import References, make_references
from distribution.release_spec import ReleaseSpec
from randygpt.errors import CallerError, TransportError
from randygpt.user.home import Home
from relay_client.event import EventSigner
from relay_client.keys import SecretKey, local_key
from relay_client.nip46.remote_signer import kept_open
from relay_client.pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A release to publish: what is in it, who signs it, and which relays it goes to."""

    home: Home
    relays: Sequence[str]
    key: EventSigner
    spec: ReleaseSpec
    copies: int | None = None  # relays that each chunk goes to; None: all
    check: bool = False  # ask the relays for every event instead of trusting the receipts
    servers: Sequence[str] = ()  # Blossom servers that the files go to
    send_chunks: bool = True  # send the files to relays too
    nip94: bool = False  # describe files on servers for other programs
    announcement: Announcement = field(default_factory=Announcement)  # events to send after the release
    throwaway_chunk_key: bool | None = None  # let a throw-away key sign the chunks; None: if the author's is remote

    def __post_init__(self) -> None:
        if self.nip94 and not self.servers:
            raise CallerError("--nip94 describes files on a Blossom server: pass --server")
        if self.copies and self.copies > len(self.relays):
            needed = f"--copies {self.copies} needs at least {self.copies} relays"
            raise CallerError(f"{needed}, and only {len(self.relays)} are configured (--relay)")

    def is_first_version(self) -> bool:
        """Return whether this machine has published nothing under this name yet; raises StoreError."""
        with Journal(self.home.journal_path) as journal:
            return journal.highest(self.key.pubkey, self.spec.name) == 0

    async def dry_run(self) -> DryRun:
        """Return what `publish` would send; connects to no relay, and records nothing."""
        with Journal(self.home.journal_path) as journal:
            return await self._publisher(Pool(self.relays), journal, self._chunk_key()).dry_run(self.spec)

    async def publish(self, on_progress: OnProgress = no_progress) -> Published:
        """Sign the release and send it, then what announces it; raises what `Publisher.publish` raises."""
        with Journal(self.home.journal_path) as journal:
            chunk_key = self._chunk_key()
            async with kept_open(self.key):
                async with Pool(self.relays, signer=local_key(self.key) or chunk_key) as pool:
                    published = await self._publisher(pool, journal, chunk_key, on_progress).publish(self.spec)
                naddr = published_references(published, copies=self.copies).naddr
                relays = [url for url, report in published.relays.items() if report.in_use]
                sent = await announce(self.announcement, published.release, relays, self.key, naddr=naddr, now=_now())
                return replace(published, announced=sent)

    async def write(self, file: BinaryIO, on_progress: OnProgress = no_progress) -> Published:
        """Sign the release and write its events to a file; the first relay is named in them, and none is needed.

        Raises what `Publisher.write` raises.
        """
        with Journal(self.home.journal_path) as journal:
            publisher = self._publisher(Pool(self.relays), journal, self._chunk_key(), on_progress)
            async with kept_open(self.key):
                return await publisher.write(self.spec, file)

    def _chunk_key(self) -> SecretKey | None:
        return make_chunk_key(self.key, throwaway=self.throwaway_chunk_key)

    def _publisher(
        self, pool: Pool, journal: Journal, chunk_key: SecretKey | None, on_progress: OnProgress = no_progress
    ) -> Publisher:
        return Publisher(
            pool=pool,
            journal=journal,
            key=self.key,
            now=_now,
            copies=self.copies,
            check=self.check,
            servers=self.servers,
            send_chunks=self.send_chunks,
            nip94=self.nip94,
            chunk_key=chunk_key,
            on_progress=on_progress,
        )


def published_references(published: Published, *, copies: int | None = None) -> References:
    """Return the references of a published release; `copies`: relays that each chunk went to, None for all."""
    relays = [url for url, report in published.relays.items() if report.in_use]
    servers = [origin for origin, report in published.servers.items() if not report.reason]
    return make_references(published.release, relays, copies=copies, servers=servers)


async def own_versions(
    home: Home, key: EventSigner, *, relays: Sequence[str] | None = None
) -> tuple[list[PublishedVersion], str]:
    """Return the versions that `key` published, from relays and this machine's journal, and what could not be asked.

    Args:
        home: Where the journal and the list of relays are.
        key: The author's key.
        relays: Where to look; by default the user's relays. Without any, only the journal counts.

    Raises:
        StoreError: The journal cannot be used.
    """
    with Journal(home.journal_path) as journal:
        records = journal.publishes(key.pubkey)
    urls = list(relays or home.relays())
    if not urls:
        return add_recorded((), records), "no relays are configured"
    try:
        async with Pool(urls, signer=local_key(key), wait_for_all=False) as pool:
            found = await query_published(pool, key.pubkey, now=_now())
            return add_recorded(found, records), pool.failure_summary()
    except TransportError as error:
        return add_recorded((), records), str(error)


def _now() -> int:
    return int(time.time())
