"""Traces of an ancestry through relays, honest and hostile."""

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from support.family import NOW, claim, make_release, revoke_on, store_on
from support.scripted_relay import RawEvent, ScriptedRelay, scripted_relay

from distribution.ancestors import Ancestor, Lineage
from distribution.ancestry import Known, Node, State, build_ancestry
from distribution.errors import CallerError
from distribution.events import Release
from distribution.store import Store
from distribution.trace import TraceLimits, Tracer
from relay_client.keys import SecretKey
from relay_client.pool import Pool

AUTHOR, FRIEND, STRANGER = (SecretKey(bytes([number]) * 32) for number in (1, 2, 3))
BASE = make_release(AUTHOR)
FORKS = [make_release(FRIEND, f"fork{number}", base=BASE) for number in range(2)]
MERGE = make_release(AUTHOR, version=2, base=BASE, merged=FORKS)


@pytest.fixture
async def other() -> AsyncIterator[ScriptedRelay]:
    async with scripted_relay() as relay:
        yield relay


async def trace(start: Release, home: Path, *relays: ScriptedRelay, limits: TraceLimits = TraceLimits()) -> Known:  # noqa: B008 (frozen)
    async with Pool([relay.url for relay in relays], wait_for_all=False) as pool:
        return await Tracer(store=Store(home), pool=pool, now=NOW, limits=limits).trace(start, start.lineage)


def states(known: Known) -> dict[bytes, State]:
    return {node.id: node.state for node in build_ancestry(known)}


def node(known: Known, release: Release) -> Node:
    return next(each for each in build_ancestry(known) if each.id == release.id)


def chain(length: int) -> list[Release]:
    """Return releases of which each was made from the one before."""
    releases = [BASE]
    for version in range(2, length + 1):
        releases.append(make_release(AUTHOR, version=version, base=releases[-1]))
    return releases


async def test_ancestors_come_from_several_relays(
    scripted: ScriptedRelay, other: ScriptedRelay, tmp_path: Path
) -> None:
    store_on(scripted, [FORKS[0]])
    store_on(other, [FORKS[1], BASE])
    known = await trace(MERGE, tmp_path, scripted, other)
    assert set(states(known).values()) == {State.FOUND}
    assert len(known.releases) == 4


async def test_missing_ancestor_is_named(scripted: ScriptedRelay, tmp_path: Path) -> None:
    store_on(scripted, [FORKS[0], BASE])
    known = await trace(MERGE, tmp_path, scripted)
    assert states(known) == dict.fromkeys(known.releases, State.FOUND) | {FORKS[1].id: State.MISSING}


@pytest.mark.parametrize("held", [True, False], ids=["still on the relay", "deleted"])
async def test_revoked_ancestor_is_shown(scripted: ScriptedRelay, tmp_path: Path, held: bool) -> None:  # noqa: FBT001
    store_on(scripted, [BASE] if held else [])
    revoke_on(scripted, BASE, AUTHOR)
    found = node(await trace(FORKS[0], tmp_path, scripted), BASE)
    assert (found.state, found.revoked) == (State.FOUND if held else State.MISSING, "broken")


async def test_revocation_by_another_key_does_not_count(scripted: ScriptedRelay, tmp_path: Path) -> None:
    revoke_on(scripted, BASE, STRANGER)
    scripted.junk = list(scripted.events.values())  # sent before every answer, whatever is asked for
    store_on(scripted, [BASE])
    assert node(await trace(FORKS[0], tmp_path, scripted), BASE).revoked is None


async def test_relay_that_closes_a_circle_is_not_believed(scripted: ScriptedRelay, tmp_path: Path) -> None:
    def answer(event: RawEvent) -> RawEvent:
        forged = orjson.loads(FORKS[0].event.to_json()) | {"id": event["id"]}
        return forged if event["id"] == BASE.id.hex() else event  # the base was made from its own fork

    store_on(scripted, [BASE])
    scripted.deliver = answer
    known = await trace(FORKS[0], tmp_path, scripted)
    assert states(known) == {FORKS[0].id: State.FOUND, BASE.id: State.MISSING}


async def test_false_author_of_the_base_is_shown(scripted: ScriptedRelay, tmp_path: Path) -> None:
    store_on(scripted, [BASE])
    liar = make_release(STRANGER, base=claim(BASE, author=FRIEND.pubkey))
    found = node(await trace(liar, tmp_path, scripted), BASE)
    assert (found.authors, found.misnamed) == ((AUTHOR.pubkey,), (FRIEND.pubkey,))


async def test_event_that_is_no_release_is_no_ancestor(scripted: ScriptedRelay, tmp_path: Path) -> None:
    revoke_on(scripted, BASE, AUTHOR)
    revocation_id = bytes.fromhex(next(iter(scripted.events)))
    fork = make_release(FRIEND, base=Ancestor(release_id=revocation_id, author=AUTHOR.pubkey))
    assert states(await trace(fork, tmp_path, scripted))[revocation_id] is State.MISSING


async def test_deep_chain_is_cut_off(scripted: ScriptedRelay, tmp_path: Path) -> None:
    releases = chain(30)
    store_on(scripted, releases)
    known = await trace(releases[-1], tmp_path, scripted, limits=TraceLimits(depth=10))
    assert list(states(known).values()) == [State.FOUND] * 11 + [State.NOT_ASKED]
    whole = await trace(releases[-1], tmp_path, scripted)
    assert list(states(whole).values()) == [State.FOUND] * 30


async def test_wide_ancestry_is_cut_off(scripted: ScriptedRelay, tmp_path: Path) -> None:
    forks = [make_release(FRIEND, f"fork{number}", base=BASE) for number in range(16)]
    store_on(scripted, [BASE, *forks])
    merge = make_release(AUTHOR, version=2, base=BASE, merged=forks)
    known = await trace(merge, tmp_path, scripted, limits=TraceLimits(releases=5))
    assert sorted(states(known).values()) == [State.FOUND] * 5 + [State.NOT_ASKED] * 13


async def test_silent_relay_ends_the_trace(scripted: ScriptedRelay, tmp_path: Path) -> None:
    scripted.silent = True
    known = await trace(MERGE, tmp_path, scripted, limits=TraceLimits(seconds=0.2))
    assert [*states(known).values()] == [State.FOUND, *[State.NOT_ASKED] * 3]


async def test_nothing_is_asked_without_relays(tmp_path: Path) -> None:
    known = await Tracer(store=Store(tmp_path), pool=None, now=NOW).trace(MERGE, MERGE.lineage)
    assert [*states(known).values()] == [State.FOUND, *[State.NOT_ASKED] * 3]


def test_limits_are_above_zero() -> None:
    with pytest.raises(CallerError):
        TraceLimits(depth=0)


async def test_private_hint_of_an_ancestor_is_not_followed(
    scripted: ScriptedRelay, other: ScriptedRelay, tmp_path: Path
) -> None:
    store_on(other, [BASE])
    fork = make_release(FRIEND, base=claim(BASE))
    hinted = Lineage(base=claim(BASE, hint=other.url))
    async with Pool([scripted.url], wait_for_all=False) as pool:
        known = await Tracer(store=Store(tmp_path), pool=pool, now=NOW).trace(fork, hinted)
    assert states(known)[BASE.id] is State.MISSING
    assert other.connections == 0
