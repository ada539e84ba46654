"""Ancestors of a release, by the rules of the page."""

from typing import Any

from .events import HEX32, is_text


def ancestors(event: dict[str, Any]) -> tuple[str | None, list[str]]:
    """Return the ids of the base, None without one, and of the inputs of a merge."""
    named: dict[str, list[str]] = {"base": [], "merged": []}
    for tag in event["tags"]:
        if len(tag) >= 5 and tag[0] == "b" and tag[4] in named and is_text(tag[1], HEX32) and is_text(tag[3], HEX32):
            same = named[tag[4]]
            same += [tag[1]] if tag[1] not in same else []
    bases, merged = named["base"], named["merged"]
    if len(bases) != 1:
        return None, []
    return bases[0], merged if 2 <= len(merged) <= 16 else []
