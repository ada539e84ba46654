"""The graph of an ancestry: order, lines, and what is wrong with a release in it."""

from dataclasses import replace

import pytest
from support.family import claim, make_release

from distribution.ancestors import Ancestor, Lineage
from distribution.ancestry import FILE, Known, Node, State, build_ancestry, sort_descendants_first
from distribution.events import Release
from relay_client.keys import SecretKey

AUTHOR, FRIEND, STRANGER = (SecretKey(bytes([number]) * 32) for number in (1, 2, 3))
BASE = make_release(AUTHOR)
FORKS = [make_release(FRIEND, f"fork{number}", base=BASE) for number in range(2)]
MERGE = make_release(AUTHOR, version=2, base=BASE, merged=FORKS)


def known(start: Release, *releases: Release, asked: tuple[bytes, ...] = ()) -> Known:
    found = {release.id: release for release in (start, *releases)}
    return Known(start=start, lineage=start.lineage, releases=found, asked=asked, revoked={})


def nodes(facts: Known) -> dict[bytes, Node]:
    return {node.id: node for node in build_ancestry(facts)}


def test_descendants_come_before_ancestors() -> None:
    order = [node.id for node in build_ancestry(known(MERGE, *FORKS, BASE))]
    assert (order[0], {*order[1:3]}, order[3]) == (MERGE.id, {fork.id for fork in FORKS}, BASE.id)


def test_base_of_a_merge_is_reached_through_its_inputs() -> None:
    found = nodes(known(MERGE, *FORKS, BASE))
    assert found[MERGE.id].parents == tuple(fork.id for fork in FORKS)
    assert found[MERGE.id].lineage == MERGE.lineage
    alone = nodes(known(MERGE))  # the inputs were not found
    assert alone[MERGE.id].parents == (BASE.id, *(fork.id for fork in FORKS))


def test_ancestor_that_was_not_found_is_shown() -> None:
    found = nodes(known(MERGE, FORKS[0], asked=(BASE.id,)))
    assert (found[BASE.id].state, found[FORKS[1].id].state) == (State.MISSING, State.NOT_ASKED)
    assert (found[BASE.id].release, found[BASE.id].authors) == (None, (AUTHOR.pubkey,))


def test_wrongly_named_author_is_shown() -> None:
    liar = make_release(STRANGER, base=claim(BASE, author=FRIEND.pubkey))
    found = nodes(known(liar, BASE))[BASE.id]
    assert (found.authors, found.misnamed) == ((AUTHOR.pubkey,), (FRIEND.pubkey,))
    assert nodes(known(FORKS[0], BASE))[BASE.id].misnamed == ()


def test_file_has_the_ancestors_of_its_sidecar() -> None:
    facts = Known(start=None, lineage=Lineage(base=claim(BASE)), releases={BASE.id: BASE}, revoked={})
    assert [(node.id, node.state) for node in build_ancestry(facts)] == [(FILE, State.FOUND), (BASE.id, State.FOUND)]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_cycle_ends_and_is_shown(length: int) -> None:
    keys = [bytes([number]) for number in range(length)]
    parents = {key: [keys[(number + 1) % length]] for number, key in enumerate(keys)}
    order, cyclic = sort_descendants_first(parents, lambda key: (0, key))
    assert (order, cyclic) == (keys, frozenset(keys[:1]))


def test_ancestry_with_a_cycle_ends() -> None:
    # Verified releases have none, as an id is a hash over the ids that a release names: the claim is put in its place.
    closing = Ancestor(release_id=MERGE.id, author=AUTHOR.pubkey)
    facts = known(MERGE, *FORKS, BASE)
    looped = replace(facts, releases={**facts.releases, BASE.id: replace(BASE, lineage=Lineage(base=closing))})
    found = build_ancestry(looped)
    assert (len(found), sum(node.in_cycle for node in found)) == (4, 1)


def test_long_chain_is_sorted() -> None:
    parents = {number.to_bytes(2, "big"): [(number + 1).to_bytes(2, "big")] for number in range(499)}
    parents[(499).to_bytes(2, "big")] = []
    order, cyclic = sort_descendants_first(parents, lambda key: (0, key[::-1]))
    assert (order, cyclic) == (list(parents), frozenset())
