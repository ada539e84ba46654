"""Limits of the built-in relay, without a relay."""

from typing import Any

import pytest

from relay_client.errors import CallerError
from relay_client.relay_limits import MAX_EVENT_SIZE, AddressRates, RelayLimits

AUTHOR, OTHER = bytes(32), b"\x01" * 32


@pytest.mark.parametrize(
    ("author", "size", "stored", "reason"),
    [
        (AUTHOR, 100, 900, ""),
        (OTHER, 100, 0, "not on the relay's list"),
        (AUTHOR, 101, 0, "the limit is 100"),
        (AUTHOR, 100, 901, "full"),
    ],
    ids=["accepted", "author", "size", "total"],
)
def test_event_beyond_a_limit_is_refused(author: bytes, size: int, stored: int, reason: str) -> None:
    limits = RelayLimits(authors=frozenset({AUTHOR}), max_event_size=100, max_total_size=1000)
    refusal = limits.refusal(author, size, stored)
    assert reason in refusal
    assert bool(refusal) == bool(reason)


def test_anyone_may_write_without_a_list() -> None:
    assert RelayLimits().refusal(OTHER, MAX_EVENT_SIZE, 0) == ""


@pytest.mark.parametrize(
    "values",
    [{"max_event_size": 0}, {"max_event_size": MAX_EVENT_SIZE + 1}, {"max_total_size": 0}, {"events_per_minute": 0}],
)
def test_invalid_limits_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(CallerError):
        RelayLimits(**values)


def test_address_above_its_rate_is_delayed() -> None:
    rates = AddressRates(60)
    first = [rates.delay_s("192.0.2.1", 1000.0) for _ in range(13)]
    assert first == [0.0] * 11 + [1.0, 2.0]
    assert rates.delay_s("192.0.2.2", 1000.0) == 0.0
    assert rates.delay_s("192.0.2.1", 1013.0) == 0.0  # it waited


def test_one_ipv6_network_is_one_client() -> None:
    rates = AddressRates(1)
    assert rates.delay_s("2001:db8::1", 0.0) == 0.0
    assert rates.delay_s("2001:db8::2", 0.0) > 0.0
    assert rates.delay_s("2001:db8:0:1::1", 0.0) == 0.0
    assert rates.delay_s("::ffff:192.0.2.1", 0.0) == 0.0


def test_idle_addresses_are_forgotten() -> None:
    rates = AddressRates(60)
    for number in range(5000):
        rates.delay_s(f"198.18.{number >> 8}.{number & 255}", float(number))
    assert len(rates._due) <= 4097
