"""The manifest: round trip, and each rule broken once."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distribution.chunking import CHUNK_SIZE, count, spans
from distribution.errors import InvalidManifest
from distribution.manifest import MAX_BLOBS, MAX_FILES, MAX_SIDE_FILE, FileEntry, Manifest, Segment, is_name

Raw = dict[str, Any]
Break = Callable[[Raw], object]


def raw_file(path: str, role: str, *segments: tuple[str, int]) -> Raw:
    chunks = sum(count(size) for _, size in segments)
    return {
        "path": path,
        "role": role,
        "size": sum(size for _, size in segments),
        "sha256": bytes(range(32)),
        "segments": [[name, size, bytes(range(32, 64))] for name, size in segments],
        "chunks": bytes(number % 251 for number in range(chunks * 64)),
    }


def raw_manifest() -> Raw:
    """Return a valid manifest: two chunks of weights, one of optimizer state, one of each other file."""
    return {
        "v": 1,
        "chunk_size": CHUNK_SIZE,
        "files": [
            raw_file("checkpoint_best.bin", "checkpoint", ("weights", 50_000), ("optimizer", 10)),
            raw_file("vocab.json", "tokenizer", ("data", 100)),
            raw_file("config.json", "config", ("data", 200)),
        ],
    }


def decode(raw: object) -> Manifest:
    return Manifest.decode(msgpack.packb(raw))


def more_files(raw: Raw, count_in_all: int) -> None:
    added = count_in_all - len(raw["files"])
    raw["files"] += [raw_file(f"extra{number}.txt", "other", ("data", 1)) for number in range(added)]


# --- valid


def test_decoded_manifest_has_the_files() -> None:
    manifest = decode(raw_manifest())
    checkpoint, tokenizer, config = manifest.files
    assert manifest.size == 50_010 + 100 + 200
    assert (checkpoint.path, checkpoint.role, checkpoint.size) == ("checkpoint_best.bin", "checkpoint", 50_010)
    assert [(segment.name, segment.size) for segment in checkpoint.segments] == [("weights", 50_000), ("optimizer", 10)]
    assert [entry.chunk_count for entry in manifest.files] == [3, 1, 1]
    assert (tokenizer.role, config.role) == ("tokenizer", "config")
    assert checkpoint.sha256 == bytes(range(32))


def test_chunks_follow_the_segments() -> None:
    checkpoint = decode(raw_manifest()).files[0]
    chunks = list(checkpoint.chunks(CHUNK_SIZE))
    assert [(chunk.offset, chunk.size) for chunk in chunks] == [(0, 46_080), (46_080, 3_920), (50_000, 10)]
    assert b"".join(chunk.event_id + chunk.sha256 for chunk in chunks) == checkpoint.references
    assert chunks[1].event_id == checkpoint.references[64:96]


def test_encoded_bytes_follow_the_protocol() -> None:
    raw = raw_manifest()
    assert msgpack.unpackb(decode(raw).encode()) == raw
    assert decode(raw).encode() == msgpack.packb(raw)


@pytest.mark.parametrize(
    ("change", "author"), [({}, None), ({"chunk_author": None}, None), ({"chunk_author": b"k" * 32}, b"k" * 32)]
)
def test_chunk_author_may_be_missing(change: Raw, author: bytes | None) -> None:
    manifest = decode(raw_manifest() | change)
    assert manifest.chunk_author == author
    assert ("chunk_author" in msgpack.unpackb(manifest.encode())) == bool(author)


def test_unknown_keys_and_roles_are_accepted() -> None:
    raw = raw_manifest() | {"comment": "hello"}
    raw["files"][0]["mtime"] = 5
    more_files(raw, 5)
    assert len(decode(raw).files) == 5
    assert decode(raw).encode() != msgpack.packb(raw)


def test_checkpoint_may_have_weights_only() -> None:
    raw = raw_manifest()
    raw["files"][0] = raw_file("checkpoint.bin", "checkpoint", ("weights", 1))
    assert decode(raw).files[0].chunk_count == 1


def test_manifest_at_its_limits_is_accepted() -> None:
    raw = raw_manifest()
    more_files(raw, MAX_FILES)
    raw["files"][1] = raw_file("vocab.json", "tokenizer", ("data", MAX_SIDE_FILE))
    raw["files"][0] = raw_file("big.bin", "checkpoint", ("weights", MAX_SIDE_FILE + 1))
    assert decode(raw).size == 2 * MAX_SIDE_FILE + 1 + 200 + 13


digests = st.binary(min_size=32, max_size=32)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True).filter(lambda text: text != "release.json")


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    chunk_size = draw(st.sampled_from([1, 7, CHUNK_SIZE]))
    roles = ["checkpoint", "tokenizer", "config", *draw(st.lists(st.sampled_from(["other", "licence"]), max_size=2))]
    paths = draw(st.lists(names, min_size=len(roles), max_size=len(roles), unique=True))
    files = []
    for path, role in zip(paths, roles, strict=True):
        wanted = ["data"] if role != "checkpoint" else draw(st.sampled_from([["weights"], ["weights", "optimizer"]]))
        segments = tuple(
            Segment(name=name, size=draw(st.integers(1, 3 * min(chunk_size, 50))), sha256=draw(digests))
            for name in wanted
        )
        chunks = len(list(spans([segment.size for segment in segments], chunk_size)))
        references = draw(st.binary(min_size=32, max_size=32)) * 2 * chunks
        files.append(
            FileEntry(
                path=path,
                role=role,
                size=sum(segment.size for segment in segments),
                sha256=draw(digests),
                segments=segments,
                references=references,
            )
        )
    chunk_author = draw(st.none() | digests)
    return Manifest(files=tuple(draw(st.permutations(files))), chunk_size=chunk_size, chunk_author=chunk_author)


@given(manifests())
@settings(max_examples=60)
def test_any_manifest_round_trips(manifest: Manifest) -> None:
    assert Manifest.decode(manifest.encode()) == manifest


# --- invalid


def path(text: object) -> Break:
    return lambda raw: raw["files"][1].update(path=text)


def field(name: str, value: object, file: int = 0) -> Break:
    return lambda raw: raw["files"][file].update({name: value})


def segment(position: int, value: object, index: int = 0) -> Break:
    return lambda raw: raw["files"][0]["segments"][index].__setitem__(position, value)


def resized(first: int, second: int, chunks: int) -> Break:
    """Return a change to segments of other sizes, valid in every other way."""

    def change(raw: Raw) -> None:
        file = raw["files"][0]
        file["segments"][0][1], file["segments"][1][1] = first, second
        file.update(size=first + second, chunks=bytes(64 * chunks))

    return change


def without(key: str) -> Break:
    return lambda raw: raw["files"][0].pop(key)


def sizes(file: int, size: int) -> Break:
    """Return a change to a file of another size, valid in every other way."""

    def change(raw: Raw) -> None:
        old = raw["files"][file]
        raw["files"][file] = raw_file(old["path"], old["role"], ("data", size))

    return change


BROKEN: dict[str, tuple[Break, str]] = {
    "v 2": (lambda raw: raw.update(v=2), "version 1"),
    "v as text": (lambda raw: raw.update(v="1"), "version 1"),
    "v as bool": (lambda raw: raw.update(v=True), "version 1"),
    "v as float": (lambda raw: raw.update(v=1.0), "version 1"),
    "no v": (lambda raw: raw.pop("v"), "version 1"),
    "chunk_size 0": (lambda raw: raw.update(chunk_size=0), "chunk_size"),
    "chunk_size below 0": (lambda raw: raw.update(chunk_size=-1), "chunk_size"),
    "chunk_size over the limit": (lambda raw: raw.update(chunk_size=46_081), "chunk_size"),
    "chunk_size as bool": (lambda raw: raw.update(chunk_size=True), "chunk_size"),
    "chunk_size as float": (lambda raw: raw.update(chunk_size=46_080.0), "chunk_size"),
    "another chunk_size": (lambda raw: raw.update(chunk_size=46_079 // 2), "chunks"),
    "no chunk_size": (lambda raw: raw.pop("chunk_size"), "chunk_size"),
    "chunk_author of 31 bytes": (lambda raw: raw.update(chunk_author=bytes(31)), "chunk_author"),
    "chunk_author of 33 bytes": (lambda raw: raw.update(chunk_author=bytes(33)), "chunk_author"),
    "chunk_author as hex": (lambda raw: raw.update(chunk_author="ab" * 32), "chunk_author"),
    "chunk_author as text": (lambda raw: raw.update(chunk_author="a" * 32), "chunk_author"),
    "chunk_author as a list": (lambda raw: raw.update(chunk_author=[bytes(32)]), "chunk_author"),
    "empty chunk_author": (lambda raw: raw.update(chunk_author=b""), "chunk_author"),
    "no files": (lambda raw: raw.pop("files"), "files"),
    "files as a map": (lambda raw: raw.update(files={"0": raw["files"][0]}), "files"),
    "a file as a list": (lambda raw: raw["files"].append([]), "files"),
    "a file as nothing": (lambda raw: raw["files"].append(None), "files"),
    "17 files": (lambda raw: more_files(raw, 17), "17 files"),
    "one path twice": (path("config.json"), "two files"),
    "no tokenizer": (lambda raw: raw["files"].pop(1), "role tokenizer"),
    "no config": (lambda raw: raw["files"].pop(2), "role config"),
    "no checkpoint": (lambda raw: raw["files"].pop(0), "role checkpoint"),
    "no file at all": (lambda raw: raw["files"].clear(), "role checkpoint"),
    "two checkpoints": (
        lambda raw: raw["files"].append(raw_file("other.bin", "checkpoint", ("weights", 5))),
        "role checkpoint",
    ),
    "two tokenizers": (field("role", "tokenizer", 2), "role tokenizer"),
    "role as number": (field("role", 1, 1), "role"),
    "path with a slash": (path("a/b"), "path"),
    "absolute path": (path("/etc/passwd"), "path"),
    "path upwards": (path(".."), "path"),
    "path upwards and down": (path("../x"), "path"),
    "path with a backslash": (path("a\\b"), "path"),
    "path in upper case": (path("Vocab.json"), "path"),
    "path with NUL": (path("vocab\0.json"), "path"),
    "path with newline": (path("vocab.json\n"), "path"),
    "path with space": (path("vo cab"), "path"),
    "path not ASCII": (path("vocäb"), "path"),
    "path the store's own": (path("release.json"), "path"),
    "path of 65 characters": (path("a" * 65), "path"),
    "path with leading dot": (path(".vocab"), "path"),
    "path with leading dash": (path("-rf"), "path"),
    "empty path": (path(""), "path"),
    "path as bytes": (path(b"vocab.json"), "path"),
    "no path": (without("path"), "path"),
    "no role": (without("role"), "role"),
    "no size": (without("size"), "size"),
    "no sha256": (without("sha256"), "sha256"),
    "no segments": (without("segments"), "segments"),
    "no chunks": (without("chunks"), "chunks"),
    "size too small": (field("size", 50_009), "add up"),
    "size too large": (field("size", 50_011), "add up"),
    "size 0": (field("size", 0), "size"),
    "size below 0": (field("size", -50_010), "size"),
    "size as bool": (field("size", True), "size"),
    "size as float": (field("size", 50_010.0), "size"),
    "size as text": (field("size", "50010"), "size"),
    "size beyond all disks": (field("size", 2**53 + 1), "size"),
    "side file over the limit": (sizes(1, MAX_SIDE_FILE + 1), "at most"),
    "sha256 of 31 bytes": (field("sha256", bytes(31)), "sha256"),
    "sha256 of 33 bytes": (field("sha256", bytes(33)), "sha256"),
    "sha256 as hex": (field("sha256", "00" * 32), "sha256"),
    "sha256 as text": (field("sha256", "0" * 32), "sha256"),
    "a chunk too few": (lambda raw: field("chunks", raw["files"][0]["chunks"][:-64])(raw), "chunks"),
    "a chunk too many": (lambda raw: field("chunks", raw["files"][0]["chunks"] + bytes(64))(raw), "chunks"),
    "half a chunk": (lambda raw: field("chunks", raw["files"][0]["chunks"] + bytes(32))(raw), "chunks"),
    "no bytes of chunks": (field("chunks", b""), "chunks"),
    "chunks as a list": (field("chunks", [bytes(64)] * 3), "chunks"),
    "chunks as text": (field("chunks", "x" * 192), "chunks"),
    "no segment": (field("segments", []), "segments"),
    "segments as a map": (field("segments", {"weights": 50_010}), "segments"),
    "segment renamed": (segment(0, "data"), "segments"),
    "segments in the wrong order": (lambda raw: raw["files"][0]["segments"].reverse(), "segments"),
    "weights in a side file": (lambda raw: raw["files"][1]["segments"][0].__setitem__(0, "weights"), "segments"),
    "optimizer only": (lambda raw: raw["files"][0]["segments"].pop(0), "segments"),
    "a third segment": (lambda raw: raw["files"][0]["segments"].append(["data", 1, bytes(32)]), "segments"),
    "segment name as bytes": (segment(0, b"weights"), "segments"),
    "segment of 0 bytes": (resized(50_000, 0, 2), "segments is malformed"),
    "segment below 0": (resized(50_000, -10, 2), "segments is malformed"),
    "segment size as bool": (resized(50_000, True, 3), "segments is malformed"),
    "segment size as float": (segment(1, 10.0, 1), "segments is malformed"),
    "segment digest too short": (segment(2, bytes(31)), "sha256"),
    "segment digest as text": (segment(2, "x" * 32), "segments"),
    "segment of four": (lambda raw: raw["files"][0]["segments"][0].append(1), "segments"),
    "segment of two": (lambda raw: raw["files"][0]["segments"][0].pop(), "segments"),
    "segment as text": (lambda raw: raw["files"][0]["segments"].__setitem__(0, "weights"), "segments"),
    "segment as nothing": (lambda raw: raw["files"][0]["segments"].__setitem__(0, None), "segments"),
}


@pytest.mark.parametrize(("change", "wrong"), BROKEN.values(), ids=BROKEN)
def test_broken_rule_is_refused(change: Break, wrong: str) -> None:
    raw = raw_manifest()
    decode(raw)
    change(raw)
    with pytest.raises(InvalidManifest, match=wrong):
        decode(raw)


def test_moved_segment_border_changes_chunk_count() -> None:
    raw = raw_manifest()
    segments = raw["files"][0]["segments"]
    segments[0][1], segments[1][1] = 3_920, 46_090
    assert decode(raw).files[0].chunk_count == 3
    segments[0][1], segments[1][1] = 46_000, 4_010
    with pytest.raises(InvalidManifest, match="needs 2 chunks"):
        decode(raw)


NO_MANIFESTS = {
    "nothing": b"",
    "text": b"hello",
    "cut short": msgpack.packb(raw_manifest())[:-1],
    "trailing byte": msgpack.packb(raw_manifest()) + b"\0",
    "a list": msgpack.packb([raw_manifest()]),
    "nil": b"\xc0",
    "a map with a number for a key": msgpack.packb({1: 2}),
    "a map with a list for a key": b"\x81\x90\x01",
    "nested deeply": b"\x91" * 100_000,
    "maps nested deeply": b"\x81\xa1a" * 100_000,
    "a list said to be huge": b"\xdd\xff\xff\xff\xff",
    "a map said to be huge": b"\xdf\xff\xff\xff\xff",
    "bytes said to be many": b"\xc6\xff\xff\xff\xff",
    "text said to be long": b"\xdb\xff\xff\xff\xff",
    "text that is not UTF-8": b"\x81\xa1v\xa1\xff",
    "a time out of range": b"\xd7\xff" + b"\xff" * 8,
    "a time of the wrong size": b"\xc7\x05\xff" + b"\xff" * 5,
    "an unknown extension": b"\xd4\x05\x00",
    "a byte that means nothing": b"\xc1",
}


@pytest.mark.parametrize("raw", NO_MANIFESTS.values(), ids=NO_MANIFESTS)
def test_malformed_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidManifest, match="manifest"):
        Manifest.decode(raw)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidManifest):
        Manifest.decode(raw)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=64)
    | digests,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
places = st.sampled_from(
    [
        *((key,) for key in ("v", "chunk_size", "files")),
        *(("files", 0, key) for key in ("path", "role", "size", "sha256", "segments", "chunks")),
        *(("files", 0, "segments", index) for index in (0, 1)),
        *(("files", 0, "segments", 0, index) for index in (0, 1, 2)),
        ("files", 1),
    ]
)


@given(places, values)
def test_any_value_decodes_or_is_refused(place: tuple[Any, ...], value: object) -> None:
    raw = raw_manifest()
    inner: Any = raw
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    try:
        manifest = decode(raw)
    except InvalidManifest:
        return
    assert Manifest.decode(manifest.encode()) == manifest
    assert all(is_name(entry.path) for entry in manifest.files)


@pytest.mark.parametrize("text", ["a", "0", "a" * 64, "a.b-c_d", "checkpoint_best.bin", "a..b", "con"])
def test_valid_names(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize(
    "text", ["", "a" * 65, "A", ".a", "-a", "_a", "a/b", "a b", "a\n", "\na", "é", "a\0", "\u0661"]
)
def test_invalid_names(text: str) -> None:
    assert not is_name(text)


def _nested(depth: int) -> object:
    return [_nested(depth - 1)] * 64 if depth else {}


@pytest.mark.parametrize(
    "raw",
    [
        b"\x81\xa5files\xdd\x00\x2a\x00\x00" + b"\x80" * 0x2A0000,
        msgpack.packb({"x": _nested(3)}),
        msgpack.packb({"files": [{"path": _nested(3)}]}),
    ],
    ids=["array of maps", "unknown key", "known key"],
)
def test_many_objects_take_little_memory(raw: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(InvalidManifest):
        Manifest.decode(raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


# --- blobs

PIECES = bytes(range(96))


def cut_manifest() -> Raw:
    """Return a manifest whose checkpoint is cut into blobs of one chunk: two of weights, one of optimizer state."""
    raw = raw_manifest()
    raw["files"][0]["blobs"] = PIECES
    return raw | {"blob_size": CHUNK_SIZE}


def test_blobs_are_cut_at_segments_and_survive_encoding() -> None:
    manifest = decode(cut_manifest())
    checkpoint, vocab, _ = manifest.files
    spots = [(blob.offset, blob.size, blob.sha256) for blob in manifest.blobs(checkpoint)]
    cuts = [(0, CHUNK_SIZE), (CHUNK_SIZE, 50_000 - CHUNK_SIZE), (50_000, 10)]
    assert spots == [(*cut, PIECES[32 * at : 32 * at + 32]) for at, cut in enumerate(cuts)]
    assert [(blob.offset, blob.size, blob.sha256) for blob in manifest.blobs(vocab)] == [(0, 100, vocab.sha256)]
    assert Manifest.decode(manifest.encode()) == manifest


def test_manifest_without_blobs_has_no_new_keys() -> None:
    assert msgpack.unpackb(decode(raw_manifest()).encode()) == raw_manifest()


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.pop("blob_size"),
        lambda raw: raw.update(blob_size=0),
        lambda raw: raw.update(blob_size=CHUNK_SIZE + 1),
        lambda raw: raw.update(blob_size=2**30 // CHUNK_SIZE * CHUNK_SIZE + CHUNK_SIZE),
        lambda raw: raw.update(blob_size=2 * CHUNK_SIZE),
        lambda raw: raw["files"][0].update(blobs=PIECES[:-1]),
        lambda raw: raw["files"][0].update(blobs=PIECES + bytes(32)),
        lambda raw: raw["files"][0].update(blobs=b""),
        lambda raw: raw["files"][0].update(blobs="x"),
        lambda raw: raw["files"][1].update(blobs=bytes(64)),
    ],
    ids=["no size", "zero", "no multiple", "large", "other count", "short", "long", "empty", "text", "side file"],
)
def test_malformed_blobs_are_refused(change: Break) -> None:
    raw = cut_manifest()
    change(raw)
    with pytest.raises(InvalidManifest, match="blob"):
        decode(raw)


def test_file_of_too_many_blobs_is_refused() -> None:
    raw = raw_manifest()
    raw["files"][0] = raw_file("a.bin", "checkpoint", ("weights", MAX_BLOBS + 1)) | {
        "chunks": bytes(64 * (MAX_BLOBS + 1)),
        "blobs": bytes(32 * (MAX_BLOBS + 1)),
    }
    with pytest.raises(InvalidManifest, match=f"at most {MAX_BLOBS}"):
        decode(raw | {"chunk_size": 1, "blob_size": 1, "files": [raw["files"][0], *map(one_byte, raw["files"][1:])]})


def one_byte(file: Raw) -> Raw:
    return raw_file(file["path"], file["role"], ("data", 1))
