"""Check of this machine's clock before anything is dated by it and signed. No I/O."""

from collections.abc import Collection, Iterable

from distribution.errors import CallerError
from distribution.events import Head

MAX_CLOCK_ERROR_S = 600
_HOUR_S = 3600
_TIME_WORDS = ("future", "created_at", "timestamp", "too old", "too far")


def check_clock(relay_times: Iterable[int | None], *, now: int, from_future: Collection[Head] = ()) -> None:
    """Compare the clock with what relays say.

    Args:
        relay_times: Times that relays gave just now, in seconds since 1970; None for those that gave none.
        now: Time of this machine, in seconds since 1970.
        from_future: The author's own heads that are dated in the future.

    Raises:
        CallerError: Most of the relays disagree with the clock by more than 10 minutes, or none gives the time and the
            author's own head is from the future.
    """
    fast_by = sorted(now - time for time in relay_times if time is not None)
    wrong = [seconds for seconds in fast_by if abs(seconds) > MAX_CLOCK_ERROR_S]
    if 2 * len(wrong) > len(fast_by):
        seconds = wrong[len(wrong) // 2]
        size, kind = _duration(abs(seconds)), "fast" if seconds > 0 else "slow"
        raise CallerError(
            f"this machine's clock is {size} {kind}, compared with the relays: set it, and run this again"
        )
    if from_future and not fast_by:
        head = max(from_future, key=lambda each: each.created_at)
        raise CallerError(
            f"version {head.version} of {head.name} is dated {_duration(head.created_at - now)} in the future: set this"
            f" machine's clock; if it is right, run randygpt revoke {head.release_id.hex()}"
        )


def clock_advice(reasons: str) -> str:
    """Return advice to add to the reasons of relays for refusing events; empty if they do not speak of time."""
    return "; check this machine's clock" if any(word in reasons.lower() for word in _TIME_WORDS) else ""


def _duration(seconds: int) -> str:
    return f"{seconds / _HOUR_S:.1f} hours" if seconds >= _HOUR_S else f"{seconds // 60} minutes"
