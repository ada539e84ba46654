"""Estimate of what a publish would send and how long it would take, from the plan and the receipts. Reads files."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distribution.events import head_draft
from distribution.journal import Journal
from distribution.nip94 import file_drafts
from distribution.plan import Plan
from distribution.publish_record import PublishRecord
from distribution.upload import LocalBlob
from relay_client.url import is_loopback

# Events per second, for relays whose rate is not known yet: a careful guess, and one for a relay on this machine.
ASSUMED_RATE = 10.0
ASSUMED_LOOPBACK_RATE = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayEstimate:
    """What one relay would be sent."""

    events: int
    bytes: int
    seconds: float
    measured: bool  # at the rate of an earlier publish, not at an assumed one


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEstimate:
    """What one Blossom server would be sent if it has nothing yet."""

    blobs: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a publish would send."""

    version: int
    events: int  # of the release, its head included
    bytes: int  # of those events, as JSON
    file_events: int  # events for other programs (NIP-94), in addition
    relays: Mapping[str, RelayEstimate]  # by URL
    servers: Mapping[str, ServerEstimate]  # by origin
    resumed: bool  # the same files were published before


@dataclass(frozen=True, slots=True, kw_only=True)
class _Announced:
    """What a head would state about the release."""

    id: bytes
    name: str
    version: int
    manifest_sha256: bytes


def make_dry_run(  # noqa: PLR0913 (a publish has this many options)
    plan: Plan,
    record: PublishRecord,
    journal: Journal,
    *,
    name: str,
    relays: Sequence[str],
    copies: int | None,
    servers: Sequence[str],
    blobs: Sequence[LocalBlob],
    nip94: bool,
) -> DryRun:
    """Estimate what a publish would send, without asking relays or servers.

    Args:
        plan: Events that relays would get.
        record: The publish, as the journal has it or would have it.
        journal: Source of receipts and measured rates.
        name: Name of the model.
        relays: URLs.
        copies: Relays that each chunk goes to; None: all.
        servers: Origins of Blossom servers.
        blobs: Blobs that each server would get.
        nip94: Whether files on servers would be described by events of their own (NIP-94).
    """
    announced = _Announced(
        id=plan.release_id,
        name=name,
        version=record.version,
        manifest_sha256=hashlib.sha256(plan.manifest.encode()).digest(),
    )
    head = head_draft(
        announced, hint=record.hint, created_at=record.created_at, expires=record.expires, servers=servers
    )
    described = (
        file_drafts(announced, plan.manifest, servers, created_at=record.created_at, expires=record.expires)
        if nip94
        else []
    )
    size = sum(blob.size for blob in blobs)
    return DryRun(
        version=record.version,
        events=len(plan.events) + 1,
        bytes=plan.size + head.signed_size,
        file_events=len(described),
        relays=_estimate_relays(
            plan,
            journal,
            relays,
            copies=copies,
            head_size=head.signed_size,
            file_sizes=[draft.signed_size for draft in described],
        ),
        servers={origin: ServerEstimate(blobs=len(blobs), bytes=size) for origin in servers},
        resumed=record.resumed,
    )


def _estimate_relays(
    plan: Plan,
    journal: Journal,
    relays: Sequence[str],
    *,
    copies: int | None,
    head_size: int,
    file_sizes: Sequence[int],
) -> dict[str, RelayEstimate]:
    """Estimate what each relay would be sent, without asking it.

    Args:
        plan: Events of the release.
        journal: Source of receipts and measured rates.
        relays: URLs.
        copies: Relays that each chunk goes to; None: all.
        head_size: Size of the head event, in bytes.
        file_sizes: Size of each file event (NIP-94); they are sent each time.
    """
    receipts = journal.receipts(plan.release_id)
    stored = {
        url: {number for number, event in enumerate(plan.events) if event.id in accepted}
        for url in relays
        if (accepted := receipts.accepted_by(url))
    }
    allocation = plan.allocation(relays, copies=copies, held=stored)
    estimates = {}
    for url in relays:
        numbers = allocation.missing_from(url)
        rate = journal.send_rate(url)
        events = len(numbers) + bool(numbers) + len(file_sizes)  # and the head
        estimates[url] = RelayEstimate(
            events=events,
            bytes=sum(plan.events[number].size for number in numbers) + head_size * bool(numbers) + sum(file_sizes),
            seconds=events / (rate or (ASSUMED_LOOPBACK_RATE if is_loopback(url) else ASSUMED_RATE)),
            measured=rate is not None,
        )
    return estimates
