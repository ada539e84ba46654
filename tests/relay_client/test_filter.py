"""Filters: their NIP-01 form, and values that are refused."""

import dataclasses
from typing import Any

import pytest

from relay_client.errors import CallerError
from relay_client.filter import Filter

A, B = b"\xaa" * 32, b"\xbb" * 32


def test_full_filter_in_nip_01_form() -> None:
    tags = {"d": ("x", "y"), "e": ("z",)}
    wanted = Filter(
        ids=(A, B), authors=(B,), kinds=(1, 34181), tags=tags, since=5, until=7, search="a tale language:en", limit=3
    )
    assert wanted.to_dict() == {
        "ids": ["aa" * 32, "bb" * 32],
        "authors": ["bb" * 32],
        "kinds": [1, 34181],
        "#d": ["x", "y"],
        "#e": ["z"],
        "since": 5,
        "until": 7,
        "search": "a tale language:en",
        "limit": 3,
    }


def test_empty_fields_are_left_out() -> None:
    # An empty list matches nothing on some relays and everything on others.
    assert Filter(tags={"d": ()}, limit=1).to_dict() == {"limit": 1}
    assert Filter(kinds=(0,), limit=1).to_dict() == {"kinds": [0], "limit": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"limit": 0}, "limit must be at least 1"),
        ({"limit": -1}, "limit must be at least 1"),
        ({"limit": True}, "limit must be at least 1"),
        ({"until": -1}, "until must be from 0"),
        ({"since": 2**53}, "since must be from 0"),
        ({"search": "\ud800"}, "search must be text"),
        ({"ids": (b"short",)}, "32 bytes"),
        ({"ids": ("aa" * 32,)}, "32 bytes"),
        ({"authors": (bytes(33),)}, "32 bytes"),
        ({"kinds": (-1,)}, "kinds must be from 0 to 65535"),
        ({"kinds": (65_536,)}, "kinds must be from 0 to 65535"),
        ({"tags": {"ee": ("x",)}}, "must be one letter"),
        ({"tags": {"": ("x",)}}, "must be one letter"),
        ({"tags": {"#": ("x",)}}, "must be one letter"),
        ({"tags": {"e": (1,)}}, "must be text"),
        ({"tags": {"e": ("\ud800",)}}, "must be text"),
    ],
    ids=repr,
)
def test_invalid_filter_cannot_be_constructed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CallerError, match=message):
        Filter(**{"limit": 1} | fields)


def test_filter_is_immutable() -> None:
    tags = {"e": ("x",)}
    wanted = Filter(tags=tags, limit=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        wanted.limit = 2  # type: ignore[misc]
    tags["not a letter"] = ("y",)
    assert wanted.to_dict() == {"#e": ["x"], "limit": 1}
