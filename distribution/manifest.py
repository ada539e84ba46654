"""The manifest: which files a release has, their hashes, and the events that carry their chunks. No I/O.

One msgpack map, protocol version 1. Nothing in a decoded `Manifest` is unchecked: names match the pattern, sizes add
up, the number of chunks is the one the sizes imply.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NoReturn, TypeVar

import msgpack

from distribution.chunking import CHUNK_SIZE, count, spans
from distribution.errors import InvalidManifest

VERSION = 1
ROLES = ("checkpoint", "tokenizer", "config")  # exactly one file each
MAX_FILES = 16
MAX_SIDE_FILE = 16 << 20  # bytes of a file that is not the checkpoint; it is read whole
RESERVED = "release.json"  # the store's own file in a release's folder

_NAME = re.compile("[a-z0-9][a-z0-9._-]{0,63}")
_REFERENCE = 64  # bytes: event id, sha256

T = TypeVar("T")


def is_name(text: str) -> bool:
    """Whether this may name a model or a file: `[a-z0-9][a-z0-9._-]{0,63}`."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of a file that is cut and hashed on its own."""

    name: str
    size: int  # bytes
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Where a chunk belongs, and the event that carries it."""

    offset: int  # bytes from the start of the file
    size: int  # bytes
    event_id: bytes
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a release."""

    path: str
    role: str
    size: int  # bytes
    sha256: bytes
    segments: tuple[Segment, ...]
    references: bytes  # (event id ‖ sha256) of each chunk, in order

    @property
    def chunk_count(self) -> int:
        """How many chunks the file has."""
        return len(self.references) // _REFERENCE

    def beginning(self, chunk_size: int) -> "FileEntry":
        """The first segment as if it were the file: the manifest signs its hash too."""
        first = self.segments[0]
        references = self.references[: count(first.size, chunk_size) * _REFERENCE]
        return replace(self, size=first.size, sha256=first.sha256, segments=(first,), references=references)

    def chunks(self, chunk_size: int) -> Iterator[Chunk]:
        """The file's chunks, in order."""
        borders = spans([segment.size for segment in self.segments], chunk_size)
        for index, (offset, size) in enumerate(borders):
            reference = self.references[index * _REFERENCE : (index + 1) * _REFERENCE]
            yield Chunk(offset=offset, size=size, event_id=reference[:32], sha256=reference[32:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All files of a release."""

    files: tuple[FileEntry, ...]
    chunk_size: int = CHUNK_SIZE

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)

    def encode(self) -> bytes:
        """The manifest as msgpack, the bytes that a release's `x` tag hashes."""
        files = [
            {
                "path": entry.path,
                "role": entry.role,
                "size": entry.size,
                "sha256": entry.sha256,
                "segments": [[segment.name, segment.size, segment.sha256] for segment in entry.segments],
                "chunks": entry.references,
            }
            for entry in self.files
        ]
        return bytes(msgpack.packb({"v": VERSION, "chunk_size": self.chunk_size, "files": files}))

    @classmethod
    def decode(cls, raw_manifest: bytes) -> "Manifest":
        """The manifest in msgpack bytes; raises InvalidManifest, naming what is wrong."""
        try:
            raw = msgpack.unpackb(raw_manifest)
        except (ValueError, msgpack.UnpackException) as error:
            raise InvalidManifest(f"manifest: not msgpack: {error or type(error).__name__}") from None
        if not isinstance(raw, dict) or type(raw.get("v")) is not int or raw["v"] != VERSION:
            raise InvalidManifest(f"manifest: not a map of version {VERSION}")
        chunk_size = _integer(raw, "chunk_size", CHUNK_SIZE)
        raw_files = _get(raw, "files", list)
        if len(raw_files) > MAX_FILES:
            raise InvalidManifest(f"manifest: {len(raw_files)} files, at most {MAX_FILES} are allowed")
        files = tuple(_decode_file(raw_file, chunk_size) for raw_file in raw_files)
        if len({entry.path for entry in files}) != len(files):
            raise InvalidManifest("manifest: two files have one path")
        for role in ROLES:
            if sum(entry.role == role for entry in files) != 1:
                raise InvalidManifest(f"manifest: there is not exactly one file with role {role}")
        return cls(files=files, chunk_size=chunk_size)


def _decode_file(raw_file: object, chunk_size: int) -> FileEntry:
    if not isinstance(raw_file, dict):
        _wrong("files")
    path, role = _get(raw_file, "path", str), _get(raw_file, "role", str)
    if not is_name(path) or path == RESERVED:
        raise InvalidManifest(f"manifest: {path[:80]!r} is not allowed as a path")
    size = _integer(raw_file, "size", 2**53)
    if role != "checkpoint" and size > MAX_SIDE_FILE:
        raise InvalidManifest(f"manifest: {path} has {size} bytes, at most {MAX_SIDE_FILE} are allowed")
    entry = FileEntry(
        path=path,
        role=role,
        size=size,
        sha256=_digest(raw_file.get("sha256")),
        segments=tuple(_decode_segment(raw_segment) for raw_segment in _get(raw_file, "segments", list)),
        references=_get(raw_file, "chunks", bytes),
    )
    names = tuple(segment.name for segment in entry.segments)
    if names not in ([("weights",), ("weights", "optimizer")] if role == "checkpoint" else [("data",)]):
        raise InvalidManifest(f"manifest: {path} does not have the segments of a {role}")
    if sum(segment.size for segment in entry.segments) != size:
        raise InvalidManifest(f"manifest: the segments of {path} do not add up to its size")
    chunks = sum(count(segment.size, chunk_size) for segment in entry.segments)
    if len(entry.references) != chunks * _REFERENCE:
        raise InvalidManifest(f"manifest: {path} needs {chunks} chunks and does not name that many")
    return entry


def _decode_segment(raw_segment: object) -> Segment:
    match raw_segment:
        case [str(name), int(size), bytes(sha256)] if size > 0 and not isinstance(size, bool):
            return Segment(name=name, size=size, sha256=_digest(sha256))
        case _:
            raise InvalidManifest("manifest: segments is malformed")


def _get(raw: dict[object, object], key: str, kind: type[T]) -> T:
    value = raw.get(key)
    if not isinstance(value, kind):
        _wrong(key)
    return value


def _integer(raw: dict[object, object], key: str, maximum: int) -> int:
    value = raw.get(key)
    if type(value) is not int or not 0 < value <= maximum:
        _wrong(key)
    return value


def _digest(raw_value: object) -> bytes:
    if not isinstance(raw_value, bytes) or len(raw_value) != 32:  # noqa: PLR2004 (sha256)
        _wrong("sha256")
    return raw_value


def _wrong(key: str) -> NoReturn:
    raise InvalidManifest(f"manifest: {key} is missing or malformed")
