"""How fast one relay may be offered events, or asked: learned from what it takes and what is too fast. No I/O.

The window opens by one with each event taken (slow start), halves when the relay says that it is too fast, and opens
slowly from there. Then nothing is sent for a while; a relay that finds the next try too early is left alone for twice
as long. Times are in seconds, of any one clock.
"""

import re

from relay_client.session import MAX_UNACKED_EVENTS

FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 300.0
MAX_REPEATS = 10  # waits in a row after which nothing was taken: about 20 minutes
QUESTION_REPEATS = 5  # ... and of questions, which somebody is waiting for: about a minute
_FIRST_WINDOW = 2
_TAKEN_PER_STEP = 16  # events taken for one more in the window, after the relay has been too slow once
_TAKEN_TILL_STEADY = 64
_TAKEN_PER_PARDON = 32  # events taken in a row that halve the next wait

_ABOUT_RATE = re.compile(r"rate|slow down|too (many|fast|much)|throttl", re.IGNORECASE)


def mentions_rate_limit(notice: str) -> bool:
    """Whether a relay's words to a person say that we are too fast."""
    return bool(_ABOUT_RATE.search(notice))


class RateControl:
    """What one relay bears; lives as long as the work on it, whatever becomes of connections."""

    def __init__(self, *, max_repeats: int = MAX_REPEATS) -> None:
        self._max_repeats = max_repeats
        self._window: float = _FIRST_WINDOW  # events under way
        self._threshold: float = MAX_UNACKED_EVENTS  # up to here the window opens quickly
        self._next_wait_s = FIRST_WAIT_S
        self._resume_at = float("-inf")
        self._limited_at = float("-inf")
        self._taken = 0  # in a row
        self._repeats = 0

    @property
    def window(self) -> int:
        """Events that may be under way at once."""
        return int(self._window)

    @property
    def is_steady(self) -> bool:
        """Whether the relay has taken many events, and never found one too fast."""
        return self._taken >= _TAKEN_TILL_STEADY and self._threshold >= MAX_UNACKED_EVENTS

    @property
    def exhausted(self) -> bool:
        """Whether the relay has taken nothing in spite of many waits, each longer than the last."""
        return self._repeats > self._max_repeats

    def wait_s(self, now: float) -> float:
        """Seconds until the next event may be sent, 0 if it may be sent now."""
        return max(0.0, self._resume_at - now)

    def on_accepted(self) -> None:
        """The relay took an event."""
        self._taken += 1
        self._repeats = 0
        step = 1 if self._window < self._threshold else 1 / _TAKEN_PER_STEP
        self._window = min(MAX_UNACKED_EVENTS, self._window + step)
        if self._taken % _TAKEN_PER_PARDON == 0:
            self._next_wait_s = max(FIRST_WAIT_S, self._next_wait_s / 2)

    def on_rate_limited(self, *, sent_at: float, now: float) -> None:
        """The relay found an event of `sent_at` too fast. What was sent before it last said so is no news."""
        if sent_at <= self._limited_at:
            return
        self._limited_at = now
        self._resume_at = now + self._next_wait_s
        self._next_wait_s = min(LONGEST_WAIT_S, 2 * self._next_wait_s)
        self._window = self._threshold = max(1.0, self._window / 2)
        self._taken = 0
        self._repeats += 1
