"""The Timeouts value: defaults, and values that are refused."""

from typing import Any

import pytest

from relay_client.errors import CallerError
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts


def test_defaults_suit_public_relays() -> None:
    assert Timeouts() == DEFAULT_TIMEOUTS
    assert (DEFAULT_TIMEOUTS.connect_s, DEFAULT_TIMEOUTS.answer_s, DEFAULT_TIMEOUTS.patience_s) == (10, 30, 30)


@pytest.mark.parametrize("name", ["connect_s", "answer_s", "retry_first_s", "endgame_s"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_impossible_timeout_is_refused(name: str, value: float) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(CallerError, match=f"timeout {name} must not be negative"):
        Timeouts(**arguments)
