"""How long to wait before the next try: doubling, with full jitter. No I/O."""

import random
from collections.abc import Callable

FIRST_S = 0.5
LONGEST_S = 60.0


class Backoff:
    """Waits between tries of one thing: each is random, up to a bound that doubles from 0.5 s to 60 s.

    Many clients that lost one relay at the same moment come back spread over that time, not all at once.
    """

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._bound = FIRST_S

    def next(self) -> float:
        """Seconds to wait now."""
        bound, self._bound = self._bound, min(2 * self._bound, LONGEST_S)
        return self._uniform(0, bound)

    def reset(self) -> None:
        """It worked: the next wait is a short one again."""
        self._bound = FIRST_S
