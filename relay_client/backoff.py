"""Exponential back-off with full jitter between attempts. No I/O."""

import random
from collections.abc import Callable

from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts


class Backoff:
    """Retry delays drawn uniformly from 0 to a bound that doubles.

    Full jitter spreads the reconnects of many clients that lost one relay at the same moment.
    """

    def __init__(
        self, timeouts: Timeouts = DEFAULT_TIMEOUTS, *, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._first_s, self._longest_s = timeouts.retry_first_s, timeouts.retry_longest_s
        self._uniform = uniform
        self._bound_s = self._first_s

    def next(self) -> float:
        """Return the seconds to wait now, and double the bound of the next wait."""
        bound_s, self._bound_s = self._bound_s, min(2 * self._bound_s, self._longest_s)
        return self._uniform(0, bound_s)

    def reset(self) -> None:
        """Start over with a short wait, after a success."""
        self._bound_s = self._first_s
