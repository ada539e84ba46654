"""The reader written from docs/protocol.md and the code accept the same input; a difference is a gap in the page."""

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import orjson
import pytest
from support.independent_reader import events
from support.independent_reader.ancestors import ancestors
from support.independent_reader.manifest import check_manifest
from support.independent_reader.refused import Refused
from support.protocol_example import CREATED_AT, Example, resigned

from distribution.ancestors import parse_lineage
from distribution.assembler import Assembler
from distribution.errors import InvalidChunk, InvalidManifest, InvalidRelease
from distribution.events import Head, Release
from distribution.manifest import Manifest
from relay_client.errors import InvalidEvent
from relay_client.event import Event

EXAMPLE = Example()
EVENTS = {name: orjson.loads(event.to_json()) for name, event in EXAMPLE.events().items()}
MANIFEST = EXAMPLE.manifest

ODD_VALUES: list[object] = [
    *(None, True, 1.0, 2**63, [], {}),
    *(0, 1, -1, 2, 79, 80, 81, 104, 264, 46_080, 46_081, 2**24, 2**24 + 1, 2**53, 2**53 + 1),
    *("", "a", "weights", "optimizer", "data", "config", "release.json", "A", "a\n", "a" * 64, "a" * 65, "../a"),
    *(b"", bytes(31), bytes(32), bytes(64)),
]
ODD_TEXTS = [
    *("", "0", "1", "2", "01", "+1", "1 ", "1\n", "1.0", "\u0661", "2147483647", "2147483648"),
    *("9007199254740992", "9007199254740993", "9" * 16, "9" * 17),
    *("tiny", "Tiny", "a" * 64, "a" * 65, ".a", "a.", "a/b", "RGPT0003", "R" * 32, "R" * 33, "\u00e9"),
    *("ab" * 32, "AB" * 32, "ab" * 33),
]
ODD_CARDS = [
    *('{"a":' + "[" * deep + "]" * deep + "}" for deep in (62, 63, 64, 300, 800)),
    *("", "{}", " {} ", "[]", "null", "{", "{}x", "\ufeff{}", "[" * 5_000),
    *('{"a":NaN}', '{"a":1e999}', '{"a":"\\ud800"}', '{"a":"\\ud83e\\uddea"}', '{"a":01}', "{'a':1}"),
]
SHAPES: list[Callable[[list[str]], list[list[str]]]] = [
    lambda tag: [tag[:1]],
    lambda _: [],
    lambda tag: [tag, tag],
    lambda tag: [tag, tag[:1], []],
    lambda tag: [tag] * 64,
    lambda tag: [tag] * 65,
]


def places_in(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in nested maps and arrays."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*path, key)
            yield from places_in(value[key], (*path, key))


def altered(path: tuple[Any, ...], *values: object) -> bytes:
    """Return the manifest with the value at a path replaced, or removed."""
    raw = msgpack.unpackb(MANIFEST)
    inner = functools.reduce(operator.getitem, path[:-1], raw)
    if values:
        inner[path[-1]] = values[0]
    else:
        del inner[path[-1]]
    return bytes(msgpack.packb(raw))


def with_files(count: int) -> bytes:
    """Return a manifest of `count` files; from the fourth on, copies of the second with another role."""
    raw = msgpack.unpackb(MANIFEST)
    raw["files"] += [raw["files"][1] | {"path": f"{number}.txt", "role": "notes"} for number in range(3, count)]
    return bytes(msgpack.packb(raw | {"files": raw["files"][:count]}))


def with_side_file(size: int) -> bytes:
    """Return a manifest with chunks of 46,080 bytes whose vocabulary has `size` bytes."""
    raw = msgpack.unpackb(MANIFEST)
    for at, file in enumerate(raw["files"]):
        if file["role"] == "tokenizer":
            file["size"] = file["segments"][0][1] = size
        count = sum(-(-segment[1] // 46_080) for segment in file["segments"])
        file["chunks"] = b"".join(bytes([at + 1]) + number.to_bytes(31, "big") + bytes(32) for number in range(count))
    return bytes(msgpack.packb(raw | {"chunk_size": 46_080}))


def with_blobs(**changes: object) -> bytes:
    """Return the manifest with blobs; keys of the map or of its first file are changed, or removed by an ellipsis."""
    raw = msgpack.unpackb(EXAMPLE.blob_manifest)
    for name, value in changes.items():
        owner = raw if name == "blob_size" else raw["files"][0]
        owner[name] = value
        if value is ...:
            del owner[name]
    return bytes(msgpack.packb(raw))


def with_chunk_author(value: object) -> bytes:
    """Return the manifest with a key for `chunk_author`."""
    return bytes(msgpack.packb(msgpack.unpackb(MANIFEST) | {"chunk_author": value}))


PLACES = list(places_in(msgpack.unpackb(MANIFEST)))
MANIFESTS = {
    "value": [altered(path, value) for path in PLACES for value in ODD_VALUES],
    "missing": [altered(path) for path in PLACES],
    "bit": [
        MANIFEST[:at] + bytes([MANIFEST[at] ^ 1 << bit]) + MANIFEST[at + 1 :]
        for at in range(len(MANIFEST))
        for bit in range(8)
    ],
    "files": [with_files(count) for count in (0, 2, 3, 16, 17)],
    "side file": [with_side_file(size) for size in (1, 2**24, 2**24 + 1)],
    "blobs": [
        with_blobs(),
        *(with_blobs(**{name: value}) for name in ("blob_size", "blobs") for value in (*ODD_VALUES, ...)),
        *(with_blobs(blob_size=size) for size in (160, 240, 2**30, 2**30 + 80)),
        *(with_blobs(blob_size=80, blobs=bytes(32 * count)) for count in (3, 4, 5)),
        with_blobs(blob_size=..., blobs=...),
    ],
    "chunk author": [with_chunk_author(value) for value in ODD_VALUES],
    "length": [MANIFEST, MANIFEST + b"\xc0", MANIFEST[:-1], b"", msgpack.packb([]), b"\x91" * 10_000],
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_reader_and_code_accept_the_same_manifests(kind: str) -> None:
    taken = [raw for raw in MANIFESTS[kind] if agree(decode, check_manifest, raw)]
    assert len(taken) < len(MANIFESTS[kind])
    assert bool(taken) == (kind != "missing")


@pytest.mark.parametrize("name", ["release", "head"])
def test_reader_and_code_accept_the_same_events(name: str) -> None:
    event, tags = EVENTS[name], EVENTS[name]["tags"]
    changes: list[dict[str, Any]] = [
        *({"created_at": CREATED_AT + later_s} for later_s in (900, 901)),
        *({"content": card} for card in ODD_CARDS),
    ]
    for at, tag in enumerate(tags):
        shapes = [*(shape(tag) for shape in SHAPES), *([[tag[0], text, *tag[2:]]] for text in ODD_TEXTS)]
        changes += [{"tags": [*tags[:at], *shape, *tags[at + 1 :]]} for shape in shapes]
    parse, check = (
        (Release.parse, events.check_release_tags) if name == "release" else (Head.parse, events.check_head_tags)
    )
    taken = [
        change
        for change in changes
        if agree(
            lambda made: parse(Event.parse(made), now=CREATED_AT),
            lambda made: check(made, CREATED_AT),
            resigned(event, **change),
        )
    ]
    assert 0 < len(taken) < len(changes)


def test_reader_and_code_see_the_same_ancestors() -> None:
    event = EVENTS["release-of-a-merge"]
    named = [tag for tag in event["tags"] if tag[0] == "b"]
    others = [[*tag[:1], text, *tag[2:]] for tag in named for text in ("ab" * 32, "AB" * 32, "ab")]
    others += [[*tag[:3], "ab", tag[4]] for tag in named]
    others += [[*tag[:4], role] for tag in named for role in ("base", "merged", "other")]
    changes = [
        named,
        named[1:],
        named[:2],
        named[:1],
        [tag[:4] for tag in named],
        [[*tag, "more"] for tag in named],
        [],
    ]
    changes += [[*named[:at], other, *named[at:]] for at in range(4) for other in others]
    changes += [
        [named[0], *([*named[1][:1], f"{count:064x}", *named[1][2:]] for count in range(size))] for size in (16, 17)
    ]
    seen = set()
    for tags in changes:
        made = event | {"tags": tags}
        lineage = parse_lineage(tuple(map(tuple, tags)))
        ours = (lineage.base and lineage.base.release_id.hex(), [each.release_id.hex() for each in lineage.merged])
        assert ours == ancestors(made), tags
        seen.add((ours[0] is None, len(ours[1])))
    assert seen >= {(True, 0), (False, 0), (False, 2), (False, 3), (False, 16)}


@pytest.mark.parametrize("field", EVENTS["release"])
def test_reader_and_code_accept_the_same_fields(field: str) -> None:
    odd = [*ODD_VALUES, "ab" * 32, "AB" * 32, "ab" * 64, [[]], [["a", 1]], [[1]], "\ud800", 65_535, 65_536]
    for value in odd:
        event = EVENTS["release"] | {field: value}
        assert not agree(Event.parse, lambda event: events.checked(event, event["kind"]), event)


def decode(raw_manifest: bytes) -> None:
    manifest = Manifest.decode(raw_manifest)
    Assembler(manifest.files, manifest.chunk_size)


def agree(ours: Callable[[Any], object], theirs: Callable[[Any], object], value: object) -> bool:
    """Return whether both accept a value; fail if only one does."""
    refusals = []
    for take in (ours, theirs):
        try:
            take(value)
        except (InvalidEvent, InvalidRelease, InvalidManifest, InvalidChunk, Refused) as error:
            refusals.append(error)
    assert len(refusals) in {0, 2}, (refusals, value)
    return not refusals
