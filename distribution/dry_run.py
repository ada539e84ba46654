"""Estimate of what a publish would send and how long it would take, from the plan and the receipts. Reads files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distribution.journal import Journal
from distribution.plan import Plan
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
    relays: Mapping[str, RelayEstimate]  # by URL
    servers: Mapping[str, ServerEstimate]  # by origin
    resumed: bool  # the same files were published before


def estimate_relays(
    plan: Plan, journal: Journal, relays: Sequence[str], *, copies: int | None, head_size: int
) -> dict[str, RelayEstimate]:
    """Estimate what each relay would be sent, without asking it.

    Args:
        plan: Events of the release.
        journal: Source of receipts and measured rates.
        relays: URLs.
        copies: Relays that each chunk goes to; None: all.
        head_size: Size of the head event, in bytes.
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
        events = len(numbers) + bool(numbers)  # and the head
        estimates[url] = RelayEstimate(
            events=events,
            bytes=sum(plan.events[number].size for number in numbers) + head_size * bool(numbers),
            seconds=events / (rate or (ASSUMED_LOOPBACK_RATE if is_loopback(url) else ASSUMED_RATE)),
            measured=rate is not None,
        )
    return estimates
