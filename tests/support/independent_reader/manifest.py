"""The manifest: its rules, where each chunk belongs, and files from chunks."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from .events import MAX_CHUNK, NAME, is_number, is_text
from .msgpack import unpack
from .refused import need


def check_manifest(raw: bytes) -> dict[str, Any]:
    manifest = unpack(raw)
    need(isinstance(manifest, dict) and is_number(manifest.get("v"), 1, 1), "not a manifest of version 1")
    need(is_number(manifest.get("chunk_size"), 1, MAX_CHUNK), "chunk_size is malformed")
    blob_size = manifest.get("blob_size")
    if blob_size is not None:
        need(is_number(blob_size, 1, 2**30) and blob_size % manifest["chunk_size"] == 0, "blob_size is malformed")
    chunk_author = manifest.get("chunk_author")
    need(chunk_author is None or is_hash(chunk_author), "chunk_author is malformed")
    files = manifest.get("files")
    need(isinstance(files, list) and len(files) <= 16, "files is malformed")
    for file in files:
        check_file(file, manifest["chunk_size"])
        check_blobs(file, blob_size)
    need(len({file["path"] for file in files}) == len(files), "two files have one path")
    for role in ("checkpoint", "tokenizer", "config"):
        need([file["role"] for file in files].count(role) == 1, f"not exactly one {role}")
    contents: dict[str, tuple[int, str]] = {}
    for file in files:
        for _, size, event_id, sha256 in places(file, manifest["chunk_size"]):
            need(contents.setdefault(event_id, (size, sha256)) == (size, sha256), "one id has two contents")
    return dict(manifest)


def check_file(file: Any, chunk_size: int) -> None:  # noqa: ANN401 (whatever msgpack held)
    need(isinstance(file, dict), "a file is no map")
    need(is_text(file.get("path"), NAME) and file["path"] != "release.json", "path is malformed")
    need(isinstance(file.get("role"), str), "role is malformed")
    maximum = 2**53 if file["role"] == "checkpoint" else 16_777_216
    need(is_number(file.get("size"), 1, maximum), "size is malformed")
    need(is_hash(file.get("sha256")), "sha256 is malformed")
    segments = file.get("segments")
    need(isinstance(segments, list), "segments is malformed")
    for segment in segments:
        need(isinstance(segment, list) and len(segment) == 3, "a segment is malformed")
        need(is_number(segment[1], 1, 2**53) and is_hash(segment[2]), "a segment is malformed")
    names = [segment[0] for segment in segments]
    allowed = [["weights"], ["weights", "optimizer"]] if file["role"] == "checkpoint" else [["data"]]
    need(names in allowed and sum(segment[1] for segment in segments) == file["size"], "segments are wrong")
    count = sum(-(-segment[1] // chunk_size) for segment in segments)
    need(isinstance(file.get("chunks"), bytes) and len(file["chunks"]) == 64 * count, "chunks is malformed")


def check_blobs(file: dict[str, Any], blob_size: int | None) -> None:
    if file.get("blobs") is None:
        return
    need(isinstance(file["blobs"], bytes) and blob_size is not None, "blobs is malformed, or blob_size is missing")
    count = sum(-(-segment[1] // (blob_size or 1)) for segment in file["segments"])
    need(count <= 4_096 and len(file["blobs"]) == 32 * count, "blobs is malformed")


def blobs(file: Mapping[str, Any], blob_size: int) -> Iterator[tuple[str, int]]:
    """Yield (SHA-256, offset in the file) of each blob of a file, in order."""
    if file.get("blobs") is None:
        yield file["sha256"].hex(), 0
        return
    at, offset = 0, 0
    for _, length, _ in file["segments"]:
        for start in range(0, length, blob_size):
            yield file["blobs"][at : at + 32].hex(), offset + start
            at += 32
        offset += length


def is_hash(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == 32


def places(file: Mapping[str, Any], chunk_size: int) -> Iterator[tuple[str, int, str, str]]:
    """Yield (segment, length, event id, SHA-256) of each chunk of a file, in order."""
    at = 0
    for name, length, _ in file["segments"]:
        for start in range(0, length, chunk_size):
            reference = file["chunks"][at : at + 64].hex()
            yield name, min(chunk_size, length - start), reference[:64], reference[64:]
            at += 64


def whole(file: dict[str, Any], chunk_size: int, chunks: Mapping[str, bytes], weights_only: bool) -> bytes:  # noqa: FBT001
    """Return a file joined from its chunks; with `weights_only`, a checkpoint becomes format RGPT0002."""
    part = weights_only and file["role"] == "checkpoint"
    names = {"weights"} if part else {segment[0] for segment in file["segments"]}
    data = b"".join(chunks[sha256] for name, _, _, sha256 in places(file, chunk_size) if name in names)
    need(hashlib.sha256(data).digest() == (file["segments"][0][2] if part else file["sha256"]), "not the file")
    offset = 0
    for _, length, sha256 in file["segments"][: 1 if part else None]:
        need(hashlib.sha256(data[offset : offset + length]).digest() == sha256, "not the segment")
        offset += length
    return b"RGPT0002" + data[8:] if part else data
