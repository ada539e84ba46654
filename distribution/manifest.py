"""Manifest of a release: its files, their hashes, and the events and blobs that carry their bytes. No I/O.

Encoded as one msgpack map (docs/protocol.md, protocol version 1). Every rule is checked when an object is made, so a
`Manifest` or `FileEntry` that breaks the protocol cannot exist, whether it was decoded or built here.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from distribution.chunking import CHUNK_SIZE, count, spans
from distribution.errors import InvalidManifest

VERSION = 1
ROLES = ("checkpoint", "tokenizer", "config")  # exactly one file each
MAX_FILES = 16
MAX_FILE_SIZE = 2**53  # bytes; callers set the limits that matter
MAX_BLOB_SIZE = 2**30  # bytes of a piece of a file
MAX_BLOBS = 4_096  # pieces of a file
MAX_SIDE_FILE = 16 << 20  # bytes of a file that is not the checkpoint; it is read whole
RESERVED = "release.json"  # the store's own file in a release's folder

_NAME = re.compile("[a-z0-9][a-z0-9._-]{0,63}")
_DIGEST = 32  # bytes: event id, SHA-256
_REFERENCE = 2 * _DIGEST  # bytes: event id ‖ SHA-256
_MAX_ITEMS = 64  # entries of one map or array in msgpack
_MAX_CONTAINERS = 1024  # maps and arrays in msgpack, which take far more memory than bytes
_QUOTED = 80  # characters of an untrusted text that an error repeats


def is_name(raw_text: object) -> bool:
    """Return whether this can name a model or a file: `[a-z0-9][a-z0-9._-]{0,63}`."""
    return isinstance(raw_text, str) and _NAME.fullmatch(raw_text) is not None


def is_digest(raw_value: object) -> bool:
    """Return whether this is an event id, a public key or a SHA-256: 32 bytes."""
    return isinstance(raw_value, bytes) and len(raw_value) == _DIGEST


def is_count(raw_value: object, maximum: int) -> bool:
    """Return whether this is a whole number from 1 to `maximum`, and not a bool."""
    return type(raw_value) is int and 0 < raw_value <= maximum


def find_file_fault(path: object, role: object, segments: Sequence[tuple[object, object]]) -> str | None:
    """Return the protocol violation of a file, or None.

    Args:
        path: Name of the file in the release.
        role: One of `ROLES`, or any other text.
        segments: (name, size in bytes) of each segment, in order.
    """
    if not is_name(path) or path == RESERVED:
        return f"{_quote(path)} is not allowed as a path"
    if not isinstance(role, str):
        return "role is missing or malformed"
    names = [name for name, _ in segments]
    if names not in ([["weights"], ["weights", "optimizer"]] if role == "checkpoint" else [["data"]]):
        return f"{path} does not have the segments of a {_quote(role)}"
    if not all(is_count(size, MAX_FILE_SIZE) for _, size in segments):
        return f"a size in segments of {path} is missing or malformed"
    size = sum(size for _, size in segments if isinstance(size, int))
    if role != "checkpoint" and size > MAX_SIDE_FILE:
        return f"{path} has {size} bytes, at most {MAX_SIDE_FILE} are allowed"
    return None


def find_set_fault(files: Sequence[tuple[str, str]]) -> str | None:
    """Return the protocol violation of a set of files, given as (path, role), or None."""
    if len(files) > MAX_FILES:
        return f"{len(files)} files, at most {MAX_FILES} are allowed"
    if len({path for path, _ in files}) != len(files):
        return "two files have one path"
    roles = Counter(role for _, role in files)
    return next((f"a release needs exactly one file with role {role}" for role in ROLES if roles[role] != 1), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of a file that is cut into chunks and hashed on its own.

    Raises:
        InvalidManifest: The values break the protocol.
    """

    name: str
    size: int  # bytes
    sha256: bytes

    def __post_init__(self) -> None:
        _check(type(self.name) is str and is_count(self.size, MAX_FILE_SIZE), "segments is malformed")
        _check(is_digest(self.sha256), "sha256 in segments is missing or malformed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Position of a chunk in its file, and the event that carries it.

    Raises:
        InvalidManifest: The values break the protocol.
    """

    offset: int  # bytes from the start of the file
    size: int  # bytes
    event_id: bytes
    sha256: bytes

    def __post_init__(self) -> None:
        _check(type(self.offset) is int and self.offset >= 0, "a chunk has no offset")
        _check(is_count(self.size, CHUNK_SIZE), f"a chunk has 1 to {CHUNK_SIZE} bytes")
        _check(is_digest(self.event_id) and is_digest(self.sha256), "a chunk has no event id or no sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A file or a piece of it, as Blossom servers have it.

    Raises:
        InvalidManifest: The values break the protocol.
    """

    offset: int  # bytes from the start of the file
    size: int  # bytes
    sha256: bytes

    def __post_init__(self) -> None:
        _check(type(self.offset) is int and self.offset >= 0, "a blob has no offset")
        _check(is_count(self.size, MAX_FILE_SIZE) and is_digest(self.sha256), "a blob has no size or no sha256")

    @property
    def end(self) -> int:
        """End in the file, not included."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a release.

    Raises:
        InvalidManifest: The values break the protocol.
    """

    path: str
    role: str
    size: int  # bytes
    sha256: bytes
    segments: tuple[Segment, ...]
    references: bytes  # (event id ‖ SHA-256) of each chunk, in order
    pieces: bytes | None = None  # SHA-256 of each piece on Blossom servers, in order; None: the file is one blob

    def __post_init__(self) -> None:
        _check(is_count(self.size, MAX_FILE_SIZE), "size is missing or malformed")
        _check(is_digest(self.sha256), "sha256 is missing or malformed")
        _check(
            type(self.references) is bytes and len(self.references) > 0 and len(self.references) % _REFERENCE == 0,
            f"chunks is missing, or not a multiple of {_REFERENCE} bytes",
        )
        _check(self.pieces is None or type(self.pieces) is bytes, "blobs is malformed")
        if fault := find_file_fault(self.path, self.role, [(segment.name, segment.size) for segment in self.segments]):
            raise InvalidManifest(f"manifest: {fault}")
        total = sum(segment.size for segment in self.segments)
        _check(total == self.size, f"the segments of {self.path} do not add up to its size")

    @property
    def chunk_count(self) -> int:
        """Number of chunks."""
        return len(self.references) // _REFERENCE

    def first_segment(self, chunk_size: int) -> "FileEntry":
        """Return the first segment as a file of its own: the manifest signs its hash too."""
        first = self.segments[0]
        references = self.references[: count(first.size, chunk_size) * _REFERENCE]
        return replace(
            self, size=first.size, sha256=first.sha256, segments=(first,), references=references, pieces=None
        )

    def chunks(self, chunk_size: int) -> Iterator[Chunk]:
        """Yield the chunks of the file, in order."""
        borders = spans([segment.size for segment in self.segments], chunk_size)
        for index, (offset, size) in enumerate(borders):
            reference = self.references[index * _REFERENCE : (index + 1) * _REFERENCE]
            yield Chunk(offset=offset, size=size, event_id=reference[:_DIGEST], sha256=reference[_DIGEST:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All files of a release.

    Raises:
        InvalidManifest: The values break the protocol.
    """

    files: tuple[FileEntry, ...]
    chunk_size: int = CHUNK_SIZE  # bytes
    blob_size: int | None = None  # bytes of a piece on Blossom servers; None: no file is cut
    chunk_author: bytes | None = None  # x-only public key that signs the chunk events; None: the release's author

    def __post_init__(self) -> None:
        _check(self.chunk_author is None or is_digest(self.chunk_author), "chunk_author is not 32 bytes")
        _check(is_count(self.chunk_size, CHUNK_SIZE), "chunk_size is missing or malformed")
        if self.blob_size is not None:
            whole = is_count(self.blob_size, MAX_BLOB_SIZE) and self.blob_size % self.chunk_size == 0
            _check(whole, f"blob_size is not a multiple of chunk_size up to {MAX_BLOB_SIZE}")
        if fault := find_set_fault([(entry.path, entry.role) for entry in self.files]):
            raise InvalidManifest(f"manifest: {fault}")
        for entry in self.files:
            chunks = sum(count(segment.size, self.chunk_size) for segment in entry.segments)
            _check(
                len(entry.references) == chunks * _REFERENCE,
                f"{entry.path} needs {chunks} chunks and does not name that many",
            )
            if entry.pieces is not None:
                _check(self.blob_size is not None, f"{entry.path} has blobs, and blob_size is missing")
                pieces = sum(count(segment.size, self.blob_size or 1) for segment in entry.segments)
                _check(
                    pieces <= MAX_BLOBS and len(entry.pieces) == pieces * _DIGEST,
                    f"{entry.path} needs {pieces} blobs (at most {MAX_BLOBS}), and does not name that many",
                )

    @property
    def size(self) -> int:
        """Size of all files together, in bytes."""
        return sum(entry.size for entry in self.files)

    def blobs(self, entry: FileEntry) -> Iterator[Blob]:
        """Yield the blobs that carry a file of this manifest, in order. No chunk crosses the border of two."""
        if entry.pieces is None or self.blob_size is None:
            yield Blob(offset=0, size=entry.size, sha256=entry.sha256)
            return
        borders = spans([segment.size for segment in entry.segments], self.blob_size)
        for index, (offset, size) in enumerate(borders):
            yield Blob(offset=offset, size=size, sha256=entry.pieces[index * _DIGEST : (index + 1) * _DIGEST])

    def encode(self) -> bytes:
        """Return the manifest as msgpack, the bytes that the `x` tag of a release hashes."""
        files = [
            {
                "path": entry.path,
                "role": entry.role,
                "size": entry.size,
                "sha256": entry.sha256,
                "segments": [[segment.name, segment.size, segment.sha256] for segment in entry.segments],
                "chunks": entry.references,
            }
            | ({} if entry.pieces is None else {"blobs": entry.pieces})
            for entry in self.files
        ]
        optional = {"blob_size": self.blob_size, "chunk_author": self.chunk_author}
        present = {key: value for key, value in optional.items() if value is not None}
        return bytes(msgpack.packb({"v": VERSION, "chunk_size": self.chunk_size, **present, "files": files}))

    @classmethod
    def decode(cls, raw_manifest: bytes) -> "Manifest":
        """Decode a manifest from msgpack.

        Raises:
            InvalidManifest: The bytes are not msgpack, or break the protocol; the message names the key.
        """
        try:
            raw = _unpack(raw_manifest)
        except (ValueError, msgpack.UnpackException) as error:
            raise InvalidManifest(f"manifest: not msgpack: {error or type(error).__name__}") from None
        if not isinstance(raw, dict) or type(raw.get("v")) is not int or raw["v"] != VERSION:
            raise InvalidManifest(f"manifest: not a map of version {VERSION}")
        raw_files = raw.get("files")
        if not isinstance(raw_files, list):
            raise InvalidManifest("manifest: files is missing or malformed")
        _check(len(raw_files) <= MAX_FILES, f"{len(raw_files)} files, at most {MAX_FILES} are allowed")
        return cls(
            files=tuple(map(_decode_file, raw_files)),
            chunk_size=_value(raw, "chunk_size"),
            blob_size=_value(raw, "blob_size"),
            chunk_author=_value(raw, "chunk_author"),
        )


def _unpack(raw_manifest: bytes) -> Any:  # noqa: ANN401 (decoded msgpack)
    """Decode msgpack of few objects; raise ValueError."""
    left = _MAX_CONTAINERS

    def count_container(container: Any) -> Any:  # noqa: ANN401 (decoded msgpack)
        nonlocal left
        left -= 1
        if not left:
            raise ValueError(f"more than {_MAX_CONTAINERS} maps and arrays")
        return container

    return msgpack.unpackb(
        raw_manifest,
        object_hook=count_container,
        list_hook=count_container,
        max_array_len=_MAX_ITEMS,
        max_map_len=_MAX_ITEMS,
    )


def _decode_file(raw_file: Any) -> FileEntry:  # noqa: ANN401 (decoded msgpack; FileEntry checks each value)
    if not isinstance(raw_file, dict):
        raise InvalidManifest("manifest: files is missing or malformed")
    raw_segments = raw_file.get("segments")
    if not isinstance(raw_segments, list):
        raise InvalidManifest("manifest: segments is missing or malformed")
    return FileEntry(
        path=_value(raw_file, "path"),
        role=_value(raw_file, "role"),
        size=_value(raw_file, "size"),
        sha256=_value(raw_file, "sha256"),
        segments=tuple(map(_decode_segment, raw_segments)),
        references=_value(raw_file, "chunks"),
        pieces=_value(raw_file, "blobs"),
    )


def _decode_segment(raw_segment: Any) -> Segment:  # noqa: ANN401 (decoded msgpack; Segment checks each value)
    match raw_segment:
        case [name, size, sha256]:
            return Segment(name=name, size=size, sha256=sha256)
        case _:
            raise InvalidManifest("manifest: segments is malformed")


def _value(raw: dict[str, Any], key: str) -> Any:  # noqa: ANN401 (decoded msgpack)
    return raw.get(key)


def _check(holds: bool, fault: str) -> None:  # noqa: FBT001 (a condition)
    if not holds:
        raise InvalidManifest(f"manifest: {fault}")


def _quote(raw_value: object) -> str:
    return repr(raw_value[:_QUOTED]) if isinstance(raw_value, str) else type(raw_value).__name__
