"""What a publish would send, and how long that would take: the same plan, without a relay and without a signature.

Does disk I/O.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distribution.events import head_draft
from distribution.journal import Journal, PublishRecord, contents_digest
from distribution.plan import make_plan
from distribution.publish import check_words
from distribution.source import SourceFile
from relay_client.url import is_loopback

# Events a second of a relay that was never sent many: a careful guess, and one for a relay on this machine.
ASSUMED_RATE = 10.0
ASSUMED_RATE_HERE = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayEstimate:
    """What one relay would be sent."""

    events: int
    bytes: int
    seconds: float
    measured: bool  # by its speed when it was last sent many, not by a guess


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a publish would come to."""

    version: int
    events: int  # that make up the release, its head included
    bytes: int  # of those events, as JSON
    relays: Mapping[str, RelayEstimate]
    resumed: bool  # the same files were published before


@dataclass(frozen=True, slots=True, kw_only=True)
class _Announced:
    id: bytes
    name: str
    version: int
    manifest_sha256: bytes


def dry_run(  # noqa: PLR0913 (all that a publish depends on)
    files: Sequence[SourceFile],
    *,
    journal: Journal,
    author: bytes,
    relays: Sequence[str],
    name: str,
    format: str,  # noqa: A002 (the protocol's word)
    card: Mapping[str, object],
    now: int,
    copies: int | None = None,
    new_version: bool = False,
    expires_in_s: int | None = None,
) -> DryRun:
    """Plan a publish and record nothing of it; raises what a publish raises before it sends anything."""
    check_words(name, card)
    hashed = [file.hash() for file in files]
    contents = contents_digest([(file.path, file.sha256) for file in hashed])
    entry = (None if new_version else journal.find(author, name, contents)) or PublishRecord(
        version=1 + journal.highest(author, name),
        created_at=now,
        card=card,
        hint=relays[0],
        expires=None if expires_in_s is None else now + expires_in_s,
        resumed=False,
    )
    plan = make_plan(files, hashed, entry, name=name, format=format, author=author)
    announced = _Announced(
        id=plan.release_id,
        name=name,
        version=entry.version,
        manifest_sha256=hashlib.sha256(plan.manifest.encode()).digest(),
    )
    head = head_draft(announced, hint=entry.hint, created_at=now, expires=entry.expires).signed_size
    receipts = journal.receipts(plan.release_id)
    held = {
        url: {n for n, event in enumerate(plan.events) if event.id in taken}
        for url in relays
        if (taken := receipts.of(url))
    }
    allocation = plan.allocation(relays, copies=copies, held=held)
    shares = {}
    for url in relays:
        numbers = allocation.missing_from(url)
        rate = journal.send_rate(url)
        events = len(numbers) + bool(numbers)  # and the head
        shares[url] = RelayEstimate(
            events=events,
            bytes=sum(plan.events[number].size for number in numbers) + head * bool(numbers),
            seconds=events / (rate or (ASSUMED_RATE_HERE if is_loopback(url) else ASSUMED_RATE)),
            measured=rate is not None,
        )
    return DryRun(
        version=entry.version,
        events=len(plan.events) + 1,
        bytes=plan.size + head,
        relays=shares,
        resumed=entry.resumed,
    )
