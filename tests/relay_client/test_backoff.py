"""Exponential back-off with jitter."""

from relay_client.backoff import Backoff


def test_bound_doubles_to_a_minute_until_reset() -> None:
    bounds = []

    def highest(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    backoff = Backoff(uniform=highest)
    assert [backoff.next() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    backoff.reset()
    assert backoff.next() == 0.5
    assert {low for low, _ in bounds} == {0}


def test_waits_are_spread_over_the_bound() -> None:
    waits = [Backoff().next() for _ in range(200)]
    assert 0 <= min(waits) < 0.1
    assert 0.4 < max(waits) <= 0.5
