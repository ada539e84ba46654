"""docs/protocol.md: its examples are what the code makes, and a reader written from the page alone reads releases."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest
from support.blossom_server import blossom_server
from support.independent_reader import events
from support.independent_reader.reader import Ask, Reader
from support.independent_reader.refused import Refused
from support.independent_reader.relay import Relay
from support.independent_reader.server import Server
from support.models import side_files
from support.protocol_example import CHUNK_KEY, CHUNK_SIZE, CREATED_AT, KEY, NAME, examples, resigned, updated
from support.releases import checkpoint_bytes, fetch, publish, tiny_sources

import randygpt
from distribution.errors import InvalidManifest, NotFound
from relay_client.blossom.local_server import LocalBlobServer
from relay_client.event import Event
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference
from relay_client.pool import Pool
from relay_client.timeouts import Timeouts

PAGE = (Path(__file__).parents[2] / "docs/protocol.md").read_text(encoding="utf-8")
EXAMPLES = examples(PAGE)
EVENTS = {name: json.loads(text) for name, text in EXAMPLES.items() if text.startswith("{")}
FIRST = {
    name: event
    for name, event in EVENTS.items()
    if name in {"manifest-chunk", "release", "head"} or name.startswith("chunk-")
}
SECOND = FIRST | {name: EVENTS[name] for name in ("release-2", "head-2")}
MANIFEST = bytes.fromhex("".join(line[:64].strip() for line in EXAMPLES["manifest"].splitlines()))
BY_NAME = f"{KEY.pubkey.hex()}/{NAME}"

RawEvent = dict[str, Any]


def files_on_the_page() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    path = ""
    for line in EXAMPLES["files"].splitlines():
        if ", " in line:
            path = line.split(", ")[0]
            found[path] = b""
        else:
            found[path] += bytes.fromhex(line)
    return found


FILES = files_on_the_page()
WEIGHTS_ONLY = FILES | {"tiny.bin": bytes.fromhex(EXAMPLES["weights-only"].replace("\n", ""))}


def asking(stored: Iterable[RawEvent]) -> Ask:
    """Return the query function of a relay that stores these events."""
    kept = list(stored)

    def ask(wanted: dict[str, Any]) -> Iterator[RawEvent]:
        for event in kept:
            tags = {f"#{tag[0]}": tag[1] for tag in event["tags"]}
            facts = {"ids": event["id"], "authors": event["pubkey"], "kinds": event["kind"]} | tags
            if all(facts.get(field) in values for field, values in wanted.items() if field != "limit"):
                yield event

    return ask


def reader(stored: Iterable[RawEvent]) -> Reader:
    return Reader(asking(stored), CREATED_AT + 86_400)


def retagged(name: str, **values: str) -> RawEvent:
    """Return an example event with some tag values replaced, signed."""
    tags = [[tag, values.get(tag, value), *rest] for tag, value, *rest in EVENTS[name]["tags"]]
    return resigned(EVENTS[name], tags=tags)


def versions_met(by: Reader) -> list[int]:
    """Return the versions a reader has seen after reading the latest."""
    by.read(BY_NAME)
    return list(by.met[KEY.pubkey.hex(), NAME])


# --- the examples


def test_examples_match_the_code() -> None:
    assert updated(PAGE) == PAGE
    assert len(EVENTS) == 22


@pytest.mark.parametrize("name", EVENTS)
def test_example_events_verify(name: str) -> None:
    assert Event.parse(EVENTS[name]).id.hex() == EVENTS[name]["id"]
    events.checked(EVENTS[name], EVENTS[name]["kind"])


def test_ids_hash_the_serialised_examples() -> None:
    assert hashlib.sha256(EXAMPLES["release-serialised"].encode()).hexdigest() == EVENTS["release"]["id"]
    escapes = bytes.fromhex(EXAMPLES["escapes-serialised"].replace("\n", ""))
    assert hashlib.sha256(escapes).hexdigest() == EVENTS["escapes"]["id"]
    assert events.serialised(EVENTS["escapes"]) == escapes


def test_manifest_bytes_match_event_and_release() -> None:
    assert events.chunk_bytes(EVENTS["manifest-chunk"]) == MANIFEST
    assert ["x", hashlib.sha256(MANIFEST).hexdigest()] in EVENTS["release"]["tags"]


async def test_fetcher_reads_the_example(relay: str, tmp_path: Path) -> None:
    async with Pool([relay]) as pool:
        await pool.publish([(Event.parse(event), [relay]) for event in FIRST.values()])
    fetched = await fetch([relay], tmp_path, AddressReference(author=KEY.pubkey, name=NAME))
    assert {file.path: file.local_path.read_bytes() for file in fetched.release.files} == FILES
    assert randygpt.load(fetched.release.folder).logits([[2, 2]]).shape == (1, 2, 3)


# --- the reader written from the page


@pytest.mark.parametrize("reference", [BY_NAME, EVENTS["release"]["id"], EVENTS["release-2"]["id"]])
def test_independent_reader_reads_the_example(reference: str) -> None:
    assert reader(SECOND.values()).read(reference) == FILES
    assert reader(SECOND.values()).read(reference, weights_only=True) == WEIGHTS_ONLY


async def test_standard_library_reads_a_published_release(relay: str, tmp_path: Path, key: SecretKey) -> None:
    await publish([relay], tmp_path / "a", key, tiny_sources())
    published = side_files() | {"checkpoint_best.bin": checkpoint_bytes()}
    for number, options in enumerate([[], ["--weights-only"]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        command = [sys.executable, "-S", "-m", "support.independent_reader", relay, f"{key.pubkey.hex()}/demo", folder]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        run = partial(subprocess.run, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True)
        done = await asyncio.to_thread(run, [*command, *options], timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        if options:
            weights = found["checkpoint_best.bin"]
            assert published["checkpoint_best.bin"][8 : len(weights)] == weights[8:]
            assert (weights[:8], found["vocab.json"]) == (b"RGPT0002", published["vocab.json"])
        else:
            assert found == published


def test_copy_by_another_key_is_accepted(stranger: SecretKey) -> None:
    stored = FIRST | {"chunk-3": resigned(EVENTS["chunk-3"], stranger, created_at=1)}
    assert reader(stored.values()).read(BY_NAME) == FILES


def test_revoked_version_stays_out() -> None:
    met = reader(SECOND.values())
    assert versions_met(met) == [2]
    met._ask = asking([*SECOND.values(), EVENTS["revocation"]])
    assert versions_met(met) == [2, 1]
    met._ask = asking(SECOND.values())
    del met.met[KEY.pubkey.hex(), NAME][1]
    assert versions_met(met) == [2, 1]


def test_revocation_by_another_key_is_ignored(stranger: SecretKey) -> None:
    assert versions_met(reader([*SECOND.values(), resigned(EVENTS["revocation"], stranger)])) == [2]


def test_older_head_is_a_rollback() -> None:
    met = reader(SECOND.values())
    met.read(BY_NAME)
    met._ask = asking(FIRST.values())
    with pytest.raises(Refused, match="rollback"):
        met.read(BY_NAME)
    assert met.read(EVENTS["release"]["id"]) == FILES


def test_two_contents_are_equivocation() -> None:
    release = retagged("release", x="ab" * 32)
    head = retagged("head", x="ab" * 32, e=release["id"])
    with pytest.raises(Refused, match="equivocation"):
        reader([*FIRST.values(), release, head]).read(BY_NAME)


def test_head_naming_nothing_does_not_count() -> None:
    stray = [retagged("head", e="ab" * 32, version="2147483647"), retagged("head", x="ab" * 32, version="7")]
    assert reader([*stray, *FIRST.values()]).read(BY_NAME) == FILES
    with pytest.raises(Refused, match="no head counts"):
        reader([*stray, *(event for name, event in FIRST.items() if name != "head")]).read(BY_NAME)


@pytest.mark.parametrize(("segment", "weights_only"), [(0, False), (0, True), (1, False)])
def test_wrong_segment_hash_is_refused(segment: int, *, weights_only: bool) -> None:
    raw = msgpack.unpackb(MANIFEST)
    raw["files"][0]["segments"][segment][2] = bytes(32)
    encoded = msgpack.packb(raw)
    sha256 = hashlib.sha256(encoded).hexdigest()
    content = base64.b64encode(encoded).decode()
    chunk = resigned(EVENTS["manifest-chunk"], content=content, tags=[["x", sha256]])
    release = retagged("release", x=sha256, e=chunk["id"])
    with pytest.raises(Refused, match="not the"):
        reader([*FIRST.values(), chunk, release]).read(release["id"], weights_only=weights_only)


@pytest.mark.parametrize("name", FIRST)
def test_missing_event_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        reader(event for other, event in FIRST.items() if other != name).read(BY_NAME)


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("field", ["content", "sig", "pubkey", "created_at"])
def test_changed_event_field_is_refused(name: str, field: str) -> None:
    value = FIRST[name][field]
    changed = value + 1 if isinstance(value, int) else "0" * 128 if field == "sig" else value[::-1] or "x"
    stored = FIRST | {name: FIRST[name] | {field: changed}}
    if field == "sig" and name.startswith("chunk-"):
        assert reader(stored.values()).read(BY_NAME) == FILES
    else:
        with pytest.raises(Refused):
            reader(stored.values()).read(BY_NAME)


# --- another key for chunks

ANNOUNCED = [EVENTS["throwaway-manifest-event"], EVENTS["release-with-chunk-author"]]


def throwaway_chunks() -> list[RawEvent]:
    """Return the chunks of the example, signed by the throw-away key."""
    date = EVENTS["throwaway-chunk"]["created_at"]
    return [resigned(EVENTS[name], CHUNK_KEY, created_at=date) for name in FIRST if name.startswith("chunk-")]


def test_chunks_by_another_key_are_read() -> None:
    chunks = throwaway_chunks()
    assert chunks[0] == EVENTS["throwaway-chunk"]
    assert reader([*ANNOUNCED, *chunks]).read(ANNOUNCED[1]["id"]) == FILES
    assert reader([*ANNOUNCED, *FIRST.values()]).read(ANNOUNCED[1]["id"]) == FILES  # the author's are copies of them
    with pytest.raises(Refused):
        reader([*ANNOUNCED, *chunks[1:]]).read(ANNOUNCED[1]["id"])


async def test_chunk_key_signs_nothing_else(relay: str, tmp_path: Path) -> None:
    manifest = resigned(ANNOUNCED[0], CHUNK_KEY)
    release = resigned(
        ANNOUNCED[1], tags=[[*tag[:1], manifest["id"]] if tag[0] == "e" else tag for tag in ANNOUNCED[1]["tags"]]
    )
    stored = [manifest, release, *throwaway_chunks(), resigned(EVENTS["head"], CHUNK_KEY, created_at=CREATED_AT + 9)]
    for reference in (release["id"], BY_NAME):
        with pytest.raises(Refused):
            reader(stored).read(reference)
    async with Pool([relay]) as pool:
        await pool.publish([(Event.parse(event), [relay]) for event in stored])
    with pytest.raises(InvalidManifest, match="not a chunk signed by the author"):
        await fetch([relay], tmp_path, bytes.fromhex(release["id"]))
    with pytest.raises(NotFound):
        await fetch([relay], tmp_path, AddressReference(author=KEY.pubkey, name=NAME))


# --- blobs

BLOB_MANIFEST = bytes.fromhex("".join(line[:64].strip() for line in EXAMPLES["blob-manifest"].splitlines()))
ON_SERVERS = [EVENTS["release-with-servers"], EVENTS["head-with-servers"]]
WEIGHTS_SIZE = len(WEIGHTS_ONLY["tiny.bin"])
BLOBS = {
    hashlib.sha256(data).hexdigest(): data
    for data in (FILES["tiny.bin"][:WEIGHTS_SIZE], FILES["tiny.bin"][WEIGHTS_SIZE:], *FILES.values(), BLOB_MANIFEST)
}


def test_token_spells_alike_in_every_base64() -> None:
    encoded = EXAMPLES["upload-header"].removeprefix("Nostr ")
    token = base64.b64decode(encoded)
    assert json.loads(token) == EVENTS["upload-token"]
    assert base64.urlsafe_b64encode(token).decode() == encoded
    named = {tag[1] for tag in EVENTS["upload-token"]["tags"] if tag[0] == "x"}
    assert named == BLOBS.keys() - {hashlib.sha256(FILES["tiny.bin"]).hexdigest()}  # which is cut


@pytest.mark.parametrize("reference", [BY_NAME, EVENTS["release-with-servers"]["id"]])
def test_independent_reader_reads_from_servers_alone(reference: str) -> None:
    on_servers = Reader(asking(ON_SERVERS), CREATED_AT + 86_400, BLOBS.get)
    assert on_servers.read(reference) == FILES
    assert on_servers.read(reference, weights_only=True) == WEIGHTS_ONLY


def test_independent_reader_rejects_wrong_blobs() -> None:
    lying = Reader(asking(ON_SERVERS), CREATED_AT + 86_400, lambda name: bytes(len(BLOBS.get(name, b""))))
    with pytest.raises(Refused):
        lying.read(BY_NAME)


async def test_fetcher_reads_the_example_from_a_server(relay: str, tmp_path: Path) -> None:
    async with blossom_server() as server:
        server.blobs |= BLOBS
        async with Pool([relay]) as pool:
            announced = [*ON_SERVERS, EVENTS["blob-manifest-event"]]
            await pool.publish([(Event.parse(event), [relay]) for event in announced])
        address = AddressReference(author=KEY.pubkey, name=NAME)
        fetched = await fetch([relay], tmp_path, address, servers=[server.url], timeouts=Timeouts(connect_s=0.5))
    assert {file.path: file.local_path.read_bytes() for file in fetched.release.files} == FILES
    assert fetched.chunks.servers[server.url].bytes == sum(map(len, FILES.values())) - CHUNK_SIZE  # two are equal


@pytest.mark.parametrize("carriers", ["relays and servers", "servers only"])
async def test_independent_reader_fetches_what_was_published(
    relay: str, tmp_path: Path, key: SecretKey, carriers: str
) -> None:
    both = carriers == "relays and servers"
    async with LocalBlobServer(folder=tmp_path / "blobs") as server:
        published = await publish([relay], tmp_path, key, tiny_sources(), servers=[server.origin], send_chunks=both)
        get = (lambda _: None) if both else Server(server.origin).get  # of both, a reader may know relays only
        with contextlib.closing(Relay(relay)) as opened:
            by_page = Reader(opened.ask, published.release.created_at, get)
            files = await asyncio.to_thread(by_page.read, published.release.id.hex())
    assert files == {"checkpoint_best.bin": checkpoint_bytes(), **side_files()}
