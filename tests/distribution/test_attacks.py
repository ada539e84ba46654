"""Relays and authors that lie. Every test asserts the error and that the victim's store shows what it showed before."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.releases import clock, fetch, publish, tiny_sources, visible
from support.scripted_relay import RawEvent, ScriptedRelay, scripted_relay

from distribution.errors import (
    ChunksMissing,
    Equivocation,
    InvalidChunk,
    InvalidManifest,
    InvalidRelease,
    NotTrusted,
    PeerError,
    Rollback,
    TooLarge,
    TransportError,
)
from distribution.events import (
    CHUNK_KIND,
    HEAD_KIND,
    MAX_VERSION,
    RELEASE_KIND,
    Release,
    chunk_draft,
    head_draft,
    release_draft,
)
from distribution.manifest import Manifest
from distribution.trust import TrustPolicy
from relay_client.event import Event, EventDraft
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference
from relay_client.session import MAX_UNSOLICITED

Tamper = Callable[[RawEvent], RawEvent | None]


def flipped(content: str) -> str:
    """Return base64 with one bit of its bytes flipped."""
    data = bytearray(base64.b64decode(content))
    data[len(data) // 2] ^= 1
    return base64.b64encode(bytes(data)).decode()


def rehashed(event: RawEvent) -> RawEvent:
    """Return the event with a matching id and an invalid signature."""
    fields = [0, event["pubkey"], event["created_at"], event["kind"], event["tags"], event["content"]]
    return event | {"id": hashlib.sha256(orjson.dumps(fields)).hexdigest()}


def tampered(kind: int, change: Tamper) -> Tamper:
    """Return a delivery that changes events of one kind."""
    return lambda event: change(event) if event["kind"] == kind else event


def first_only(change: Tamper) -> Tamper:
    """Return a delivery that changes only the first event of a kind, the same one each time."""
    chosen: list[str] = []

    def deliver(event: RawEvent) -> RawEvent | None:
        if event["kind"] != CHUNK_KIND or (chosen and event["id"] != chosen[0]):
            return event
        chosen.append(event["id"])
        return change(event)

    return deliver


def resigned(event: RawEvent, key: SecretKey, **changes: Any) -> RawEvent:  # noqa: ANN401 (fields of an event)
    """Return the event, changed and validly signed by another author."""
    fields = event | changes
    tags = tuple(tuple(tag) for tag in fields["tags"])
    draft = EventDraft(kind=fields["kind"], created_at=fields["created_at"], tags=tags, content=fields["content"])
    return dict(draft.sign(key).to_dict())


@pytest.fixture
async def victim(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> tuple[Path, AddressReference]:
    """A home with version 1 installed, on a relay that has version 2 too."""
    address = AddressReference(author=key.pubkey, name="demo")
    await publish([scripted.url], tmp_path / "author", key, tiny_sources(seed=1))
    await fetch([scripted.url], tmp_path / "victim", address)
    await publish([scripted.url], tmp_path / "author", key, tiny_sources(seed=2))
    return tmp_path / "victim", address


def chunk_of_another_file(events: dict[str, RawEvent]) -> Tamper:
    other = next(event for event in events.values() if event["kind"] == CHUNK_KIND)
    return first_only(lambda event: other | {"id": event["id"]})


def tamperings() -> dict[str, Tamper]:
    """Return fresh lies by name; some of them keep state."""
    return {
        "release: content": tampered(RELEASE_KIND, lambda event: event | {"content": '{"a":1}'}),
        "release: content, id made to fit": tampered(RELEASE_KIND, lambda e: rehashed(e | {"content": '{"a":1}'})),
        "release: signature": tampered(RELEASE_KIND, lambda e: e | {"sig": e["sig"][64:] + e["sig"][:64]}),
        "release: kind": tampered(RELEASE_KIND, lambda e: e | {"kind": 1}),
        "release: not an event": tampered(RELEASE_KIND, lambda e: {"id": e["id"]}),
        "release: tags are numbers": tampered(RELEASE_KIND, lambda e: e | {"tags": [[1, 2]]}),
        "head: content": tampered(HEAD_KIND, lambda e: e | {"content": "x"}),
        "head: signature": tampered(HEAD_KIND, lambda e: e | {"sig": "00" * 64}),
        "head: points elsewhere": tampered(HEAD_KIND, lambda e: e | {"tags": [["d", "demo"], ["e", "00" * 32]]}),
        "chunk: one bit": first_only(lambda e: e | {"content": flipped(e["content"])}),
        "chunk: one bit, id made to fit": first_only(lambda e: rehashed(e | {"content": flipped(e["content"])})),
        "chunk: shortened": first_only(lambda e: e | {"content": e["content"][:-4]}),
        "chunk: not base64": first_only(lambda e: e | {"content": "é" * len(e["content"])}),
        "chunk: another's id": first_only(lambda e: e | {"id": "00" * 32}),
        "chunk: withheld": first_only(lambda _: None),
        "all chunks: withheld": tampered(CHUNK_KIND, lambda _: None),
        "everything: withheld": lambda _: None,
    }


@pytest.mark.parametrize("name", tamperings())
async def test_lying_relay_changes_nothing(
    scripted: ScriptedRelay, victim: tuple[Path, AddressReference], name: str
) -> None:
    home, address = victim
    before = visible(home)
    scripted.deliver = tamperings()[name]
    with pytest.raises((PeerError, TransportError)):
        await fetch([scripted.url], home, address)
    assert visible(home) == before
    scripted.deliver = lambda event: event
    assert (await fetch([scripted.url], home, address)).release.version == 2


@pytest.mark.parametrize("name", tamperings())
async def test_one_honest_relay_is_enough(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, name: str) -> None:
    async with scripted_relay() as honest:
        urls = [scripted.url, honest.url]
        await publish(urls, tmp_path / "author", key, tiny_sources())
        scripted.deliver = tamperings()[name]
        fetched = await fetch(urls, tmp_path / "b", AddressReference(author=key.pubkey, name="demo"))
        assert fetched.release.version == 1


async def test_chunk_of_another_file_is_rejected(
    scripted: ScriptedRelay, victim: tuple[Path, AddressReference]
) -> None:
    home, address = victim
    before = visible(home)
    scripted.deliver = chunk_of_another_file(dict(scripted.events))
    with pytest.raises(PeerError):
        await fetch([scripted.url], home, address)
    assert visible(home) == before


async def test_missing_and_invalid_chunks_are_distinguished(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    chunk_ids = {scripted.received[0]}
    scripted.deliver = lambda event: None if event["id"] in chunk_ids else event
    with pytest.raises(ChunksMissing):
        await fetch([scripted.url], tmp_path / "b", published.release.id)
    scripted.deliver = lambda e: e | {"content": flipped(e["content"])} if e["id"] in chunk_ids else e
    with pytest.raises(InvalidChunk):
        await fetch([scripted.url], tmp_path / "b", published.release.id)


async def test_head_by_a_stranger_is_ignored(
    scripted: ScriptedRelay, victim: tuple[Path, AddressReference], stranger: SecretKey
) -> None:
    home, address = victim
    before = visible(home)
    scripted.deliver = tampered(HEAD_KIND, lambda event: resigned(event, stranger))
    with pytest.raises(InvalidRelease, match="another author"):
        await fetch([scripted.url], home, address)
    assert visible(home) == before


async def test_head_naming_a_strangers_release_is_refused(
    scripted: ScriptedRelay, victim: tuple[Path, AddressReference], key: SecretKey, stranger: SecretKey, tmp_path: Path
) -> None:
    home, address = victim
    before = visible(home)
    stolen = await publish([scripted.url], tmp_path / "stranger", stranger, tiny_sources(seed=9))
    draft = head_draft(stolen.release, hint="", created_at=clock())
    scripted.deliver = tampered(HEAD_KIND, lambda _: dict(draft.sign(key).to_dict()))
    with pytest.raises(InvalidRelease, match="does not match the release"):
        await fetch([scripted.url], home, address)
    assert visible(home) == before


@pytest.mark.parametrize(("tag", "value"), [("version", "7"), ("x", "ab" * 32)])
async def test_head_contradicting_its_release_does_not_count(
    scripted: ScriptedRelay, victim: tuple[Path, AddressReference], key: SecretKey, tag: str, value: str
) -> None:
    home, address = victim

    def change(event: RawEvent) -> RawEvent:
        if ["version", "2"] not in event["tags"]:
            return event
        tags = [[tag, value, *old[2:]] if old[0] == tag else old for old in event["tags"]]
        return resigned(event, key, tags=tags)

    scripted.deliver = tampered(HEAD_KIND, change)
    assert (await fetch([scripted.url], home, address)).release.version == 1
    del scripted.events[next(each for each, event in scripted.events.items() if event["kind"] == HEAD_KIND)]
    with pytest.raises(InvalidRelease, match="does not match the release"):
        await fetch([scripted.url], home, address)


async def test_head_naming_nothing_does_not_take_the_name(
    scripted: ScriptedRelay, victim: tuple[Path, AddressReference], key: SecretKey
) -> None:
    home, address = victim
    last = await fetch([scripted.url], home, address)
    tags = (("d", "demo"), ("e", "ab" * 32), ("version", str(MAX_VERSION)), ("x", "cd" * 32))
    head = EventDraft(kind=HEAD_KIND, created_at=clock(), tags=tags).sign(key)
    scripted.events[head.id.hex()] = dict(head.to_dict())
    warnings: list[str] = []
    again = await fetch([scripted.url], home, address, on_warning=warnings.append)
    assert again.release.id == last.release.id
    (warning,) = warnings
    assert warning.startswith(f"ignored version {MAX_VERSION} of demo, announced without a release: no relay has")


async def test_older_head_is_refused_after_a_newer_one(
    scripted: ScriptedRelay, victim: tuple[Path, AddressReference]
) -> None:
    home, address = victim
    old = [
        event for event in scripted.events.values() if event["kind"] == HEAD_KIND and ["version", "1"] in event["tags"]
    ]
    await fetch([scripted.url], home, address)
    before = visible(home)
    scripted.deliver = tampered(HEAD_KIND, lambda _: old[0])
    with pytest.raises(Rollback, match="version 1 of demo is older than 2"):
        await fetch([scripted.url], home, address)
    assert visible(home) == before
    for path in (home / "store").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(Rollback):
        await fetch([scripted.url], home, address)


async def test_older_release_can_be_fetched_by_id(
    scripted: ScriptedRelay, victim: tuple[Path, AddressReference]
) -> None:
    home, address = victim
    first = bytes.fromhex(orjson.loads((home / "store/refs/current").read_bytes())["release"])
    await fetch([scripted.url], home, address)
    assert (await fetch([scripted.url], home, first)).release.version == 1


async def test_two_releases_of_one_version_are_refused(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    address = AddressReference(author=key.pubkey, name="demo")
    async with scripted_relay() as other:
        await publish([scripted.url], tmp_path / "a", key, tiny_sources(seed=1))
        await publish([other.url], tmp_path / "b", key, tiny_sources(seed=2))
        with pytest.raises(Equivocation):
            await fetch([scripted.url, other.url], tmp_path / "victim", address)
        assert visible(tmp_path / "victim") == {}
        await fetch([scripted.url], tmp_path / "victim", address)
        before = visible(tmp_path / "victim")
        with pytest.raises(Equivocation):
            await fetch([other.url], tmp_path / "victim", address)
        assert visible(tmp_path / "victim") == before


async def test_untrusted_author_is_refused_before_any_chunk(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path / "a", stranger, tiny_sources())
    scripted.requests.clear()
    policy = TrustPolicy(mode="allowlist", authors=frozenset({key.pubkey}))
    with pytest.raises(NotTrusted, match="npub1"):
        await fetch([scripted.url], tmp_path / "b", published.release.id, policy=policy)
    assert [wanted["ids"] for wanted in scripted.requests] == [[published.release.id.hex()]]
    address = AddressReference(author=stranger.pubkey, name="demo")
    with pytest.raises(NotTrusted):
        await fetch([scripted.url], tmp_path / "b", address, policy=policy)
    assert len(scripted.requests) == 1
    assert visible(tmp_path / "b") == {}


def announce(scripted: ScriptedRelay, key: SecretKey, manifest: bytes, **changes: Any) -> Event:  # noqa: ANN401
    """Publish a release with any manifest, properly signed, as a malicious author can."""
    now = clock()
    chunk = chunk_draft(manifest, sha256=hashlib.sha256(manifest).digest(), created_at=now).sign(key)
    facts: dict[str, Any] = {
        "name": "demo",
        "version": 1,
        "format": "RGPT0003",
        "size": 1000,
        "card": {},
        "hint": "",
    } | changes
    release = release_draft(manifest, [chunk.id], created_at=now, **facts).sign(key)
    for event in (chunk, release):
        scripted.events[event.id.hex()] = orjson.loads(event.to_json())
    return release


async def test_oversized_release_is_refused_before_its_manifest(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    release = announce(scripted, key, b"\x80", size=10**13)
    with pytest.raises(TooLarge, match="limit"):
        await fetch([scripted.url], tmp_path, release.id)
    assert len(scripted.requests) == 1
    assert visible(tmp_path) == {}


@pytest.mark.parametrize("manifest", [b"", b"\xc1", b"\x93" * 4000, b"\x80", orjson.dumps({"v": 1})])
async def test_malformed_manifest_is_refused(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, manifest: bytes
) -> None:
    release = announce(scripted, key, manifest)
    with pytest.raises(InvalidManifest):
        await fetch([scripted.url], tmp_path, release.id)
    assert visible(tmp_path) == {}


async def test_manifest_of_another_size_is_refused(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    honest = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    release = announce(scripted, key, honest.manifest.encode(), size=honest.manifest.size + 1, version=2)
    with pytest.raises(InvalidManifest, match="add up"):
        await fetch([scripted.url], tmp_path / "b", release.id)
    assert visible(tmp_path / "b") == {}


async def test_valid_chunks_of_another_file_are_refused(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    honest = (await publish([scripted.url], tmp_path / "a", key, tiny_sources())).manifest
    raw = honest.files[0]
    lying = type(raw)(**{name: getattr(raw, name) for name in raw.__slots__} | {"sha256": bytes(32)})
    manifest = Manifest(files=(lying, *honest.files[1:]))
    release = announce(scripted, key, manifest.encode(), size=manifest.size, version=2)
    with pytest.raises(InvalidManifest, match="the file that they make"):
        await fetch([scripted.url], tmp_path / "b", release.id)
    assert not any("releases" in path or "refs" in path for path in visible(tmp_path / "b"))


async def test_manifest_chunk_by_another_author_is_refused(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey
) -> None:
    honest = (await publish([scripted.url], tmp_path / "a", key, tiny_sources())).manifest
    encoded = honest.encode()
    chunk = chunk_draft(encoded, sha256=hashlib.sha256(encoded).digest(), created_at=clock()).sign(stranger)
    scripted.events[chunk.id.hex()] = orjson.loads(chunk.to_json())
    release = release_draft(
        encoded,
        [chunk.id],
        name="demo",
        version=2,
        format="RGPT0003",
        size=honest.size,
        card={},
        hint="",
        created_at=clock(),
    ).sign(key)
    scripted.events[release.id.hex()] = orjson.loads(release.to_json())
    with pytest.raises(InvalidManifest, match="signed by the author of the release"):
        await fetch([scripted.url], tmp_path / "b", release.id)


async def test_release_from_the_future_is_refused(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    scripted.clock_offset_s = 2000
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources(), now=lambda: clock() + 2000)
    with pytest.raises(InvalidRelease, match="future"):
        await fetch([scripted.url], tmp_path / "b", published.release.id)


async def test_flood_of_junk_is_cut_off(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    junk = orjson.loads(chunk_draft(b"x", sha256=bytes(32), created_at=1).sign(key).to_json())
    scripted.junk = [junk | {"id": f"{number:064x}"} for number in range(MAX_UNSOLICITED + 1)]
    with pytest.raises(TransportError, match="unsolicited"):
        await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert visible(tmp_path / "b") == {}


async def test_copied_release_parses_equal(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    published = await publish([scripted.url], tmp_path, key, tiny_sources())
    raw = scripted.events[published.release.id.hex()]
    assert Release.parse(Event.parse(raw), now=clock()) == published.release


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(("number", "segment"), [(0, 0), (0, 1), (1, 0)])
async def test_wrong_segment_hash_is_refused(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, number: int, segment: int, *, stored: bool
) -> None:
    honest = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    manifest = honest.manifest
    if stored:
        await fetch([scripted.url], tmp_path / "b", honest.release.id)
    before = visible(tmp_path / "b")
    file = manifest.files[number]
    segments = [replace(each, sha256=bytes(32)) if at == segment else each for at, each in enumerate(file.segments)]
    files = [replace(each, segments=tuple(segments)) if each is file else each for each in manifest.files]
    release = announce(scripted, key, Manifest(files=tuple(files)).encode(), size=manifest.size, version=2)
    with pytest.raises(InvalidManifest, match=f"segment {file.segments[segment].name} does not"):
        await fetch([scripted.url], tmp_path / "b", release.id)
    after = visible(tmp_path / "b")
    assert not [path for path in after.keys() - before.keys() if "blobs" not in path]
    assert before.items() <= after.items()
