"""What carries a release: manifests, chunks, files of events, and the records of the store."""

import contextlib
import io
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from fuzz.files import HOME, put
from fuzz.oracle import Target, same, text_of
from fuzz.signed import KEY, NOW

from distribution.author_claims import ClaimStore
from distribution.chunk_signatures import ChunkSignatures
from distribution.chunking import CHUNK_SIZE, decode, decode_exactly, encode
from distribution.errors import InvalidChunk, RandyGPTError
from distribution.event_file import EventFile
from distribution.events import CHUNK_KIND, HEAD_KIND
from distribution.manifest import Manifest
from distribution.seen_versions import SeenVersions
from distribution.store import Store
from distribution.trust import TrustPolicy
from distribution.trust_list import TrustStore
from relay_client.filter import Filter
from relay_client.gather import BY_ID

_ID = b"\xab" * 32


def _manifest(data: bytes) -> None:
    manifest = Manifest.decode(data)
    same(manifest, Manifest.decode(manifest.encode()))
    if manifest.size < 1 << 30:
        for entry in manifest.files:
            same(entry.chunk_count, sum(1 for _ in entry.chunks(manifest.chunk_size)))
            same(entry.size, sum(blob.size for blob in manifest.blobs(entry)))
            entry.first_segment(manifest.chunk_size)


def _chunk(data: bytes) -> None:
    same(data[:CHUNK_SIZE], decode(encode(data[:CHUNK_SIZE])))
    text = text_of(data)
    with contextlib.suppress(InvalidChunk):
        decode_exactly(text, size=3, sha256=_ID)
    found = decode(text)
    same(found, decode(encode(found)))


def _signatures(data: bytes) -> None:
    found = ChunkSignatures.decode(KEY.pubkey, data)
    same(found, ChunkSignatures.decode(KEY.pubkey, found.encode()))


def _event_file(data: bytes) -> None:
    file = EventFile(io.BytesIO(data), "events.jsonl")
    for wanted in (
        Filter(ids=(_ID,), limit=2),
        Filter(authors=(KEY.pubkey,), kinds=(HEAD_KIND,), tags={"d": ("tiny",)}, limit=2),
        Filter(kinds=(CHUNK_KIND,), since=1, until=NOW, limit=2),
    ):
        _run(file.query(wanted))
    _run(file.gather([_ID], lambda _url, _raw_event: False, BY_ID))
    with contextlib.suppress(RandyGPTError):
        _run(file.find_model(TrustPolicy(), name=None, now=NOW))
    file.failure_summary()


def _run(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine that waits for nothing but its turn."""
    with contextlib.suppress(StopIteration):
        while True:
            coroutine.send(None)


def _trust_list(data: bytes) -> None:
    put("state/trust.json", data)
    trusted = TrustStore(HOME).read()
    for author in trusted.names:
        trusted.display_name(author)
        trusted.short_name(author)
        trusted.imitated(author)


def _seen_versions(data: bytes) -> None:
    put("state/seen.json", data)
    seen = SeenVersions(HOME).seen(KEY.pubkey, "tiny")
    _ = seen.highest


def _author_claims(data: bytes) -> None:
    put("state/profiles.json", data)
    claims = ClaimStore(HOME)
    claims.read()
    claims.unknown([KEY.pubkey], now=NOW)


def _record(data: bytes) -> None:
    store = Store(HOME)
    put(str(Path(store.record_path(_ID)).relative_to(HOME)), data)
    release = store.release(_ID)
    if release:
        _ = release.title, release.size, release.partial


TARGETS: dict[str, Target] = {
    "manifest": _manifest,
    "chunk": _chunk,
    "chunk-signatures": _signatures,
    "event-file": _event_file,
    "trust-list": _trust_list,
    "seen-versions": _seen_versions,
    "author-claims": _author_claims,
    "release-record": _record,
}
