"""Events that make a release known to people and other programs: a note, a handler (NIP-89). Does network I/O.

They are sent after the release, which does not depend on them: what fails is reported and not raised.
"""

import contextlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from distribution.errors import CallerError
from distribution.events import HEAD_KIND, RELEASE_KIND, Release
from relay_client.errors import InvalidEvent, RandyGPTError
from relay_client.event import Event, EventDraft, EventSigner, Tags, latest_event
from relay_client.filter import Filter
from relay_client.keys import local_key
from relay_client.pool import Pool

NOTE_KIND = 1
HANDLER_KIND = 31990
MAX_NOTE = 4_000  # characters
_HANDLER_NAME = "randygpt"  # its `d` tag
_MAX_HASHTAGS = 10
_MAX_EARLIER = 20  # notes on a model that are looked at
_LINK = "\n\nnostr:"  # between the text of a note and its link
_HASHTAG = re.compile(r"(?<!\S)#(\w[\w-]{0,39})(?![\w-])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What to send after a release.

    Raises:
        CallerError: The note is empty or too long, or has a secret key in it.
    """

    note: str | None = None  # text of a note that links to the model; None: no note
    handler: bool = False  # tell other programs what reads releases (NIP-89)

    def __post_init__(self) -> None:
        if self.note is None:
            return
        if not self.note.strip() or len(self.note) > MAX_NOTE:
            raise CallerError(f"a note has 1 to {MAX_NOTE:,} characters, not {len(self.note):,}")
        if "nsec1" in self.note.lower():
            raise CallerError("the note contains a SECRET key (nsec); nothing was sent")


@dataclass(frozen=True, slots=True, kw_only=True)
class SentEvent:
    """An event that was sent, and what relays answered."""

    id: bytes | None = None  # None if it could not be signed or sent
    relays: Mapping[str, str] = field(default_factory=dict)  # why a relay did not take it, by URL; empty if it did
    failure: str = ""  # why it was not sent


def note_draft(release: Release, text: str, *, naddr: str, hint: str) -> EventDraft:
    """Return the draft of a note that quotes a model (NIP-18, NIP-27); the same for each publish of a release.

    Args:
        release: The release.
        text: What the author says; `#words` in it become topics.
        naddr: Address of the model's latest version.
        hint: URL of a relay that has it.
    """
    address = f"{HEAD_KIND}:{release.author.hex()}:{release.name}"
    topics = dict.fromkeys(unicodedata.normalize("NFC", word.lower()) for word in _HASHTAG.findall(text))
    tags: Tags = (
        ("q", address, hint, release.author.hex()),
        *(("t", topic) for topic in list(topics)[:_MAX_HASHTAGS]),
    )
    content = f"{text.strip()}{_LINK}{naddr}"
    return EventDraft(kind=NOTE_KIND, created_at=release.created_at, tags=tags, content=content)


def handler_draft(*, now: int) -> EventDraft:
    """Return the draft of the event that says what reads releases (NIP-89); `now` is in seconds since 1970."""
    about = "Small language models as signed nostr events. On a command line: randygpt fetch, then the address"
    tags: Tags = (
        ("d", _HANDLER_NAME),
        ("k", str(RELEASE_KIND)),
        ("k", str(HEAD_KIND)),
        ("alt", f"Program for language models on nostr: {_HANDLER_NAME} fetch"),
    )
    content = orjson.dumps({"name": _HANDLER_NAME, "about": about}).decode()
    return EventDraft(kind=HANDLER_KIND, created_at=now, tags=tags, content=content)


async def announce(
    announcement: Announcement, release: Release, relays: Sequence[str], key: EventSigner, *, naddr: str, now: int
) -> dict[str, SentEvent]:
    """Sign the events of an announcement and send them to relays; returns what became of each, `note` and `handler`.

    Args:
        announcement: What to send.
        release: The release that was published.
        relays: URLs of relays that have it.
        key: Signs as the author.
        naddr: Address of the model's latest version.
        now: Seconds since 1970.
    """
    drafts = {}
    if announcement.note is not None:
        drafts["note"] = note_draft(release, announcement.note, naddr=naddr, hint=next(iter(relays), ""))
    if announcement.handler:
        drafts["handler"] = handler_draft(now=now)
    return {name: await _send(relays, key, draft) for name, draft in drafts.items()}


async def _send(relays: Sequence[str], key: EventSigner, draft: EventDraft) -> SentEvent:
    """Sign and send an event, or the one that an earlier run sent; a relay that refuses it may take another."""
    try:
        async with Pool(relays, signer=local_key(key)) as pool:
            event = await _sent_before(pool, key.pubkey, draft) or await key.sign_event(draft)
            urls = pool.urls
            await pool.publish([(event, urls)])
            return SentEvent(id=event.id, relays={url: pool.reports[url].reason for url in urls})
    except RandyGPTError as error:
        return SentEvent(failure=str(error))


async def _sent_before(pool: Pool, author: bytes, draft: EventDraft) -> Event | None:
    """Return the newest event of the author that says the same as a draft; its relay hints may differ."""
    name, value = draft.tags[0][:2]  # `q` or `d`
    wanted = Filter(authors=(author,), kinds=(draft.kind,), tags={name: (value,)}, limit=_MAX_EARLIER)
    answers = await pool.query(wanted)
    return latest_event(
        (event for event in _events(answers) if _essence(event) == _essence(draft)), kind=draft.kind, author=author
    )


def _essence(event: Event | EventDraft) -> tuple[object, ...]:
    """Return what makes an event the same as one of an earlier run."""
    if event.kind == NOTE_KIND:
        return event.created_at, event.tags[:1] and event.tags[0][:2], event.content.rpartition(_LINK)[0]
    return event.tags, event.content


def _events(answers: Iterable[tuple[str, Mapping[str, object]]]) -> list[Event]:
    found = []
    for _, raw_event in answers:
        with contextlib.suppress(InvalidEvent):
            found.append(Event.parse(raw_event))
    return found
