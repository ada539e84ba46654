"""docs/find.md: its example events verify, and are what the code makes."""

import json
from functools import cache
from pathlib import Path

import pytest
from support.protocol_example import CARD, CHUNK_SIZE, CREATED_AT, HINT, KEY, NAME, SERVERS, Example, examples

from distribution.announce import handler_draft, note_draft
from distribution.events import HEAD_KIND, Release, head_draft, release_draft
from distribution.manifest import Manifest
from distribution.nip94 import file_drafts
from randygpt.release_tags import parse_topics, release_tags
from relay_client.event import Event, EventDraft
from relay_client.nip19 import encode_naddr

EXAMPLES = examples((Path(__file__).parents[2] / "docs/find.md").read_text(encoding="utf-8"))


@cache
def drafts() -> dict[str, EventDraft]:
    """Return the events of the page, as a publish with these flags makes them."""
    example = Example()
    card = {**CARD, "about": "Knows one letter"}
    announced = release_draft(
        example.manifest,
        [example.manifest_chunk.id],
        name=NAME,
        version=1,
        format="RGPT0003",
        size=sum(len(file.data) for file in example.files),
        card=card,
        hint=HINT,
        created_at=CREATED_AT,
        servers=SERVERS,
        tags=(*release_tags(NAME, card, parse_topics(["Letters"])), ("published_at", str(CREATED_AT))),
    )
    release = Release.parse(announced.sign(KEY), now=CREATED_AT)
    manifest = Manifest(files=tuple(file.entry for file in example.files), chunk_size=CHUNK_SIZE)
    naddr = encode_naddr(NAME, author=KEY.pubkey, kind=HEAD_KIND, relays=[HINT])
    return {
        "release": announced,
        "head": head_draft(release, hint=HINT, created_at=CREATED_AT, servers=SERVERS),
        "note": note_draft(release, "It knows a letter now. #nostr", naddr=naddr, hint=HINT),
        "handler": handler_draft(now=CREATED_AT),
        "file": file_drafts(release, manifest, SERVERS, created_at=release.created_at)[0],
    }


@pytest.mark.parametrize("name", ["release", "head", "note", "handler", "file"])
def test_example_event_verifies_and_is_current(name: str) -> None:
    event = Event.parse(json.loads(EXAMPLES[name]))
    draft = drafts()[name]
    assert event.pubkey == KEY.pubkey
    assert (event.kind, event.created_at, event.tags) == (draft.kind, draft.created_at, draft.tags)
    assert event.content == draft.content
