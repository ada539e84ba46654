"""Ancestors that a release claims, to and from `b` tags."""

import hashlib

import pytest

from distribution.ancestors import Ancestor, Lineage, parse_lineage
from distribution.errors import InvalidRelease
from distribution.events import Release, release_draft
from relay_client.event import EventDraft, Tags
from relay_client.keys import SecretKey

NOW = 1_790_000_000
KEY = SecretKey(bytes.fromhex("11" * 32))
HINT = "wss://relay.example"


def ancestor(number: int, hint: str = HINT) -> Ancestor:
    digest = hashlib.sha256(bytes([number])).digest()
    return Ancestor(release_id=digest, hint=hint, author=digest[::-1])


def tag(number: int, role: str = "base", hint: str = HINT) -> tuple[str, ...]:
    one = ancestor(number)
    return ("b", one.release_id.hex(), hint, one.author.hex(), role)


def merged(*numbers: int) -> Tags:
    return tuple(tag(number, "merged") for number in numbers)


MERGE = Lineage(base=ancestor(0), merged=(ancestor(1), ancestor(2)))


@pytest.mark.parametrize("lineage", [Lineage(), Lineage(base=ancestor(0)), MERGE], ids=["none", "base", "merge"])
def test_tags_round_trip(lineage: Lineage) -> None:
    assert parse_lineage(lineage.tags) == lineage


def test_tags_are_those_of_the_protocol() -> None:
    assert MERGE.tags == (tag(0), tag(1, "merged"), tag(2, "merged"))


@pytest.mark.parametrize("hint", ["ws://relay.example", "wss://192.168.1.7", "wss://localhost", "no address", ""])
def test_private_relay_is_never_named(hint: str) -> None:
    assert Lineage(base=ancestor(0, hint)).tags == (tag(0, hint=""),)


BASE = Lineage(base=ancestor(0))
HEX = "1" * 64


@pytest.mark.parametrize(
    ("tags", "stated"),
    [
        ((tag(0), ("b",), ()), BASE),
        ((tag(0), ("b", HEX, "", HEX)), BASE),
        ((tag(0), ("b", HEX.upper() + "A", "", HEX, "base")), BASE),
        ((tag(0), ("b", "A" * 64, "", HEX, "base")), BASE),
        ((tag(0), ("b", HEX, "", "", "base")), BASE),
        ((tag(0), ("b", HEX, "", HEX, "parent")), BASE),
        (((*tag(0), "more"),), BASE),
        ((tag(0), tag(0)), BASE),
        ((tag(0), tag(1)), Lineage()),
        (merged(1, 2), Lineage()),
        ((tag(0), *merged(1)), BASE),
        ((tag(0), *merged(1, 1)), BASE),
        ((tag(0), *merged(1, 2, 1)), MERGE),
        ((tag(0), *merged(*range(1, 18))), BASE),
        ((tag(0), *merged(*range(1, 17))), Lineage(base=ancestor(0), merged=tuple(map(ancestor, range(1, 17))))),
    ],
    ids=[
        "empty tags",
        "without a role",
        "id too long",
        "upper-case id",
        "without an author",
        "another role",
        "a field more",
        "one base twice",
        "two bases",
        "inputs without a base",
        "one input",
        "one input twice",
        "an input twice",
        "17 inputs",
        "16 inputs",
    ],
)
def test_malformed_ancestors_state_nothing(tags: Tags, stated: Lineage) -> None:
    assert parse_lineage(tags) == stated


def test_release_with_malformed_ancestors_is_readable() -> None:
    made = release_draft(
        b"manifest",
        [bytes(32)],
        name="demo",
        version=1,
        format="RGPT0003",
        size=1,
        card={},
        hint="",
        created_at=NOW,
    )
    tags = (*made.tags, ("b",), ("b", "x"), tag(0), tag(1))
    release = Release.parse(EventDraft(kind=made.kind, created_at=NOW, tags=tags, content="{}").sign(KEY), now=NOW)
    assert (release.name, release.base, release.merged) == ("demo", None, ())


@pytest.mark.parametrize(
    "facts",
    [
        {"merged": (ancestor(1), ancestor(2))},
        {"base": ancestor(0), "merged": (ancestor(1),)},
        {"base": ancestor(0), "merged": (ancestor(1), ancestor(1))},
        {"base": ancestor(0), "merged": tuple(map(ancestor, range(1, 18)))},
    ],
    ids=["no base", "one input", "the same input twice", "17 inputs"],
)
def test_impossible_lineages_cannot_be_made(facts: dict[str, object]) -> None:
    with pytest.raises(InvalidRelease):
        Lineage(**facts)  # type: ignore[arg-type]


def test_ancestor_needs_digests() -> None:
    with pytest.raises(InvalidRelease):
        Ancestor(release_id=bytes(31), author=bytes(32))
    with pytest.raises(InvalidRelease):
        Ancestor(release_id=bytes(32), author=b"")
