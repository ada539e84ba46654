"""Forks of a release on relays, among any number of hostile ones."""

from collections.abc import Collection

import orjson
import pytest
from support.family import NOW, claim, make_release, revoke_on, store_on
from support.scripted_relay import ScriptedRelay

from distribution import forks, paged_reader
from distribution.events import Release
from distribution.forks import Forks, find_role, newest_of_each_name, query_forks
from distribution.paged_reader import ReadLimits
from relay_client.keys import SecretKey
from relay_client.pool import Pool

AUTHOR, FRIEND, STRANGER = (SecretKey(bytes([number]) * 32) for number in (1, 2, 3))
BASE = make_release(AUTHOR)
OTHER = make_release(AUTHOR, "other")
FORK = make_release(FRIEND, "fork", base=BASE)
MERGE = make_release(STRANGER, "merge", base=OTHER, merged=[BASE, FORK])


async def search(
    relay: ScriptedRelay, *, trusted: Collection[bytes] = (FRIEND.pubkey,), only_trusted: bool = False
) -> Forks:
    async with Pool([relay.url], wait_for_all=False) as pool:
        return await query_forks(pool, BASE, trusted=trusted, only_trusted=only_trusted, now=NOW)


def found(result: Forks) -> list[tuple[Release, str, bool]]:
    return [(fork.release, fork.role, fork.trusted) for fork in result.found]


async def test_forks_and_merges_are_found(scripted: ScriptedRelay) -> None:
    store_on(scripted, [MERGE, BASE, FORK, OTHER])
    result = await search(scripted)
    assert found(result) == [(FORK, "base", True), (MERGE, "merged", False)]
    assert (result.complete, result.refused) == (True, 0)
    assert found(await search(scripted, only_trusted=True)) == [(FORK, "base", True)]


def test_newest_of_each_authors_name_counts() -> None:
    newer = make_release(FRIEND, "fork", version=2, base=BASE)
    same_name = make_release(STRANGER, "fork", base=BASE)
    listed = newest_of_each_name([newer, FORK, same_name], BASE, {FRIEND.pubkey})
    assert [fork.release for fork in listed] == [newer, same_name]
    listed = newest_of_each_name([newer, FORK], BASE, {FRIEND.pubkey}, revoked={newer.id})
    assert [fork.release for fork in listed] == [FORK]


def test_release_that_names_another_author_is_no_fork() -> None:
    liar = make_release(STRANGER, base=claim(BASE, author=FRIEND.pubkey))
    assert (find_role(liar, BASE), find_role(FORK, BASE), find_role(FORK, OTHER)) == ("", "base", "")
    assert (find_role(MERGE, BASE), find_role(MERGE, OTHER)) == ("merged", "base")


async def test_forged_and_revoked_forks_are_left_out(scripted: ScriptedRelay) -> None:
    forged = orjson.loads(FORK.event.to_json()) | {"pubkey": STRANGER.pubkey.hex()}
    revoked = make_release(FRIEND, "revoked", base=BASE)
    liar = make_release(STRANGER, base=claim(BASE, author=FRIEND.pubkey))
    store_on(scripted, [revoked, liar, FORK])
    scripted.events["forged"] = forged
    revoke_on(scripted, revoked, FRIEND)
    result = await search(scripted)
    assert found(result) == [(FORK, "base", True)]
    assert result.refused == 3


def hostile_forks(number: int) -> list[Release]:
    """Return forks by a stranger, all newer than the others, and each a second newer than the one before."""
    return [
        make_release(STRANGER, f"fork{count}", base=BASE, created_at=NOW - number + count) for count in range(number)
    ]


async def test_trusted_fork_is_not_hidden_by_hostile_ones(
    scripted: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "MAX_STRANGERS", 20)
    store_on(scripted, [*hostile_forks(40), FORK])
    result = await search(scripted)
    assert (result.found[0].release, len(result.found), result.complete) == (FORK, 21, False)
    alone = await search(scripted, only_trusted=True)
    assert (len(alone.found), alone.complete) == (1, True)


async def test_pages_are_read_until_the_end(scripted: ScriptedRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_reader, "LEAST_CUT", 10)
    store_on(scripted, hostile_forks(25))
    scripted.most = 10
    result = await search(scripted, trusted=())
    assert (len(result.found), result.complete) == (25, True)


async def test_pages_of_false_forks_do_not_end_the_search(
    scripted: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paged_reader, "LEAST_CUT", 10)
    wrong = claim(BASE, author=FRIEND.pubkey)
    false = [make_release(STRANGER, f"false{count}", base=wrong, created_at=NOW - count) for count in range(15)]
    store_on(scripted, [*false, MERGE])
    scripted.most = 10
    result = await search(scripted, trusted=())
    assert (found(result), result.refused) == ([(MERGE, "merged", False)], 15)


async def test_relay_that_sends_without_end_is_left(scripted: ScriptedRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_reader, "LEAST_CUT", 10)
    monkeypatch.setattr(forks, "LIMITS", ReadLimits(events=30))
    endless = make_release(STRANGER, base=BASE)
    scripted.junk = [orjson.loads(endless.event.to_json())] * 20  # before every answer, whatever is asked for
    result = await search(scripted, trusted=())
    assert (found(result), result.complete) == ([(endless, "base", False)], False)
    assert result.incomplete == (f"{scripted.url}: returns more events than a search reads",)


@pytest.mark.full
async def test_ten_thousand_forks_are_read_in_bounds(scripted: ScriptedRelay) -> None:
    store_on(scripted, [FORK, *hostile_forks(10_000)])
    result = await search(scripted)
    assert result.found[0].release == FORK
    assert len(result.found) <= 1 + forks.MAX_STRANGERS
    assert not result.complete
