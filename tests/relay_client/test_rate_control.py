"""How fast one relay is offered events: what opens the window, what closes it, how long it is left alone."""

import pytest

from relay_client.rate_control import FIRST_WAIT_S, LONGEST_WAIT_S, Pace, is_about_rate


def after(pace: Pace, taken: int) -> Pace:
    for _ in range(taken):
        pace.taken()
    return pace


def test_the_window_opens_by_one_with_each_event_taken_up_to_eight() -> None:
    pace, windows = Pace(), []
    for _ in range(10):
        windows.append(pace.window)
        pace.taken()
    assert windows == [2, 3, 4, 5, 6, 7, 8, 8, 8, 8]
    assert pace.wait_s(0) == 0


def test_too_fast_halves_the_window_and_stops_for_a_while() -> None:
    pace = after(Pace(), 10)
    pace.limited(sent_at=99, now=100)
    assert pace.window == 4
    assert pace.wait_s(100) == FIRST_WAIT_S
    assert pace.wait_s(100 + FIRST_WAIT_S / 2) == FIRST_WAIT_S / 2
    assert pace.wait_s(100 + FIRST_WAIT_S) == 0


def test_events_that_were_under_way_by_then_are_no_news() -> None:
    pace = after(Pace(), 10)
    for sent_at in (99, 99.5, 100):
        pace.limited(sent_at=sent_at, now=100)
    assert (pace.window, pace.wait_s(100)) == (4, FIRST_WAIT_S)


def test_each_try_that_comes_too_early_doubles_the_wait_up_to_a_bound() -> None:
    pace, now, waits = Pace(), 0.0, []
    for _ in range(10):
        pace.limited(sent_at=now, now=now)
        waits.append(pace.wait_s(now))
        now += waits[-1] + 1
    assert waits == [min(FIRST_WAIT_S * 2**number, LONGEST_WAIT_S) for number in range(10)]
    assert waits[-1] == LONGEST_WAIT_S
    assert pace.window == 1


def test_the_window_opens_slowly_after_that() -> None:
    pace = after(Pace(), 10)
    pace.limited(sent_at=0, now=0)
    assert after(pace, 15).window == 4
    assert after(pace, 1).window == 5
    assert after(pace, 48).window == 8


def test_a_good_run_halves_the_next_wait() -> None:
    pace = Pace()
    for now in (0, 10, 20):
        pace.limited(sent_at=now, now=now)
    after(pace, 32)
    pace.limited(sent_at=100, now=100)
    assert pace.wait_s(100) == 4 * FIRST_WAIT_S  # without it: 8


def test_a_relay_that_takes_nothing_at_all_is_hopeless_after_many_waits() -> None:
    pace = Pace()
    for number in range(10):
        pace.limited(sent_at=number, now=number)
        assert not pace.is_hopeless
    pace.limited(sent_at=10, now=10)
    assert pace.is_hopeless
    pace.taken()
    assert not pace.is_hopeless


@pytest.mark.parametrize(
    "notice", ["rate limited", "Rate-limited: 10/min", "slow down please", "too many events", "you are throttled"]
)
def test_a_notice_about_rate(notice: str) -> None:
    assert is_about_rate(notice)


@pytest.mark.parametrize("notice", ["", "welcome", "invalid: event too large", "your event is bad"])
def test_a_notice_about_something_else(notice: str) -> None:
    assert not is_about_rate(notice)
