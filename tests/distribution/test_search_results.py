"""Which releases match a search, in which order they come, and how many are kept."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from support.announcements import announce

from distribution.confusables import skeleton
from distribution.errors import CallerError
from distribution.events import Release
from distribution.search_results import MAX_SHOWN, Candidates, Claims, KnownAuthors, SearchQuery
from relay_client.keys import SecretKey

NOW = 1_790_000_000
URL = "ws://relay"
KEYS = [SecretKey(bytes([number]) * 32) for number in range(1, 6)]
ALICE, BOB, MALLORY = KEYS[:3]
NO_AUTHORS = KnownAuthors()


def read_card(card: Mapping[str, object]) -> Claims:
    return Claims(**dict(card))  # type: ignore[arg-type]


def release(key: SecretKey = MALLORY, name: str = "demo", *, age: int = 0, **fields: Any) -> Release:  # noqa: ANN401 (passed on)
    return Release.parse(announce(key, name, created_at=NOW - age, **fields).release, now=NOW)


def candidates(known: KnownAuthors = NO_AUTHORS, **query: Any) -> Candidates:  # noqa: ANN401 (passed on)
    return Candidates(SearchQuery(**query), known, read_card)


def names(found: Candidates) -> list[str]:
    return [model.name for model in found.ranked()]


@pytest.mark.parametrize(
    ("query", "is_found"),
    [
        pytest.param({"words": ("SHAKE", "plays")}, True, id="words"),
        pytest.param({"words": ("shake", "novels")}, False, id="one-word-missing"),
        pytest.param({"words": ("mit", "sonnets", "verse", "titled")}, True, id="license-about-topic-title"),
        pytest.param({"author": MALLORY.pubkey}, True, id="author"),
        pytest.param({"author": ALICE.pubkey}, False, id="other-author"),
        pytest.param({"tag": "Verse"}, True, id="topic"),
        pytest.param({"tag": "vers"}, False, id="part-of-a-topic"),
        pytest.param({"max_params": 900}, True, id="parameters"),
        pytest.param({"max_params": 899}, False, id="too-many-parameters"),
        pytest.param({"max_size": 300}, True, id="size"),
        pytest.param({"max_size": 299}, False, id="too-large"),
        pytest.param({"since": NOW - 10}, True, id="new"),
        pytest.param({"since": NOW - 9}, False, id="too-old"),
    ],
)
def test_query_selects_releases(query: dict[str, Any], is_found: bool) -> None:  # noqa: FBT001
    card = {"parameters": 900, "license": "MIT", "about": "Sonnets and plays"}
    tags = (("t", "verse"), ("title", "Titled"))
    found = candidates(**query)
    found.offer(release(name="shakespeare", age=10, card=card, tags=tags), URL)
    assert names(found) == (["shakespeare"] if is_found else [])


def test_unknown_number_of_parameters_is_not_small() -> None:
    found = candidates(max_params=10**9)
    found.offer(release(), URL)
    assert names(found) == []


@pytest.mark.parametrize(
    "query", [{"sort": "age"}, {"limit": 0}, {"limit": 1_001}, {"author": b"x"}, {"words": ("a",) * 33}], ids=repr
)
def test_impossible_query_is_refused(query: dict[str, Any]) -> None:
    with pytest.raises(CallerError):
        SearchQuery(**query)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [("new", ["c", "b", "a"]), ("size", ["b", "a", "c"]), ("bits", ["a", "b", "c"])],
)
def test_results_are_sorted(sort: str, expected: list[str]) -> None:
    found = candidates(sort=sort)
    for name, age, size, bits in (("a", 30, 200, 1.5), ("b", 20, 100, 2.0), ("c", 10, 300, None)):
        found.offer(release(name=name, age=age, size=size, card={"bits_per_byte": bits}), URL)
    assert names(found) == expected


def test_trusted_and_followed_authors_come_first() -> None:
    found = candidates(KnownAuthors(trusted=frozenset({ALICE.pubkey}), followed=frozenset({BOB.pubkey, ALICE.pubkey})))
    for key, name, age in ((MALLORY, "new", 0), (BOB, "old", 100), (ALICE, "oldest", 200)):
        found.offer(release(key, name, age=age), URL)
    assert names(found) == ["oldest", "old", "new"]


def test_highest_version_of_a_name_is_kept() -> None:
    found = candidates()
    for version in (2, 3, 1):
        found.offer(release(version=version), URL)
    found.offer(release(ALICE), URL)
    assert sorted((model.version, model.author) for model in found.ranked()) == sorted(
        [(3, MALLORY.pubkey), (1, ALICE.pubkey)]
    )


def test_relays_of_a_release_are_collected() -> None:
    found, offered = candidates(), release()
    assert not found.has(offered.id)
    found.offer(offered, URL)
    for url in ("ws://b", URL):
        found.add_relay(offered.id, url)
    assert found.has(offered.id)
    assert found.complete(found.ranked()[0]).relays == (URL, "ws://b")


def test_one_stranger_has_few_places() -> None:
    found = candidates(KnownAuthors(followed=frozenset({ALICE.pubkey})))
    for number in range(60):
        found.offer(release(name=f"m{number}", age=number), URL)
        found.offer(release(ALICE, f"m{number}", age=number), URL)
    counts = Counter(model.author for model in found.ranked())
    assert counts == {MALLORY.pubkey: 50, ALICE.pubkey: 60}
    assert found.crowded == {MALLORY.pubkey}
    spam, known = found.ranked()[-1], found.ranked()[0]
    listed = Counter({MALLORY.pubkey: MAX_SHOWN, ALICE.pubkey: MAX_SHOWN})
    assert (found.has_place(spam, listed), found.has_place(known, listed)) == (False, True)
    alone = candidates(author=MALLORY.pubkey)
    assert alone.has_place(spam, listed)


@pytest.mark.parametrize(
    "name",
    [
        "shakespeare",
        "shakespeare-",
        "sha.kespe_are",
        "5hake5peare",
        "shakespe\u0430r\u0435",
        "".join(chr(ord(letter) + 0xFEE0) for letter in "SHAKESPEARE"),
        "sh\u00e1kespeare",
    ],
)
def test_similar_names_share_a_skeleton(name: str) -> None:
    assert skeleton(name) == skeleton("shakespeare")
    assert skeleton("modern") == skeleton("modem") == skeleton("m0d\u200be\u0301rn")
    assert skeleton("hello1") == skeleton("heIIol")


def test_different_names_have_different_skeletons() -> None:
    assert len({skeleton(name) for name in ("shakespeare", "shakespear", "milton", "gpt-2", "gpt-3", "")}) == 6


@pytest.mark.parametrize("source", ["offered", "installed"])
def test_imitation_of_a_trusted_name_is_marked(source: str) -> None:
    models = frozenset({(ALICE.pubkey, "shakespeare")} if source == "installed" else ())
    found = candidates(KnownAuthors(trusted=frozenset({ALICE.pubkey}), models=models), words=("5peare",))
    if source == "offered":
        found.offer(release(ALICE, "shakespeare"), URL)
    found.offer(release(MALLORY, "shake-5peare"), URL)
    found.offer(release(BOB, "other-5peare"), URL)
    marked = {model.name: found.complete(model).resembles for model in found.ranked()}
    assert marked == {"shake-5peare": "shakespeare", "other-5peare": ""}
