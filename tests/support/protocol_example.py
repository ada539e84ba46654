"""The examples of docs/protocol.md: a release small enough to print, made by the code that makes real ones.

Run `python tests/support/protocol_example.py docs/protocol.md` to update the page. In the page, a block
of code is an example if a comment `<!-- example: NAME -->` stands above it.
"""

import hashlib
import itertools
import json
import re
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import coincurve
import msgpack
import orjson

from distribution.ancestors import Ancestor, Lineage
from distribution.chunking import spans
from distribution.events import (
    CHUNK_KIND,
    HEAD_KIND,
    RELEASE_KIND,
    Release,
    chunk_draft,
    head_draft,
    release_draft,
)
from distribution.manifest import FileEntry, Manifest, Segment
from randygpt.checkpoint.header import CheckpointHeader, segments
from randygpt.model.config import ModelConfig
from randygpt.model.tokenizer import CharTokenizer
from relay_client.blossom.token import Verb, encode_header, token_draft
from relay_client.event import Event, EventDraft, Signer
from relay_client.nip19 import encode_npub

SECRET = bytes.fromhex("01" * 32)
CHUNK_SECRET = bytes.fromhex("02" * 32)  # of the throw-away key
CREATED_AT = 1_750_000_000  # seconds since 1970
HINT = "wss://relay.example"
NAME = "tiny"
BLOSSOM_VERSION = 3  # the version whose files are on servers
CHUNK_KEY_VERSION = 4  # the version whose chunks a throw-away key signed
MERGE_VERSION = 5  # a merge of the second and the third version
CHUNK_SIZE = 80  # bytes; so that a file of some hundred bytes has several chunks
BLOB_SIZE = 160  # bytes; two chunks
SERVERS = ("https://blobs.example", "https://other.example:8443")
TOKENIZER = CharTokenizer(["<", ">", "a"])
CONFIG = ModelConfig(n_embd=1, n_head=1, n_layer=1, vocab_size=3, block_size=2)
CARD = {
    "config": CONFIG.to_json(TOKENIZER.kind),
    "training": {"iteration": 0, "step": 0, "best_loss": 1.5},
    "license": "MIT",
    "text": 'It knows the letter "a".\nGrüße 🧪',
}
ESCAPES = '\b\t\n\f\r"\\ / \x01\x7fé\u2028🧪'

_BLOCK = re.compile(r"(<!-- example: ([a-z0-9-]+) -->\n```[a-z]+\n)(.*?)^(```)$", re.DOTALL | re.MULTILINE)


class ExampleKey:
    """Key that signs without randomness, so that the page is reproducible; never publish a real key like this."""

    def __init__(self, secret: bytes) -> None:
        self._key = coincurve.PrivateKey(secret)
        self.pubkey = self._key.public_key_xonly.format()

    def sign(self, digest: bytes) -> bytes:
        """Sign by BIP-340 with auxiliary randomness of 32 zero bytes."""
        return self._key.sign_schnorr(digest, bytes(32))


KEY = ExampleKey(SECRET)
CHUNK_KEY = ExampleKey(CHUNK_SECRET)


@dataclass(frozen=True, kw_only=True)
class ExampleFile:
    """A file of the release, and the events that carry its chunks, in order."""

    entry: FileEntry
    data: bytes
    lengths: list[tuple[str, int]]  # (name, bytes) of each segment
    chunks: tuple[Event, ...]


class Example:
    """The example release; each part is computed once, from the previous one."""

    @cached_property
    def files(self) -> tuple[ExampleFile, ...]:
        """Checkpoint, vocabulary and configuration."""
        header = CheckpointHeader(magic="RGPT0003", vocab_size=3, iteration=0, step=0, best_loss=1.5).encode()
        weights = struct.pack("<20f", *(number / 8 for number in range(20)))
        checkpoint = header + weights + bytes(2 * len(weights))  # moments before the first step: zeros
        vocab, config = (
            json.dumps(contents, ensure_ascii=False, sort_keys=True).encode()
            for contents in (TOKENIZER.to_json(), CONFIG.to_json(TOKENIZER.kind))
        )
        return (
            _file("tiny.bin", "checkpoint", checkpoint, segments(CONFIG, len(checkpoint))),
            _file("vocab.json", "tokenizer", vocab, [("data", len(vocab))]),
            _file("config.json", "config", config, [("data", len(config))]),
        )

    @cached_property
    def manifest(self) -> bytes:
        """As msgpack."""
        return Manifest(files=tuple(file.entry for file in self.files), chunk_size=CHUNK_SIZE).encode()

    @cached_property
    def blob_manifest(self) -> bytes:
        """The manifest of a release whose checkpoint is cut into blobs, as msgpack."""
        checkpoint = self.files[0]
        cuts = spans([segment.size for segment in checkpoint.entry.segments], BLOB_SIZE)
        pieces = b"".join(hashlib.sha256(checkpoint.data[offset : offset + size]).digest() for offset, size in cuts)
        files = (replace(checkpoint.entry, pieces=pieces), *(file.entry for file in self.files[1:]))
        return Manifest(files=files, chunk_size=CHUNK_SIZE, blob_size=BLOB_SIZE).encode()

    @cached_property
    def blob_manifest_event(self) -> Event:
        """The one event that carries the manifest with blobs."""
        return _chunk(self.blob_manifest)

    @cached_property
    def throwaway_files(self) -> tuple[ExampleFile, ...]:
        """The same files, with chunks that a throw-away key signed."""
        return tuple(
            _file(file.entry.path, file.entry.role, file.data, file.lengths, CHUNK_KEY, _date(CHUNK_KEY_VERSION))
            for file in self.files
        )

    @cached_property
    def throwaway_manifest(self) -> bytes:
        """The manifest of those chunks, as msgpack."""
        files = tuple(file.entry for file in self.throwaway_files)
        return Manifest(files=files, chunk_size=CHUNK_SIZE, chunk_author=CHUNK_KEY.pubkey).encode()

    @cached_property
    def throwaway_manifest_event(self) -> Event:
        """The one event that carries this manifest; the author signs it."""
        return _chunk(self.throwaway_manifest, created_at=_date(CHUNK_KEY_VERSION))

    @cached_property
    def manifest_chunk(self) -> Event:
        """The one event that carries the manifest."""
        return _chunk(self.manifest)

    def release(self, version: int) -> Event:
        """Return a release event; all versions have the same files. The third is on Blossom servers.

        A throw-away key signed the chunks of the fourth. The fifth is a merge.
        """
        manifest, carrier = {
            BLOSSOM_VERSION: lambda: (self.blob_manifest, self.blob_manifest_event),
            CHUNK_KEY_VERSION: lambda: (self.throwaway_manifest, self.throwaway_manifest_event),
        }.get(version, lambda: (self.manifest, self.manifest_chunk))()
        return release_draft(
            manifest,
            [carrier.id],
            name=NAME,
            version=version,
            format="RGPT0003",
            size=sum(len(file.data) for file in self.files),
            card=CARD,
            hint=HINT,
            created_at=_date(version),
            servers=SERVERS if version == BLOSSOM_VERSION else (),
            tags=self._lineage.tags if version == MERGE_VERSION else (),
        ).sign(KEY)

    @property
    def _lineage(self) -> Lineage:
        """What the fifth version was made from."""
        base, *merged = (
            Ancestor(release_id=self.release(version).id, hint=HINT, author=KEY.pubkey) for version in (1, 2, 3)
        )
        return Lineage(base=base, merged=tuple(merged))

    def head(self, version: int, *, after_s: int) -> Event:
        """Return a head event that names one version."""
        release = Release.parse(self.release(version), now=CREATED_AT + 7200)
        servers = SERVERS[:1] if version == BLOSSOM_VERSION else ()
        return head_draft(release, hint=HINT, created_at=CREATED_AT + after_s, servers=servers).sign(KEY)

    @cached_property
    def token(self) -> Event:
        """Upload token for the blobs of the third version."""
        manifest = Manifest.decode(self.blob_manifest)
        hashes = [blob.sha256 for file in manifest.files for blob in manifest.blobs(file)]
        hashes.append(hashlib.sha256(self.blob_manifest).digest())
        return token_draft(Verb.UPLOAD, hashes=hashes, origins=SERVERS, now=CREATED_AT).sign(KEY)

    @cached_property
    def revocation(self) -> Event:
        """The author's revocation of version 2."""
        tags = (("e", self.release(2).id.hex()), ("k", str(RELEASE_KIND)))
        return EventDraft(kind=5, created_at=CREATED_AT + 7200, tags=tags, content="trained on the wrong text").sign(
            KEY
        )

    def events(self) -> dict[str, Event]:
        """Return the page's events by their names there."""
        chunks = {event.id: event for file in self.files for event in file.chunks}
        return {
            **{f"chunk-{number}": event for number, event in enumerate(chunks.values(), 1)},
            "manifest-chunk": self.manifest_chunk,
            "release": self.release(1),
            "head": self.head(1, after_s=5),
            "release-2": self.release(2),
            "head-2": self.head(2, after_s=3605),
            "revocation": self.revocation,
            "head-after-revocation": self.head(1, after_s=7200),
            "blob-manifest-event": self.blob_manifest_event,
            "release-with-servers": self.release(BLOSSOM_VERSION),
            "head-with-servers": self.head(BLOSSOM_VERSION, after_s=7205),
            "upload-token": self.token,
            "throwaway-chunk": self.throwaway_files[0].chunks[0],
            "throwaway-manifest-event": self.throwaway_manifest_event,
            "release-with-chunk-author": self.release(CHUNK_KEY_VERSION),
            "release-of-a-merge": self.release(MERGE_VERSION),
            "escapes": EventDraft(kind=1, created_at=CREATED_AT, tags=(("t", '"'), ("x",)), content=ESCAPES).sign(KEY),
        }

    def blocks(self) -> dict[str, str]:
        """Return the page's examples by name."""
        events = self.events()
        serialised = [_serialised(events[name]) for name in ("release", "escapes")]
        weights = self.files[0].entry.segments[0].size
        return {
            **{name: _pretty(event) for name, event in events.items()},
            "keys": f"secret  {SECRET.hex()}\npublic  {KEY.pubkey.hex()}\nnpub    {encode_npub(KEY.pubkey)}",
            "requests": "\n".join(self._requests()),
            "release-serialised": serialised[0].decode(),
            "escapes-serialised": _wrapped(serialised[1].hex()),
            "manifest": "\n".join(self._walk(self.manifest)),
            "blob-manifest": "\n".join(self._walk(self.blob_manifest)),
            "throwaway-key": f"secret  {CHUNK_SECRET.hex()}\npublic  {CHUNK_KEY.pubkey.hex()}",
            "chunk-author": "\n".join(itertools.islice(self._walk(self.throwaway_manifest, self.throwaway_files), 5)),
            "upload-header": encode_header(self.token),
            "files": "\n".join(_listed(file) for file in self.files),
            "weights-only": _wrapped((b"RGPT0002" + self.files[0].data[8:weights]).hex()),
        }

    def _requests(self) -> Iterator[str]:
        """Yield one of each kind of request that a reader sends."""
        author, release = KEY.pubkey.hex(), self.release(1).id.hex()
        chunk_sha256 = hashlib.sha256(self.files[0].data[:CHUNK_SIZE]).hexdigest()
        filters: list[dict[str, object]] = [
            {"ids": [release], "limit": 1},
            {"authors": [author], "kinds": [HEAD_KIND], "#d": [NAME], "limit": 10},
            {"authors": [author], "kinds": [5], "#e": [release, self.release(2).id.hex()], "limit": 100},
            {"kinds": [CHUNK_KIND], "#x": [chunk_sha256], "limit": 100},
            {"kinds": [RELEASE_KIND], "#b": [release], "limit": 500},
        ]
        return (json.dumps(["REQ", name, wanted]) for name, wanted in zip("abcde", filters, strict=True))

    def _walk(self, encoded: bytes, files: "tuple[ExampleFile, ...] | None" = None) -> Iterator[str]:
        """Return a manifest's bytes in hex, field by field."""
        manifest, files = Manifest.decode(encoded), files or self.files
        entries = 3 + bool(manifest.blob_size) + bool(manifest.chunk_author)
        steps: list[tuple[bytes, str]] = [
            (bytes([0x80 + entries]), f"map of {entries} entries"),
            _field("v", 1),
            _field("chunk_size", CHUNK_SIZE),
            *([_field("blob_size", manifest.blob_size)] if manifest.blob_size else []),
            *(
                [
                    (_pack("chunk_author") + b"\xc4\x20", '"chunk_author": 32 bytes'),
                    (manifest.chunk_author, "public key"),
                ]
                if manifest.chunk_author
                else []
            ),
            (_pack("files") + bytes([0x90 + len(files)]), f'"files": array of {len(files)}'),
        ]
        for file, entry in zip(files, manifest.files, strict=True):
            keys = 6 + bool(entry.pieces)
            steps += [
                (bytes([0x80 + keys]), f"map of {keys} entries"),
                _field("path", entry.path),
                _field("role", entry.role),
                _field("size", entry.size),
                (_pack("sha256") + b"\xc4\x20", '"sha256": 32 bytes'),
                (entry.sha256, "of the whole file"),
                (_pack("segments") + bytes([0x90 + len(entry.segments)]), f'"segments": {len(entry.segments)}'),
            ]
            for segment in entry.segments:
                cut = [segment.name, segment.size, segment.sha256]
                steps += [
                    (_pack(cut)[:-32], f'array of 3: "{segment.name}", {segment.size}, 32 bytes'),
                    (segment.sha256, "of the segment"),
                ]
            size = len(entry.references)
            chunks = f'"chunks": {size} bytes, {entry.chunk_count} x (event id, SHA-256)'
            steps.append((_pack("chunks") + _pack(entry.references)[:-size], chunks))
            for number, event in enumerate(file.chunks):
                reference = entry.references[64 * number : 64 * number + 64]
                steps += [(event.id, f"event id of chunk {number + 1}"), (reference[32:], "its SHA-256")]
            if entry.pieces:
                count = len(entry.pieces) // 32
                steps.append((_pack("blobs") + _pack(entry.pieces)[:2], f'"blobs": {len(entry.pieces)} bytes'))
                steps += [
                    (entry.pieces[32 * at : 32 * at + 32], f"SHA-256 of piece {at + 1}, the blob's name")
                    for at in range(count)
                ]
        assert b"".join(raw for raw, _ in steps) == encoded
        return (f"{raw.hex():<64}  {meaning}" for raw, meaning in steps)


def resigned(event: Mapping[str, Any], key: Signer = KEY, **changes: object) -> dict[str, Any]:
    """Return an event, as a JSON object, with changed fields and a valid id and signature."""
    fields: dict[str, Any] = {**event, **changes}
    tags = tuple(tuple(tag) for tag in fields["tags"])
    draft = EventDraft(kind=fields["kind"], created_at=fields["created_at"], tags=tags, content=fields["content"])
    return dict(orjson.loads(draft.sign(key).to_json()))


def updated(page: str) -> str:
    """Return the page with all examples up to date; raises KeyError for an unknown name."""
    blocks = Example().blocks()
    return _BLOCK.sub(lambda match: f"{match[1]}{blocks[match[2]]}\n{match[4]}", page)


def examples(page: str) -> dict[str, str]:
    """Return the text of the examples in a page by name."""
    return {match[2]: match[3].rstrip("\n") for match in _BLOCK.finditer(page)}


def _date(version: int) -> int:
    """Return the date of a version's release."""
    return CREATED_AT + 3600 * (version - 1)


def _chunk(data: bytes, key: Signer = KEY, created_at: int = CREATED_AT) -> Event:
    return chunk_draft(data, sha256=hashlib.sha256(data).digest(), created_at=created_at).sign(key)


def _file(
    path: str,
    role: str,
    data: bytes,
    lengths: list[tuple[str, int]],
    key: Signer = KEY,
    created_at: int = CREATED_AT,
) -> ExampleFile:
    parts = [data[offset : offset + size] for offset, size in spans([size for _, size in lengths], CHUNK_SIZE)]
    chunks = tuple(_chunk(part, key, created_at) for part in parts)
    offset, cut = 0, []
    for name, size in lengths:
        cut.append(Segment(name=name, size=size, sha256=hashlib.sha256(data[offset : offset + size]).digest()))
        offset += size
    entry = FileEntry(
        path=path,
        role=role,
        size=len(data),
        sha256=hashlib.sha256(data).digest(),
        segments=tuple(cut),
        references=b"".join(
            event.id + hashlib.sha256(part).digest() for event, part in zip(chunks, parts, strict=True)
        ),
    )
    return ExampleFile(entry=entry, data=data, lengths=lengths, chunks=chunks)


def _serialised(event: Event) -> bytes:
    """Return the bytes whose hash is the id, serialized independently of the code."""
    fields = [0, event.pubkey.hex(), event.created_at, event.kind, event.tags, event.content]
    serialised = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    assert hashlib.sha256(serialised).digest() == event.id
    return serialised


def _pretty(event: Event) -> str:
    """Return an event as JSON, with one field or tag per line."""
    lines = []
    for name, value in event.to_dict().items():
        text = _text(value)
        if name == "tags":
            text = "[\n" + ",\n".join(f"    {_text(tag)}" for tag in event.tags) + "\n  ]"
        lines.append(f'  "{name}": {text}')
    return "{\n" + ",\n".join(lines) + "\n}"


def _text(value: object) -> str:
    """Return JSON in which unprintable characters are escaped."""
    return "".join(
        char if char.isprintable() else f"\\u{ord(char):04x}" for char in json.dumps(value, ensure_ascii=False)
    )


def _field(key: str, value: int | str) -> tuple[bytes, str]:
    return _pack(key) + _pack(value), f'"{key}": {json.dumps(value)}'


def _pack(value: object) -> bytes:
    return bytes(msgpack.packb(value))


def _wrapped(digits: str) -> str:
    return "\n".join(digits[start : start + 64] for start in range(0, len(digits), 64))


def _listed(file: ExampleFile) -> str:
    return f"{file.entry.path}, {len(file.data)} bytes, SHA-256 {file.entry.sha256.hex()}\n{_wrapped(file.data.hex())}"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(updated(target.read_text(encoding="utf-8")), encoding="utf-8")
