"""What a filter looks like to a relay."""

import dataclasses

import pytest

from relay_client.errors import CallerError
from relay_client.filter import Filter

A, B = b"\xaa" * 32, b"\xbb" * 32


def test_a_full_filter_as_nip_01_writes_it() -> None:
    wanted = Filter(ids=(A, B), authors=(B,), kinds=(1, 34181), tags={"d": ("x", "y"), "e": ("z",)}, limit=3)
    assert wanted.to_dict() == {
        "ids": ["aa" * 32, "bb" * 32],
        "authors": ["bb" * 32],
        "kinds": [1, 34181],
        "#d": ["x", "y"],
        "#e": ["z"],
        "limit": 3,
    }


def test_what_is_not_asked_for_is_left_out() -> None:
    # An empty list would match nothing on some relays and everything on others.
    assert Filter(tags={"d": ()}, limit=1).to_dict() == {"limit": 1}
    assert Filter(kinds=(0,), limit=1).to_dict() == {"kinds": [0], "limit": 1}


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_at_least_one(limit: int) -> None:
    with pytest.raises(CallerError, match="limit"):
        Filter(limit=limit)


def test_a_filter_cannot_be_changed() -> None:
    wanted = Filter(limit=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        wanted.limit = 2  # type: ignore[misc]
