"""Rate control: growth and back-off of the window, waits, and exhaustion."""

import pytest

from relay_client.rate_control import RateControl, mentions_rate_limit
from relay_client.timeouts import DEFAULT_TIMEOUTS

FIRST_WAIT_S, LONGEST_WAIT_S = DEFAULT_TIMEOUTS.rate_limit_first_s, DEFAULT_TIMEOUTS.rate_limit_longest_s


def after(rate_control: RateControl, taken: int) -> RateControl:
    for _ in range(taken):
        rate_control.on_accepted()
    return rate_control


def test_window_grows_by_one_up_to_eight() -> None:
    rate_control, windows = RateControl(), []
    for _ in range(10):
        windows.append(rate_control.window)
        rate_control.on_accepted()
    assert windows == [2, 3, 4, 5, 6, 7, 8, 8, 8, 8]
    assert rate_control.wait_s(0) == 0


def test_rate_limit_halves_the_window_and_waits() -> None:
    rate_control = after(RateControl(), 10)
    rate_control.on_rate_limited(sent_at=99, now=100)
    assert rate_control.window == 4
    assert rate_control.wait_s(100) == FIRST_WAIT_S
    assert rate_control.wait_s(100 + FIRST_WAIT_S / 2) == FIRST_WAIT_S / 2
    assert rate_control.wait_s(100 + FIRST_WAIT_S) == 0


def test_events_in_flight_do_not_back_off_again() -> None:
    rate_control = after(RateControl(), 10)
    for sent_at in (99, 99.5, 100):
        rate_control.on_rate_limited(sent_at=sent_at, now=100)
    assert (rate_control.window, rate_control.wait_s(100)) == (4, FIRST_WAIT_S)


def test_repeated_rate_limit_doubles_the_wait() -> None:
    rate_control, now, waits = RateControl(), 0.0, []
    for _ in range(10):
        rate_control.on_rate_limited(sent_at=now, now=now)
        waits.append(rate_control.wait_s(now))
        now += waits[-1] + 1
    assert waits == [min(FIRST_WAIT_S * 2**number, LONGEST_WAIT_S) for number in range(10)]
    assert waits[-1] == LONGEST_WAIT_S
    assert rate_control.window == 1


def test_window_grows_slowly_after_a_rate_limit() -> None:
    rate_control = after(RateControl(), 10)
    rate_control.on_rate_limited(sent_at=0, now=0)
    assert after(rate_control, 15).window == 4
    assert after(rate_control, 1).window == 5
    assert after(rate_control, 48).window == 8


def test_accepted_events_halve_the_next_wait() -> None:
    rate_control = RateControl()
    for now in (0, 10, 20):
        rate_control.on_rate_limited(sent_at=now, now=now)
    after(rate_control, 32)
    rate_control.on_rate_limited(sent_at=100, now=100)
    assert rate_control.wait_s(100) == 4 * FIRST_WAIT_S  # without the successes: 8


def test_exhausted_after_many_waits_without_success() -> None:
    rate_control = RateControl()
    for number in range(10):
        rate_control.on_rate_limited(sent_at=number, now=number)
        assert not rate_control.exhausted
    rate_control.on_rate_limited(sent_at=10, now=10)
    assert rate_control.exhausted
    rate_control.on_accepted()
    assert not rate_control.exhausted


@pytest.mark.parametrize(
    "notice", ["rate limited", "Rate-limited: 10/min", "slow down please", "too many events", "you are throttled"]
)
def test_notice_about_rate_is_recognized(notice: str) -> None:
    assert mentions_rate_limit(notice)


@pytest.mark.parametrize("notice", ["", "welcome", "invalid: event too large", "your event is bad"])
def test_other_notice_is_not_about_rate(notice: str) -> None:
    assert not mentions_rate_limit(notice)
