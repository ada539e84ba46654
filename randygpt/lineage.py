"""Ancestry and forks of models, with the user's home, relays and trust list. Does network and disk I/O."""

import hashlib
import time
from collections.abc import Iterable, Sequence

from distribution.ancestors import Lineage
from distribution.ancestry import Known
from distribution.events import Release
from distribution.forks import Forks, query_forks
from distribution.journal import Journal
from distribution.store import Store
from distribution.trace import TraceLimits, Tracer
from distribution.trust_list import TrustStore
from randygpt.checkpoint.header import WEIGHTS_MAGIC, weights_size
from randygpt.checkpoint.origin import Origin
from randygpt.checkpoint.sidecar import CheckpointInfo
from randygpt.errors import CallerError, TransportError
from randygpt.user import signing_key
from randygpt.user.home import Home
from relay_client.hints import usable_hints
from relay_client.pool import Pool

_BLOCK = 1 << 20  # bytes


def find_origin(home: Home, found: CheckpointInfo) -> Origin | None:
    """Return the release that a checkpoint file is, else the one that it was made from; None if none is known.

    A file is a release if it was published on this machine, with its optimizer state or without.

    Raises:
        StoreError: The journal cannot be used.
        OSError: The file cannot be read.
    """
    if home.journal_path.is_file():
        with Journal(home.journal_path) as journal:
            for digest in _weights_digests(found):
                if release := journal.find_weights(digest):
                    relay = next(iter(usable_hints([release.hint], known=())), "")
                    return Origin(release=release.release_id, author=release.author, relay=relay)
    return found.sidecar.base if found.sidecar else None


def _weights_digests(found: CheckpointInfo) -> list[bytes]:
    """Return the SHA-256 of the weights as a publish of the file has them, and as one of the weights only has them."""
    with found.path.open("rb") as file:
        start = file.read(len(WEIGHTS_MAGIC))
        whole, alone = hashlib.sha256(start), hashlib.sha256(WEIGHTS_MAGIC)
        left = weights_size(found.config) - len(start)
        while data := file.read(min(left, _BLOCK)):
            whole.update(data)
            alone.update(data)
            left -= len(data)
    return [whole.digest(), alone.digest()]


async def trace_ancestry(
    home: Home,
    start: Release | None,
    lineage: Lineage,
    *,
    limits: TraceLimits,
    relays: Sequence[str] | None = None,
) -> tuple[Known, str]:
    """Return what is known of a model's ancestry, and why relays could not be asked; empty if they were.

    Args:
        home: Where the store, the list of relays and the key for relays that authenticate (NIP-42) are.
        start: The release whose ancestry it is; None for a local file.
        lineage: What the release or the file was made from.
        limits: How far to go.
        relays: Where to look; by default the user's relays, or those that the model names if the user has none.

    Raises:
        CallerError: A relay's address is wrong.
        StoreError: The store is damaged.
    """
    store, now = Store(home.folder), int(time.time())
    hints = [*(start.hints if start else ()), *(each.hint for _, each in lineage.ancestors)]
    pool = _pool(home, relays, hints)
    reason = "no relays are configured: only installed releases are known (randygpt relays add URL)"
    if pool and lineage.ancestors:
        try:
            async with pool:
                return await Tracer(store=store, pool=pool, now=now, limits=limits).trace(start, lineage), ""
        except TransportError as error:
            reason = str(error)
    return await Tracer(store=store, pool=None, now=now, limits=limits).trace(start, lineage), reason


async def find_forks(
    home: Home, ancestor: Release, *, relays: Sequence[str] | None = None, only_trusted: bool = False
) -> Forks:
    """Return the forks of a release that relays have, those by authors on the trust list first.

    Args:
        home: Where the trust list, the list of relays and the key for relays that authenticate (NIP-42) are.
        ancestor: The release.
        relays: Where to look; by default the user's relays, or those that the release names if the user has none.
        only_trusted: Leave out authors who are not on the trust list.

    Raises:
        CallerError: No relay is given, or an address is wrong.
        StoreError: The trust list is damaged.
        TransportError: No relay can be reached.
    """
    trusted = TrustStore(home.folder).read().names
    pool = _pool(home, relays, ancestor.hints)
    if pool is None:
        raise CallerError("no relays are configured: pass --relay, or randygpt relays add URL")
    async with pool:
        return await query_forks(pool, ancestor, trusted=trusted, only_trusted=only_trusted, now=int(time.time()))


def _pool(home: Home, relays: Sequence[str] | None, raw_hints: Iterable[str]) -> Pool | None:
    """Return a pool of the named relays, else of the user's, else of the hints; None if there are none."""
    hints = [hint for hint in raw_hints if hint]
    urls = home.resolve_relays(relays) if relays or home.relays() else []
    if not urls and not usable_hints(hints, known=()):
        return None
    return Pool(urls, signer=signing_key.signer(home), hints=hints, wait_for_all=False)
