"""Profiles of keys (kind 0; NIP-01, NIP-24): the name that an author claims, and changes that lose nothing. No I/O.

A profile is free text by a stranger. Its name is shown only cleaned, short and marked as a claim.
"""

import json
import unicodedata
from collections.abc import Mapping
from typing import Any

from relay_client.errors import CallerError
from relay_client.event import Event, EventDraft
from relay_client.filter import Filter

PROFILE_KIND = 0
MAX_CLAIM = 24  # characters of a name that are shown
_READ = 1_000  # characters of a name that are looked at
_MAX_MARKS = 1  # accents on one letter
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn"}  # Unicode categories that show nothing, or turn text around
_NAME_FIELDS = ("name", "display_name")


def profile_filter(*authors: bytes) -> Filter:
    """Return the filter for the profiles of authors."""
    return Filter(authors=authors, kinds=(PROFILE_KIND,), limit=len(authors))


def read_profile(event: Event) -> dict[str, Any] | None:
    """Return the fields of a profile, unchecked; None if it is no JSON object."""
    try:
        fields = json.loads(event.content)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def claimed_name(event: Event) -> str:
    """Return the name in a profile, cleaned and in one line of at most 24 characters; empty without a usable one."""
    fields = read_profile(event) or {}
    return next(filter(None, (clean_name(fields.get(field)) for field in _NAME_FIELDS)), "")


def clean_name(raw_name: object) -> str:
    """Return a name by a stranger as it may be shown between quotes; empty if it is not usable.

    Characters that are invisible or change the direction of text are left out, as are stacked accents. A name that
    contains a key is not usable, because it could pass for the author's.
    """
    if not isinstance(raw_name, str):
        return ""
    kept, marks = [], 0
    for char in unicodedata.normalize("NFC", raw_name[:_READ]):
        category = unicodedata.category(char)
        marks = marks + 1 if category in {"Mn", "Me"} else 0
        if char.isspace():
            kept.append(" ")
        elif category not in _HIDDEN and marks <= _MAX_MARKS:
            kept.append("'" if char in '"“”„«»' else char)
    name = " ".join("".join(kept).split())
    if "npub1" in unicodedata.normalize("NFKC", name).lower():
        return ""
    return name if len(name) <= MAX_CLAIM else f"{name[: MAX_CLAIM - 1].rstrip()}…"


def merge_profile(latest: Event | None, changes: Mapping[str, str], *, now: int) -> EventDraft | None:
    """Return a profile with everything that the latest one has, and some fields changed; None if nothing changes.

    Args:
        latest: The key's newest profile, None without one.
        changes: New values by field; an empty one removes the field.
        now: Seconds since 1970.

    Raises:
        CallerError: The latest profile is no JSON object, so that its fields cannot be kept.
    """
    before = read_profile(latest) if latest else {}
    if before is None:
        raise CallerError("the profile on your relays is not a JSON object, and cannot be changed without losing it")
    fields = {**before, **changes}
    after = {name: value for name, value in fields.items() if value or name not in changes}
    if after == before:
        return None
    created_at = max(now, latest.created_at + 1) if latest else now
    return EventDraft(
        kind=PROFILE_KIND, created_at=created_at, tags=latest.tags if latest else (), content=_dump(after)
    )


def _dump(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return text if _is_unicode(text) else json.dumps(fields, separators=(",", ":"))


def _is_unicode(text: str) -> bool:
    """Return whether a text has no lone surrogates, which JSON can escape and UTF-8 cannot encode."""
    return not any("\ud800" <= char <= "\udfff" for char in text)
