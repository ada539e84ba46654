"""Core types cannot be constructed invalid: what a decoder refuses, the constructor refuses too."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.releases import clock, publish, source, tiny_sources
from support.scripted_relay import ScriptedRelay

from distribution.errors import CallerError, InvalidManifest, InvalidRelease, StoreError
from distribution.events import Head, Release, head_draft, release_draft
from distribution.fetch import Fetcher
from distribution.follow import FollowTarget
from distribution.installed import InstalledFile, InstalledRelease, OriginalFile
from distribution.manifest import Chunk, FileEntry, Manifest, Segment
from distribution.partial import HeaderRewrite
from distribution.plan import Plan, PlannedEvent
from distribution.publish_record import PublishRecord
from distribution.release_spec import ReleaseSpec
from distribution.revocation import Revocation, revocation_draft
from distribution.seen_versions import Seen, SeenVersion
from distribution.source import HashedSource, SourceFile
from distribution.store import Store
from distribution.trust import TrustPolicy
from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference
from relay_client.pool import Pool

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NOW = 1_790_000_000
KEY = SecretKey(bytes.fromhex("11" * 32))
ID, OTHER_ID = bytes(32), bytes([1]) * 32


def entry(path: str, role: str, segment: str) -> FileEntry:
    part = Segment(name=segment, size=5, sha256=ID)
    return FileEntry(path=path, role=role, size=5, sha256=ID, segments=(part,), references=bytes(64))


CHECKPOINT = entry("checkpoint.bin", "checkpoint", "weights")
FILES = (CHECKPOINT, entry("vocab.json", "tokenizer", "data"), entry("config.json", "config", "data"))
MANIFEST = Manifest(files=FILES)
RELEASE = Release.parse(
    release_draft(
        MANIFEST.encode(), [ID], name="demo", version=1, format="RGPT0003", size=15, card={}, hint="", created_at=NOW
    ).sign(KEY),
    now=NOW,
)
HEAD = Head.parse(head_draft(RELEASE, hint="", created_at=NOW).sign(KEY), now=NOW)
REVOCATION = Revocation.parse(revocation_draft(RELEASE.id, reason="", created_at=NOW).sign(KEY), now=NOW)
SOURCE = SourceFile(path="checkpoint.bin", role="checkpoint", file=io.BytesIO(b"12345"), segments=(("weights", 5),))
HASHED: HashedSource = SOURCE.hash()
SPEC = ReleaseSpec(files=tuple(tiny_sources()), name="demo", format="RGPT0003", card={})
RECORD = PublishRecord(version=1, created_at=NOW, card={}, hint="", resumed=False)
EVENTS = tuple(
    PlannedEvent(draft=lambda: EventDraft(kind=1, created_at=NOW), id=bytes([number]) * 32, size=1)
    for number in range(3)
)
PLAN = Plan(manifest=MANIFEST, events=EVENTS, chunks=1)
INSTALLED_FILE = InstalledFile(
    path="checkpoint.bin", role="checkpoint", size=5, sha256=ID, chunks=1, local_path=Path("checkpoint.bin")
)
INSTALLED = InstalledRelease(
    id=ID,
    author=KEY.pubkey,
    name="demo",
    version=1,
    created_at=NOW,
    card={},
    files=tuple(replace(INSTALLED_FILE, path=file.path, role=file.role) for file in FILES),
    folder=Path("folder"),
    installed_at=NOW,
)
ADDRESS = AddressReference(author=KEY.pubkey, name="demo")
TARGET = FollowTarget(address=ADDRESS, urls=("wss://relay.example",))
CHUNK = Chunk(offset=0, size=5, event_id=ID, sha256=ID)
DEEP: list[Any] = []
for _ in range(70):
    DEEP = [DEEP]

INVALID: list[tuple["DataclassInstance", type[Exception], dict[str, Any]]] = [
    (CHECKPOINT.segments[0], InvalidManifest, {"size": 0}),
    (CHECKPOINT.segments[0], InvalidManifest, {"size": True}),
    (CHECKPOINT.segments[0], InvalidManifest, {"sha256": bytes(31)}),
    (CHUNK, InvalidManifest, {"offset": -1}),
    (CHUNK, InvalidManifest, {"size": 46_081}),
    (CHUNK, InvalidManifest, {"event_id": b""}),
    (CHECKPOINT, InvalidManifest, {"path": "../checkpoint.bin"}),
    (CHECKPOINT, InvalidManifest, {"path": "release.json"}),
    (CHECKPOINT, InvalidManifest, {"role": "other"}),
    (CHECKPOINT, InvalidManifest, {"size": 6}),
    (CHECKPOINT, InvalidManifest, {"segments": ()}),
    (CHECKPOINT, InvalidManifest, {"references": b""}),
    (CHECKPOINT, InvalidManifest, {"references": bytes(65)}),
    (CHECKPOINT, InvalidManifest, {"sha256": "00" * 32}),
    (MANIFEST, InvalidManifest, {"files": ()}),
    (MANIFEST, InvalidManifest, {"files": (CHECKPOINT,)}),
    (MANIFEST, InvalidManifest, {"files": (*FILES, CHECKPOINT)}),
    (MANIFEST, InvalidManifest, {"files": (*FILES, *(entry(f"extra{n}", "other", "data") for n in range(14)))}),
    (MANIFEST, InvalidManifest, {"files": (replace(CHECKPOINT, references=bytes(128)), *FILES[1:])}),
    (MANIFEST, InvalidManifest, {"chunk_size": 0}),
    (RELEASE, InvalidRelease, {"id": OTHER_ID}),
    (RELEASE, InvalidRelease, {"author": OTHER_ID}),
    (RELEASE, InvalidRelease, {"name": "Not Allowed"}),
    (RELEASE, InvalidRelease, {"version": 0}),
    (RELEASE, InvalidRelease, {"version": 2**31}),
    (RELEASE, InvalidRelease, {"format": ""}),
    (RELEASE, InvalidRelease, {"size": 0}),
    (RELEASE, InvalidRelease, {"manifest_sha256": b""}),
    (RELEASE, InvalidRelease, {"manifest_ids": ()}),
    (RELEASE, InvalidRelease, {"manifest_ids": (ID,) * 65}),
    (RELEASE, InvalidRelease, {"manifest_ids": (b"short",)}),
    (RELEASE, InvalidRelease, {"card": {"deep": DEEP}}),
    (HEAD, InvalidRelease, {"name": "Not Allowed"}),
    (HEAD, InvalidRelease, {"version": 0}),
    (HEAD, InvalidRelease, {"release_id": bytes(31)}),
    (REVOCATION, InvalidRelease, {"event_ids": frozenset({b"short"})}),
    (SOURCE, CallerError, {"path": "My Model.bin"}),
    (SOURCE, CallerError, {"role": "other"}),
    (SOURCE, CallerError, {"segments": (("data", 5),)}),
    (SOURCE, CallerError, {"segments": (("weights", 0),)}),
    (HASHED, CallerError, {"segments": ()}),
    (HASHED, CallerError, {"sha256": b""}),
    (SPEC, CallerError, {"files": ()}),
    (SPEC, CallerError, {"files": (source("a.txt", "other", b"plain"),)}),
    (SPEC, CallerError, {"files": (*SPEC.files, SPEC.files[1])}),
    (SPEC, CallerError, {"name": "Not Allowed"}),
    (SPEC, CallerError, {"format": "two words"}),
    (SPEC, CallerError, {"card": []}),
    (SPEC, CallerError, {"card": {"deep": DEEP}}),
    (SPEC, CallerError, {"card": {"tuples": ((((DEEP,),),),)}}),
    (SPEC, CallerError, {"card": {"bytes": b""}}),
    (SPEC, CallerError, {"expires_in_s": 0}),
    (RECORD, StoreError, {"version": 2**31}),
    (RECORD, StoreError, {"created_at": -1}),
    (RECORD, StoreError, {"expires": 0}),
    (EVENTS[0], CallerError, {"id": b""}),
    (EVENTS[0], CallerError, {"size": 0}),
    (PLAN, CallerError, {"chunks": -1}),
    (PLAN, CallerError, {"chunks": 2}),
    (PLAN, CallerError, {"events": (*EVENTS, EVENTS[0])}),
    (OriginalFile(sha256=ID, start=b""), ValueError, {"sha256": b""}),
    (INSTALLED_FILE, ValueError, {"path": "../../elsewhere"}),
    (INSTALLED_FILE, ValueError, {"size": -1}),
    (INSTALLED, ValueError, {"name": "Not Allowed"}),
    (INSTALLED, ValueError, {"version": 0}),
    (INSTALLED, ValueError, {"files": ()}),
    (SeenVersion(release_id=ID, manifest_sha256=ID), ValueError, {"release_id": b""}),
    (Seen(), ValueError, {"acknowledged": -1}),
    (Seen(), ValueError, {"revoked": frozenset({b""})}),
    (Seen(), ValueError, {"versions": {0: SeenVersion(release_id=ID, manifest_sha256=ID)}}),
    (TrustPolicy(), CallerError, {"mode": "everybody"}),
    (TrustPolicy(), CallerError, {"authors": frozenset({b"alice"})}),
    (HeaderRewrite(size=8, apply=bytes), CallerError, {"size": 0}),
    (TARGET, CallerError, {"urls": ()}),
    (TARGET, CallerError, {"address": replace(ADDRESS, name="Not Allowed")}),
    (TARGET, CallerError, {"address": replace(ADDRESS, kind=1)}),
]


@pytest.mark.parametrize(
    ("valid", "error", "changed"),
    INVALID,
    ids=[f"{type(valid).__name__}-{number}" for number, (valid, _, _) in enumerate(INVALID)],
)
def test_constructor_refuses_invalid_values(
    valid: "DataclassInstance", error: type[Exception], changed: dict[str, Any]
) -> None:
    with pytest.raises(error):
        replace(valid, **changed)


def test_fetcher_refuses_a_limit_of_zero(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="max_size"):
        Fetcher(pool=Pool([]), store=Store(tmp_path), policy=TrustPolicy(), now=clock, max_size=0)


PLAIN: dict[str, Callable[[], list[SourceFile]]] = {
    "one plain file": lambda: [source("notes.txt", "notes", b"plain")],
    "no tokenizer": lambda: [file for file in tiny_sources() if file.role != "tokenizer"],
    "two configs": lambda: [*tiny_sources(), source("other.json", "config", b"{}")],
    "one path twice": lambda: [*tiny_sources(), source("config.json", "notes", b"plain")],
    "17 files": lambda: [*tiny_sources(), *(source(f"{number}.txt", "notes", b"plain") for number in range(14))],
}


@pytest.mark.parametrize("files", PLAIN.values(), ids=PLAIN)
async def test_publish_refuses_files_that_no_fetch_accepts(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, files: Callable[[], list[SourceFile]]
) -> None:
    with pytest.raises(CallerError, match="not the files of a release"):
        await publish([scripted.url], tmp_path, key, files())
    assert scripted.received == []
    assert not (tmp_path / "state" / "receipts").exists()
