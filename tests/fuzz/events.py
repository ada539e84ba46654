"""Events and what the kinds of them say: releases, heads, revocations, ancestors, profiles, lists."""

import orjson
from fuzz.oracle import BrokenPromise, Target, same
from fuzz.signed import KEY, NOW, on_event

from distribution.ancestors import parse_lineage
from distribution.events import HEAD_KIND, RELEASE_KIND, Head, Release
from distribution.revocation import REVOCATION_KIND, Revocation, read_revoked
from randygpt.cli.card import card_lines, losses_text
from randygpt.discovery import read_claims
from randygpt.release_tags import release_tags
from relay_client.blossom.server_list import SERVER_LIST_KIND, extend_list, listed_servers
from relay_client.event import Event, HashedEvent
from relay_client.nip02 import FOLLOW_LIST_KIND, followed_authors
from relay_client.nip65 import RELAY_LIST_KIND, extend_relay_list, listed_write_relays, write_relays
from relay_client.profile import MAX_CLAIM, PROFILE_KIND, claimed_name, merge_profile, read_profile


def _event(data: bytes) -> None:
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError:
        return
    event = Event.parse(raw)
    same(event, Event.parse(orjson.loads(event.to_json())))
    HashedEvent.parse(raw)


def _release(event: Event) -> None:
    release = Release.parse(event, now=NOW)
    read_claims(release.card)
    release_tags(release.name, release.card)
    _ = release.title, release.short_id, release.base, release.merged


def _card(event: Event) -> None:
    card = Release.parse(event, now=NOW).card
    for text in (*card_lines(card).values(), losses_text(card)):
        if len(text.splitlines()) > 1:
            raise BrokenPromise(f"more than one line: {text!r}")


def _ancestors(event: Event) -> None:
    lineage = parse_lineage(event.tags)
    again = parse_lineage(lineage.tags)
    same(*([(role, each.release_id, each.author) for role, each in known.ancestors] for known in (lineage, again)))


def _revocation(event: Event) -> None:
    found = Revocation.parse(event, now=NOW)
    revoked = read_revoked([("", event.to_dict())], dict.fromkeys(found.event_ids, (KEY.pubkey,)), now=NOW)
    same(found.event_ids, revoked.keys())


def _profile(event: Event) -> None:
    name = claimed_name(event)
    if len(name) > MAX_CLAIM:
        raise BrokenPromise(f"a name of {len(name)} characters")
    if read_profile(event) is not None and (draft := merge_profile(event, {"about": "changed"}, now=NOW)):
        same((read_profile(event) or {}) | {"about": "changed"}, read_profile(draft.sign(KEY)))


def _relay_list(event: Event) -> None:
    urls = write_relays([event], author=KEY.pubkey)
    if draft := extend_relay_list(event, ["wss://new.example"], now=NOW):
        missing = {*urls, "wss://new.example"} - {*listed_write_relays(draft.sign(KEY))}
        same(missing, set())


def _server_list(event: Event) -> None:
    listed_servers(event)
    if draft := extend_list(event, ["https://new.example"], now=NOW):
        draft.sign(KEY)


TARGETS: dict[str, Target] = {
    "event": _event,
    "release": on_event(RELEASE_KIND, _release),
    "card": on_event(RELEASE_KIND, _card),
    "head": on_event(HEAD_KIND, lambda event: Head.parse(event, now=NOW)),
    "ancestors": on_event(RELEASE_KIND, _ancestors),
    "revocation": on_event(REVOCATION_KIND, _revocation),
    "profile": on_event(PROFILE_KIND, _profile),
    "follow-list": on_event(FOLLOW_LIST_KIND, lambda event: followed_authors([event], author=KEY.pubkey)),
    "relay-list": on_event(RELAY_LIST_KIND, _relay_list),
    "server-list": on_event(SERVER_LIST_KIND, _server_list),
}
