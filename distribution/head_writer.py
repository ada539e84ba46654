"""Replacement of the head of one of the author's names on the relays of a pool. Does network I/O.

A head that does not count is replaced like any other. Relays keep the newest head, so one from the future is deleted
first (NIP-09).
"""

import functools
from collections.abc import Callable, Collection, Sequence

from distribution.errors import NotPublished
from distribution.event_tags import MAX_FUTURE_S, public_servers
from distribution.events import Head, Release, head_draft
from distribution.heads import check_heads, heads_filter, read_heads
from distribution.revocation import heads_deletion_draft
from relay_client.event import MAX_TIMESTAMP, EventSigner
from relay_client.pool import Pool

_ATTEMPTS = 3  # to replace a head while another publish of the same name does


class HeadWriter:
    """The heads of one name, as the relays have them.

    Args:
        pool: Open pool of relays.
        key: Signs as the author.
        name: Name of the model.
        now: Clock, in seconds since 1970.
    """

    def __init__(self, pool: Pool, key: EventSigner, name: str, *, now: Callable[[], int]) -> None:
        self._pool = pool
        self._key = key
        self._name = name
        self._now = now
        self._found: list[tuple[str, Head]] = []  # (URL, head)
        self._refused: frozenset[bytes] = frozenset()  # ids of heads that do not count
        self._servers: Sequence[str] = ()

    async def read(self) -> None:
        """Ask the relays for the heads, and for the releases that they name."""
        await self._query()
        checked = await check_heads(self._pool, self.heads, now=MAX_TIMESTAMP, follow_hints=False)
        self._refused = frozenset(checked.refused)

    @property
    def heads(self) -> list[Head]:
        """All heads, each once, whether they count or not."""
        return list({head.id: head for _, head in self._found}.values())

    @property
    def counting(self) -> list[Head]:
        """Heads that name a release of a relay's."""
        return [head for head in self.heads if head.id not in self._refused]

    @property
    def from_future(self) -> list[Head]:
        """Heads that readers refuse because of their date."""
        return [head for head in self.heads if self._is_future(head)]

    @property
    def strays(self) -> list[Head]:
        """Heads that readers do not count."""
        return [head for head in self.heads if head.id in self._refused or self._is_future(head)]

    async def send(
        self,
        release: Release,
        *,
        hint: str,
        expires: int | None = None,
        revoked: Collection[bytes] = (),
        servers: Sequence[str] = (),
    ) -> int:
        """Point the name at a release, on the relays where it does not name that or a newer one.

        Args:
            release: Release to name.
            hint: URL of a relay that has it.
            expires: Seconds since 1970 (NIP-40); None: never.
            revoked: Ids of revoked releases; their heads are replaced.
            servers: Blossom servers that have the release; a head that names others is replaced. Empty: any.

        Returns:
            Size of the head event, in bytes.

        Raises:
            NotPublished: No relay accepted and returned it.
        """
        self._servers = servers
        await self.delete(self.from_future)
        for url in self._current(release, revoked) & set(self._pool.urls):
            self._pool.note_duplicates(url, 1)
        size = 0
        for _ in range(_ATTEMPTS):
            dated = [head.created_at + 1 for head in self.heads if not self._is_future(head)]
            created_at = max([self._now(), *dated])
            draft = head_draft(release, hint=hint, created_at=created_at, expires=expires, servers=self._servers)
            urls = [url for url in self._pool.urls if url not in self._current(release, revoked)]
            size = draft.signed_size
            if not urls:
                break
            await self._pool.publish([(await self._key.sign_event(draft), urls)])
            self._check_reached("no relay accepted the head")
            settled = functools.partial(self._settled, release, revoked, draft.created_at)
            unread = await self._pool.wait_until_readable(settled)
            for url in unread:
                self._pool.drop(url, self._keeps(url) or "accepted the release but does not return it")
            self._check_reached("no relay returns the head")
        for url in set(self._pool.urls) - self._current(release, revoked):
            self._pool.drop(url, f"another publish of {self._name} replaced the head; run this again when it has ended")
        self._check_reached("no relay kept the head")
        return size

    async def delete(self, heads: Collection[Head]) -> None:
        """Ask the relays to delete heads (NIP-09), where they have any."""
        if heads:
            created_at = max(self._now(), *(head.created_at for head in heads))  # some relays delete only older events
            draft = heads_deletion_draft(heads, created_at=created_at)
            await self._pool.publish([(await self._key.sign_event(draft), self._pool.urls)])
            self._check_reached("no relay accepted the deletion of heads from the future")

    async def _query(self) -> None:
        answers = await self._pool.query(heads_filter(self._key.pubkey, self._name))
        found, _ = read_heads(answers, self._key.pubkey, self._name, now=MAX_TIMESTAMP)
        self._found = [(each.url, each.head) for each in found]

    async def _settled(self, release: Release, revoked: Collection[bytes], created_at: int) -> set[str]:
        """Return the relays that have our head, a newer version, or another head that is as new."""
        await self._query()
        rivals = {url for url, head in self._found if head.created_at >= created_at and not self._is_future(head)}
        return self._current(release, revoked) | rivals

    def _current(self, release: Release, revoked: Collection[bytes]) -> set[str]:
        """Return the relays whose head names the release or a newer one."""
        return {
            url
            for url, head in self._found
            if ((head.names(release) and self._names_servers(head)) or head.version > release.version)
            and head.id not in self._refused
            and head.release_id not in revoked
            and not self._is_future(head)
        }

    def _names_servers(self, head: Head) -> bool:
        return not self._servers or head.servers == public_servers(self._servers)

    def _keeps(self, url: str) -> str:
        kept = [head for at, head in self._found if at == url and self._is_future(head)]
        return f"keeps a head of {self._name} that is dated in the future" if kept else ""

    def _is_future(self, head: Head) -> bool:
        return head.created_at > self._now() + MAX_FUTURE_S

    def _check_reached(self, failure: str) -> None:
        if not self._pool.urls:
            raise NotPublished(f"{failure}: {self._pool.failure_summary()}")
