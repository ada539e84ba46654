"""Profiles (kind 0): names that strangers claim, and changes that lose nothing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_client.errors import CallerError
from relay_client.event import Event, EventDraft
from relay_client.keys import SecretKey
from relay_client.profile import MAX_CLAIM, claimed_name, clean_name, merge_profile

KEY = SecretKey(bytes.fromhex("11" * 32))
NOW = 1_790_000_000


def profile(content: object, *, created_at: int = NOW - 10) -> Event:
    text = content if isinstance(content, str) else json.dumps(content)
    return EventDraft(kind=0, created_at=created_at, tags=(("i", "github:alice", "x"),), content=text).sign(KEY)


# --- names


@pytest.mark.parametrize(
    ("raw_name", "shown"),
    [
        ("alice", "alice"),
        (" Alice \n of\tWonderland ", "Alice of Wonderland"),
        ("a\u0000\u001b[2Jb\u009b", "a[2Jb"),
        ("\u202eecila\u2066\ufeff\u200b\u200d", "ecila"),
        ('alice" (trusted)', "alice' (trusted)"),
        ("“alice”", "'alice'"),
        ("e\u0301\u0301\u0301\u0301x", "\u00e9\u0301x"),
        ("x" * 100, "x" * (MAX_CLAIM - 1) + "…"),
        ("alice npub1abc", ""),
        ("\uff4e\uff50\uff55\uff421abc", ""),
        ("\ud800", ""),
        ("\u200b", ""),
        ("", ""),
        (7, ""),
        (["alice"], ""),
        (None, ""),
    ],
)
def test_name_of_a_stranger_is_cleaned(raw_name: object, shown: str) -> None:
    assert clean_name(raw_name) == shown


@given(st.text(max_size=200))
def test_any_name_is_harmless(raw_name: str) -> None:
    name = clean_name(raw_name)
    assert len(name) <= MAX_CLAIM
    assert name.isprintable()
    assert '"' not in name


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"name": "alice", "display_name": "Alice"}, "alice"),
        ({"name": " ", "display_name": "Alice"}, "Alice"),
        ({"about": "me"}, ""),
        ([], ""),
        ("not JSON", ""),
        ("[" * 100_000, ""),
        ("", ""),
    ],
)
def test_claimed_name_is_read(content: object, name: str) -> None:
    assert claimed_name(profile(content)) == name


# --- changes


def test_merge_keeps_unknown_fields_and_tags() -> None:
    before = {"lud16": "a@b", "name": "old", "bot": False, "birthday": {"year": 1990}, "big": 2**70, "odd": "\ud800"}
    draft = merge_profile(profile(before), {"name": "new", "about": "Grüße"}, now=NOW)
    assert draft is not None
    assert json.loads(draft.content) == before | {"name": "new", "about": "Grüße"}
    assert (draft.kind, draft.created_at, draft.tags) == (0, NOW, (("i", "github:alice", "x"),))


def test_merge_is_newer_than_what_it_changes() -> None:
    draft = merge_profile(profile({}, created_at=NOW + 100), {"name": "alice"}, now=NOW)
    assert draft is not None
    assert draft.created_at == NOW + 101


def test_empty_value_removes_a_field() -> None:
    draft = merge_profile(profile({"name": "alice", "about": "", "nip05": "a@b.c"}), {"nip05": ""}, now=NOW)
    assert draft is not None
    assert json.loads(draft.content) == {"name": "alice", "about": ""}


def test_unchanged_profile_is_left_alone() -> None:
    assert merge_profile(profile({"name": "alice"}), {"name": "alice", "about": ""}, now=NOW) is None


def test_first_profile_is_made() -> None:
    draft = merge_profile(None, {"name": "alice"}, now=NOW)
    assert draft is not None
    assert draft.content == '{"name":"alice"}'


@pytest.mark.parametrize("content", ["", "not JSON", "[]", "7"])
def test_unreadable_profile_is_not_replaced(content: str) -> None:
    with pytest.raises(CallerError, match="not a JSON object"):
        merge_profile(profile(content), {"name": "alice"}, now=NOW)
