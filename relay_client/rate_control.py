"""Rate control for one relay: an AIMD window of events in flight, and waits after "rate-limited". No I/O.

The window grows by one per accepted event (slow start), halves when the relay reports a rate limit, and grows slowly
from there. After each such report nothing is sent for a while; the wait doubles while the relay keeps refusing. Times
are in seconds of any one monotonic clock, which the caller reads.
"""

import re

from relay_client.session import MAX_UNACKED_EVENTS
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts

MAX_RETRIES = 10  # waits in a row without an accepted event: about 20 minutes
MAX_QUERY_RETRIES = 5  # the same for queries, which the user waits for: about a minute
_FIRST_WINDOW = 2
_ACCEPTED_PER_STEP = 16  # accepted events that widen the window by one, once the relay has limited us
_ACCEPTED_UNTIL_STEADY = 64
_ACCEPTED_PER_EASING = 32  # accepted events in a row that halve the next wait

_RATE_LIMIT = re.compile(r"rate|slow down|too (many|fast|much)|throttl", re.IGNORECASE)


def mentions_rate_limit(notice: str) -> bool:
    """Return whether a NOTICE, which has no machine-readable prefix, says that we send too fast."""
    return bool(_RATE_LIMIT.search(notice))


class RateControl:
    """Congestion window and waits for one relay. Outlives its connections.

    Args:
        timeouts: First and longest wait after a rate limit.
        max_retries: Waits in a row without an accepted event, after which the relay is given up.
    """

    def __init__(self, timeouts: Timeouts = DEFAULT_TIMEOUTS, *, max_retries: int = MAX_RETRIES) -> None:
        self._first_wait_s, self._longest_wait_s = timeouts.rate_limit_first_s, timeouts.rate_limit_longest_s
        self._max_retries = max_retries
        self._window: float = _FIRST_WINDOW  # events in flight
        self._threshold: float = MAX_UNACKED_EVENTS  # up to here the window grows quickly (slow start)
        self._next_wait_s = self._first_wait_s
        self._resume_at = float("-inf")
        self._limited_at = float("-inf")
        self._accepted = 0  # in a row
        self._retries = 0

    @property
    def window(self) -> int:
        """Number of events that may be in flight at once."""
        return int(self._window)

    @property
    def is_steady(self) -> bool:
        """True if the relay accepted many events and never reported a rate limit."""
        return self._accepted >= _ACCEPTED_UNTIL_STEADY and self._threshold >= MAX_UNACKED_EVENTS

    @property
    def exhausted(self) -> bool:
        """True if the relay accepted nothing after `max_retries` waits, each longer than the last."""
        return self._retries > self._max_retries

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next event may be sent; 0 if it may be sent now."""
        return max(0.0, self._resume_at - now)

    def on_accepted(self) -> None:
        """Widen the window after an accepted event."""
        self._accepted += 1
        self._retries = 0
        step = 1 if self._window < self._threshold else 1 / _ACCEPTED_PER_STEP
        self._window = min(MAX_UNACKED_EVENTS, self._window + step)
        if self._accepted % _ACCEPTED_PER_EASING == 0:
            self._next_wait_s = max(self._first_wait_s, self._next_wait_s / 2)

    def on_rate_limited(self, *, sent_at: float, now: float) -> None:
        """Back off after a rate-limit or error reply; ignored if the event was sent before the last back-off."""
        if sent_at <= self._limited_at:
            return
        self._limited_at = now
        self._resume_at = now + self._next_wait_s
        self._next_wait_s = min(self._longest_wait_s, 2 * self._next_wait_s)
        self._window = self._threshold = max(1.0, self._window / 2)
        self._accepted = 0
        self._retries += 1
