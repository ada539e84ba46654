"""Names that authors claim in their profiles (kind 0), as relays last gave them. Owns state/profiles.json.

They are shown as claims and used for nothing else, so a damaged file counts as empty. Network I/O through a pool.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distribution.errors import StoreError
from distribution.event_tags import MAX_FUTURE_S
from distribution.state_file import StateFile
from relay_client.errors import InvalidEvent, PeerError, TransportError
from relay_client.event import Event, latest_event
from relay_client.hexadecimal import parse_hex
from relay_client.profile import PROFILE_KIND, claimed_name, clean_name, profile_filter

if TYPE_CHECKING:  # it imports what talks to relays
    from relay_client.event_source import Answer, EventSource

MAX_CLAIMS = 1_000  # authors in the file
MAX_ASKED = 100  # authors in one question
_FRESH_S = 86_400
_ASK_S = 2.0


class ClaimStore:
    """Claimed names below a home folder."""

    def __init__(self, home: Path) -> None:
        self._file = StateFile(home / "state" / "profiles.json")

    def read(self) -> dict[bytes, str]:
        """Return the claimed name of each author who has one."""
        return {author: name for author, (name, _) in self._entries().items() if name}

    def unknown(self, authors: Iterable[bytes], *, now: int) -> list[bytes]:
        """Return the authors whose profile was not looked for within a day; `now` is in seconds since 1970."""
        entries = self._entries()
        return [each for each in dict.fromkeys(authors) if entries.get(each, ("", 0))[1] <= now - _FRESH_S]

    async def record(self, names: Mapping[bytes, str], *, now: int) -> None:
        """Keep names, empty ones too; the oldest entries make room. Raises StoreError and OSError."""
        async with self._file.changing() as content:
            for author, name in names.items():
                content[author.hex()] = {"name": name, "asked_at": now}
            for key in sorted(content, key=lambda key: _asked_at(content[key]))[: len(content) - MAX_CLAIMS]:
                del content[key]

    def _entries(self) -> dict[bytes, tuple[str, int]]:
        """Return name and date of each entry; what is damaged is left out."""
        try:
            content = self._file.read()
        except (StoreError, OSError):
            return {}
        keys = ((parse_hex(key, 32), entry) for key, entry in content.items() if isinstance(entry, dict))
        return {author: (clean_name(entry.get("name")), _asked_at(entry)) for author, entry in keys if author}


async def learn_names(source: "EventSource", authors: Iterable[bytes], store: ClaimStore, *, now: int) -> None:
    """Ask relays for the profiles of authors, unless that was done within a day, and keep the names in them.

    Args:
        source: Relays; what fails there is ignored.
        authors: X-only public keys, 32 bytes each; at most 100 of them are asked for.
        store: Where names are kept; what fails there is ignored too.
        now: Seconds since 1970.
    """
    asked = store.unknown(authors, now=now)[:MAX_ASKED]
    if asked and (names := await ask_names(source, asked, now=now)) is not None:
        with contextlib.suppress(StoreError, OSError):
            await store.record(dict.fromkeys(asked, "") | names, now=now)


async def ask_names(source: "EventSource", authors: Sequence[bytes], *, now: int) -> dict[bytes, str] | None:
    """Return the names in the newest profiles of authors that relays have; None if the relays fail."""

    def names(answers: "Sequence[Answer]") -> dict[bytes, str]:
        events = _profiles(answers, now)
        found = {author: latest_event(events, kind=PROFILE_KIND, author=author) for author in authors}
        return {author: claimed_name(event) for author, event in found.items() if event}

    try:
        async with asyncio.timeout(_ASK_S):
            return names(
                await source.query_soon(
                    profile_filter(*authors),
                    enough=lambda found: len(names(found)) == len(authors),
                    late=[],
                    may_fail=True,
                )
            )
    except (PeerError, TransportError, TimeoutError):
        return None


def _profiles(answers: "Sequence[Answer]", now: int) -> list[Event]:
    """Return the valid events among answers that are not dated in the future."""
    found = []
    for _, raw_event in answers:
        with contextlib.suppress(InvalidEvent):
            event = Event.parse(raw_event)
            if event.created_at <= now + MAX_FUTURE_S:
                found.append(event)
    return found


def _asked_at(entry: Any) -> int:  # noqa: ANN401 (decoded JSON)
    date = entry.get("asked_at") if isinstance(entry, dict) else None
    return date if type(date) is int else 0
