"""Searches on relays: what is listed, and what floods, duplicates and broken announcements do to it."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from support.announcements import Announcement, announce, stored
from support.scripted_relay import ScriptedRelay, scripted_relay

from distribution.ancestors import Ancestor, Lineage
from distribution.events import HEAD_KIND, RELEASE_KIND
from distribution.paged_reader import ReadLimits
from distribution.revocation import revocation_draft
from distribution.search import Searcher, SearchResult
from distribution.search_results import Claims, KnownAuthors, SearchQuery
from relay_client.event import Event, EventDraft
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.local_relay import LocalRelay
from relay_client.pool import Pool
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts

NOW = 1_790_000_000
ALICE, BOB, MALLORY = (SecretKey(bytes([number]) * 32) for number in (1, 2, 3))
REAL = [announce(key, f"real{number}", created_at=NOW - 9_000 - number) for key in (ALICE, BOB) for number in (1, 2)]
NAMES = sorted(each.release.tag_values("name")[0] for each in REAL)
NO_AUTHORS = KnownAuthors()
TIMEOUT_S = 60


def read_card(_card: Mapping[str, object]) -> Claims:
    return Claims()


async def search(
    urls: list[str],
    *,
    known: KnownAuthors = NO_AUTHORS,
    word_relays: Iterable[str] = (),
    limits: ReadLimits | None = None,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    **query: Any,  # noqa: ANN401 (passed on)
) -> SearchResult:
    async with asyncio.timeout(TIMEOUT_S), Pool(urls, wait_for_all=False, timeouts=timeouts) as pool:
        searcher = Searcher(
            pool=pool,
            query=SearchQuery(**query),
            known=known,
            read_card=read_card,
            now=NOW,
            word_relays=list(word_relays),
            limits=limits or ReadLimits(),
        )
        return await searcher.search()


def names(result: SearchResult) -> list[str]:
    return sorted(model.name for model in result.models)


def events_of(announcements: Iterable[Announcement]) -> list[Event]:
    return [event for each in announcements for event in each.events]


def junk(count: int, *, created_at: int = NOW, key: SecretKey = MALLORY) -> list[Event]:
    """Events of a kind and topic of releases that are none."""
    drafts = (
        EventDraft(kind=RELEASE_KIND, created_at=created_at, tags=(("t", "randygpt"), ("n", str(number))))
        for number in range(count)
    )
    return [draft.sign(key) for draft in drafts]


async def test_latest_version_of_each_model_is_listed(scripted: ScriptedRelay) -> None:
    base = Ancestor(release_id=REAL[0].release.id, author=ALICE.pubkey)
    first = announce(BOB, "forked", created_at=NOW - 9)
    second = announce(BOB, "forked", created_at=NOW - 8, version=2, size=900, tags=Lineage(base=base).tags)
    scripted.events = stored(events_of([first, REAL[0], second]))
    del scripted.events[first.head.id.hex()]
    forked, original = (await search([scripted.url])).models
    assert (forked.name, forked.version, forked.release_id, forked.size) == ("forked", 2, second.release.id, 900)
    assert (forked.base, forked.author, forked.relays) == (REAL[0].release.id, BOB.pubkey, (scripted.url,))
    assert (original.name, original.base) == ("real1", None)


async def test_release_that_the_head_names_is_listed(scripted: ScriptedRelay) -> None:
    latest = announce(BOB, "demo", created_at=NOW - 9, version=2)
    unfinished = announce(BOB, "demo", created_at=NOW, version=3)
    scripted.events = stored([*latest.events, unfinished.release])
    assert [model.version for model in (await search([scripted.url])).models] == [2]


async def test_incomplete_or_revoked_models_are_not_listed(scripted: ScriptedRelay) -> None:
    no_head, no_manifest, other_manifest, revoked, mixed = (
        announce(BOB, name, created_at=NOW - 9, size=300 + number)
        for number, name in enumerate(("no-head", "no-manifest", "other", "revoked", "mixed"))
    )
    tags = tuple(("e", revoked.manifest.id.hex(), "") if tag[0] == "e" else tag for tag in other_manifest.release.tags)
    bad = EventDraft(kind=RELEASE_KIND, created_at=NOW, tags=tags, content="{}").sign(BOB)
    head = tuple(("e", bad.id.hex(), "") if tag[0] == "e" else tag for tag in other_manifest.head.tags)
    wrong = tuple(("version", "7") if tag[0] == "version" else tag for tag in mixed.head.tags)
    scripted.events = stored(
        [
            *events_of([REAL[0], revoked]),
            no_head.release,
            no_head.manifest,
            no_manifest.release,
            no_manifest.head,
            bad,
            EventDraft(kind=HEAD_KIND, created_at=NOW, tags=head).sign(BOB),
            mixed.manifest,
            mixed.release,
            EventDraft(kind=HEAD_KIND, created_at=NOW, tags=wrong).sign(BOB),
            revocation_draft(revoked.release.id, reason="", created_at=NOW).sign(BOB),
            revocation_draft(REAL[0].release.id, reason="", created_at=NOW).sign(MALLORY),
        ]
    )
    assert names(await search([scripted.url])) == ["real1"]


async def test_events_that_do_not_verify_are_skipped(scripted: ScriptedRelay) -> None:
    scripted.events = stored(events_of(REAL[:2]))
    forged = scripted.events[REAL[1].release.id.hex()]
    scripted.junk = [{**forged, "sig": "0" * 128}, {**forged, "content": "{} "}, {"kind": RELEASE_KIND}, {}]
    del scripted.events[REAL[1].release.id.hex()]
    assert names(await search([scripted.url])) == ["real1"]


@pytest.mark.parametrize("second", [NOW, NOW + 800, NOW + 10**6], ids=["now", "soon", "far-future"])
async def test_flood_of_one_second_hides_nothing(scripted: ScriptedRelay, second: int) -> None:
    scripted.events = stored([*events_of(REAL), *junk(250, created_at=second)])
    assert names(await search([scripted.url], limits=ReadLimits(page=100))) == NAMES


async def test_headless_flood_is_checked_in_bounded_batches(scripted: ScriptedRelay) -> None:
    spam = [announce(SecretKey.generate(), "spam", created_at=NOW).release for _ in range(120)]
    scripted.events = stored([*events_of(REAL), *spam])
    result = await search([scripted.url], limit=4)
    assert (names(result), result.more, result.crowded) == (NAMES, 0, set())
    assert len([wanted for wanted in scripted.requests if wanted.get("kinds") == [HEAD_KIND]]) == 3


async def test_heads_of_other_names_displace_none(scripted: ScriptedRelay) -> None:
    """Authors in the same request have newer heads for the names of all others, more than a page."""
    events = events_of(REAL)
    for key in [SecretKey.generate() for _ in range(6)]:
        for number in range(20):
            spam = announce(key, f"spam{number}", created_at=NOW - 9_500)
            newer = EventDraft(kind=HEAD_KIND, created_at=NOW, tags=spam.head.tags).sign(key)
            events += [spam.release, newer]
    scripted.events = stored(events)
    result = await search([scripted.url], limits=ReadLimits(page=100), limit=4)
    assert names(result) == NAMES


async def test_trusted_and_followed_authors_survive_a_flood(scripted: ScriptedRelay) -> None:
    scripted.events = stored([*events_of(REAL), *junk(300)])
    known = KnownAuthors(trusted=frozenset({ALICE.pubkey}), followed=frozenset({BOB.pubkey}))
    result = await search([scripted.url], known=known, limits=ReadLimits(page=100, events=150))
    assert [model.name for model in result.models] == ["real1", "real2", "real1", "real2"]
    assert [model.author for model in result.models] == 2 * [ALICE.pubkey] + 2 * [BOB.pubkey]
    assert any("more events than a search reads" in line for line in result.incomplete)


async def test_large_events_spend_only_their_relays_budget(scripted: ScriptedRelay) -> None:
    scripted.events = stored(events_of(REAL))
    async with scripted_relay() as hostile:
        large = EventDraft(kind=RELEASE_KIND, created_at=NOW, content="x" * 60_000).sign(MALLORY)
        hostile.events = stored(events_of(REAL))
        hostile.junk = 20 * [*stored([large]).values()]
        result = await search([hostile.url, scripted.url], limits=ReadLimits(size=500_000))
    assert names(result) == NAMES
    assert all(scripted.url in model.relays for model in result.models)
    assert [line for line in result.incomplete if hostile.url in line]


async def test_one_key_fills_five_places(scripted: ScriptedRelay) -> None:
    spam = [announce(MALLORY, f"spam{number}", created_at=NOW) for number in range(30)]
    scripted.events = stored(events_of([*REAL, *spam]))
    result = await search([scripted.url])
    assert [model.author for model in result.models].count(MALLORY.pubkey) == 5
    assert names(result)[:4] == NAMES
    assert result.crowded == {MALLORY.pubkey}
    alone = await search([scripted.url], author=MALLORY.pubkey, limit=100)
    assert len(alone.models) == 30


async def test_imitation_is_marked_in_a_list_of_one_author(scripted: ScriptedRelay) -> None:
    imitation = announce(MALLORY, "real-1", created_at=NOW)
    scripted.events = stored(events_of([*REAL, imitation]))
    known = KnownAuthors(trusted=frozenset({ALICE.pubkey}))
    (found,) = (await search([scripted.url], known=known, author=MALLORY.pubkey)).models
    assert (found.name, found.resembles) == ("real-1", "real1")


async def test_limit_counts_what_is_left_out(scripted: ScriptedRelay) -> None:
    scripted.events = stored(events_of(REAL))
    result = await search([scripted.url], limit=3)
    assert (len(result.models), result.more) == (3, 1)


async def test_same_release_on_two_relays_is_one_line(scripted: ScriptedRelay) -> None:
    scripted.events = stored(events_of(REAL))
    async with scripted_relay() as second:
        second.events = dict(scripted.events)
        result = await search([scripted.url, second.url])
        assert len(result.models) == 4
        assert all(set(model.relays) == {scripted.url, second.url} for model in result.models)


async def test_words_are_sent_where_relays_search(scripted: ScriptedRelay) -> None:
    """A relay that searches finds what is beyond the pages of all releases."""
    tale = announce(BOB, "tale", created_at=NOW - 10_000, card={"about": "old tale"})
    scripted.events = stored([*tale.events, *junk(300)])
    limits = ReadLimits(page=100, events=150)
    assert names(await search([scripted.url], words=("tale",), limits=limits)) == []
    assert names(await search([scripted.url], words=("tale",), word_relays=[scripted.url], limits=limits)) == ["tale"]
    scripted.refuse = lambda wanted: "unsupported: search" if "search" in wanted else ""
    result = await search([scripted.url], words=("tale",), word_relays=[scripted.url])
    assert (names(result), result.incomplete) == (["tale"], [])


async def test_stage_that_takes_too_long_ends(scripted: ScriptedRelay) -> None:
    scripted.events = stored(events_of(REAL))
    scripted.stalls = lambda wanted: wanted.get("kinds") == [HEAD_KIND]
    result = await search([scripted.url], limits=ReadLimits(seconds=0.3))
    assert (result.models, result.more) == ([], 0)
    assert "checking the releases took more than 0 s" in result.incomplete


async def test_mute_relay_is_asked_once(scripted: ScriptedRelay) -> None:
    scripted.events = stored(events_of(REAL))
    async with scripted_relay() as mute:
        mute.ignores = lambda _: True
        known = KnownAuthors(trusted=frozenset({ALICE.pubkey}))
        result = await search([mute.url, scripted.url], known=known, timeouts=Timeouts(settle_s=0.05))
        assert len([wanted for wanted in mute.requests if "kinds" in wanted]) == 1
    assert names(result) == NAMES
    assert [line for line in result.incomplete if f"{mute.url}: no complete answer yet" in line]


async def test_small_flood_on_a_real_relay(free_port: int) -> None:
    headless = [announce(SecretKey.generate(), "real1", created_at=NOW - 50).release for _ in range(20)]
    async with LocalRelay(port=free_port) as relay:
        async with Pool([relay.url]) as pool:
            events = [*events_of(REAL), *headless, *junk(110), *junk(20, created_at=NOW + 500)]
            await pool.publish((event, pool.urls) for event in events)
            assert len(await pool.query(Filter(kinds=(RELEASE_KIND,), limit=500))) == 154
        result = await search([relay.url], limits=ReadLimits(page=100))
    assert names(result) == NAMES


async def test_all_models_of_one_author_are_listed(free_port: int) -> None:
    mine = [announce(ALICE, f"real{number}", created_at=NOW - 9_000 - number) for number in range(3)]
    async with LocalRelay(port=free_port) as relay:
        async with Pool([relay.url]) as pool:
            await pool.publish((event, [relay.url]) for event in events_of(mine))
        result = await search([relay.url], author=ALICE.pubkey)
    assert names(result) == ["real0", "real1", "real2"]
