"""Publish and fetch over a real relay, and over scripted ones that are merely unreliable."""

import hashlib
from pathlib import Path

import orjson
import pytest
from support.releases import checkpoint_bytes, clock, fetch, publish, source, tiny_sources, visible
from support.scripted_relay import ScriptedRelay, scripted_relay

from distribution.errors import CallerError, ChunksMissing, NotFound, NotPublished
from distribution.events import HEAD_KIND, MAX_VERSION, RELEASE_KIND, Release, head_draft
from distribution.journal import Journal
from distribution.store import Store
from relay_client.errors import TransportError
from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference
from relay_client.timeouts import Timeouts


async def test_fetched_files_equal_published_files(relay: str, tmp_path: Path, key: SecretKey) -> None:
    published = await publish([relay], tmp_path / "a", key, tiny_sources())
    fetched = await fetch([relay], tmp_path / "b", published.release.id)
    local = fetched.release.file("checkpoint").local_path
    assert local.read_bytes() == checkpoint_bytes()
    assert hashlib.sha256(checkpoint_bytes()).digest() == published.manifest.files[0].sha256
    assert (fetched.chunks.fetched, fetched.chunks.reused, fetched.chunks.rejected) == (5, 0, 0)
    assert Store(tmp_path / "b").current() == published.release.id
    assert local.stat().st_mode & 0o222 == 0


async def test_name_resolves_to_the_latest_version(relay: str, tmp_path: Path, key: SecretKey) -> None:
    address = AddressReference(author=key.pubkey, name="demo")
    first = await publish([relay], tmp_path / "a", key, tiny_sources(seed=1))
    assert (await fetch([relay], tmp_path / "b", address)).release.id == first.release.id
    second = await publish([relay], tmp_path / "a", key, tiny_sources(seed=2))
    fetched = await fetch([relay], tmp_path / "b", address)
    assert (first.release.version, second.release.version) == (1, 2)
    assert (fetched.release.id, fetched.release.version) == (second.release.id, 2)
    assert fetched.chunks.reused == 2  # the vocabulary and the configuration did not change
    assert (tmp_path / "b/store/refs/previous").read_text() == f'{{"release":"{first.release.id.hex()}"}}'


async def test_same_files_again_send_nothing(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    first = await publish([scripted.url], tmp_path, key, tiny_sources())
    sent = len(scripted.received)
    again = await publish([scripted.url], tmp_path, key, tiny_sources())
    assert again.release.id == first.release.id
    assert len(scripted.received) == sent
    report = again.relays[scripted.url]
    assert (report.accepted, report.duplicate, report.refused) == (0, first.events, 0)
    assert first.relays[scripted.url].accepted == first.events == sent


async def test_rerun_sends_what_a_relay_lost(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    first = await publish([scripted.url], tmp_path, key, tiny_sources())
    lost = scripted.received[1:3]
    for event_id in lost:
        del scripted.events[event_id]
    scripted.received.clear()
    again = await publish([scripted.url], tmp_path, key, tiny_sources())
    assert again.release.id == first.release.id
    assert scripted.received == lost


async def test_second_machine_continues_the_versions(relay: str, tmp_path: Path, key: SecretKey) -> None:
    await publish([relay], tmp_path / "laptop", key, tiny_sources(seed=1))
    second = await publish([relay], tmp_path / "desktop", key, tiny_sources(seed=2))
    assert second.release.version == 2


async def test_publish_after_the_last_version_is_refused(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    first = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    made = first.release.event
    tags = tuple(("version", str(MAX_VERSION)) if tag[0] == "version" else tag for tag in made.tags)
    event = EventDraft(kind=made.kind, created_at=made.created_at, tags=tags, content=made.content).sign(key)
    head = head_draft(Release.parse(event, now=clock()), hint="", created_at=clock()).sign(key)
    scripted.events |= {each.id.hex(): orjson.loads(each.to_json()) for each in (event, head)}
    scripted.received.clear()
    with pytest.raises(CallerError, match="last version"):
        await publish([scripted.url], tmp_path / "b", key, tiny_sources(seed=1))
    assert scripted.received == []


async def test_last_version_in_the_journal_counts(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    with Journal(tmp_path / "state" / "journal.sqlite") as journal:
        journal.begin(key.pubkey, "demo", bytes(32), above=2**31 - 2, created_at=clock(), card={}, hint=scripted.url)
    with pytest.raises(CallerError, match="last version"):  # known to this machine, and on no relay yet
        await publish([scripted.url], tmp_path, key, tiny_sources())
    assert scripted.received == []


async def test_new_version_of_the_same_files(relay: str, tmp_path: Path, key: SecretKey) -> None:
    first = await publish([relay], tmp_path, key, tiny_sources())
    second = await publish([relay], tmp_path, key, tiny_sources(), new_version=True)
    assert (second.release.version, second.release.id != first.release.id) == (2, True)


async def test_republishing_an_old_version_keeps_the_head(relay: str, tmp_path: Path, key: SecretKey) -> None:
    await publish([relay], tmp_path / "a", key, tiny_sources(seed=1))
    second = await publish([relay], tmp_path / "a", key, tiny_sources(seed=2))
    await publish([relay], tmp_path / "a", key, tiny_sources(seed=1))
    fetched = await fetch([relay], tmp_path / "b", AddressReference(author=key.pubkey, name="demo"))
    assert fetched.release.id == second.release.id


async def test_equal_chunks_are_sent_once(relay: str, tmp_path: Path, key: SecretKey) -> None:
    data = bytes(46_080 * 3)
    files = [source("zeros.bin", "checkpoint", data, [("weights", len(data))]), *tiny_sources()[1:]]
    published = await publish([relay], tmp_path / "a", key, files)
    assert published.events == 1 + 2 + 1 + 1 + 1  # chunk, side files, manifest, release, head
    fetched = await fetch([relay], tmp_path / "b", published.release.id)
    assert fetched.release.file("checkpoint").local_path.read_bytes() == data


async def test_head_is_sent_last(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    await publish([scripted.url], tmp_path, key, tiny_sources())
    kinds = [scripted.events[event_id]["kind"] for event_id in scripted.received]
    assert kinds[-2:] == [RELEASE_KIND, HEAD_KIND]
    assert set(kinds[:-2]) == {1064}


async def test_no_head_if_a_chunk_was_refused(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    scripted.accept = lambda _: (len(scripted.received) < 3, "blocked: no models here")
    with pytest.raises(NotPublished, match="no models here"):
        await publish([scripted.url], tmp_path, key, tiny_sources())
    assert all(event["kind"] == 1064 for event in scripted.events.values())


async def test_no_head_if_the_relay_forgets(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    scripted.keep = False
    with pytest.raises(NotPublished, match="accepted 5 chunks twice and does not return 5 of them"):
        await publish([scripted.url], tmp_path, key, tiny_sources(), timeouts=Timeouts(readable_first_s=0.001))
    assert len(scripted.received) == 2 * (3 + 2) + 1 + 1


async def test_one_good_relay_is_enough_to_publish(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    async with scripted_relay() as good:
        scripted.accept = lambda _: (False, "blocked: go away")
        dead = "ws://127.0.0.1:1"
        published = await publish([scripted.url, dead, good.url], tmp_path, key, tiny_sources())
        assert published.relays[good.url].accepted == published.events
        assert "go away" in published.relays[scripted.url].reason
        assert published.relays[scripted.url].refused >= 1
        assert published.relays[dead].reason


async def test_fetch_combines_two_half_relays(tmp_path: Path, key: SecretKey) -> None:
    async with scripted_relay() as left, scripted_relay() as right:
        published = await publish([left.url, right.url], tmp_path / "a", key, tiny_sources())
        for number, event_id in enumerate(left.received[:4]):
            del (left, right)[number % 2].events[event_id]
        fetched = await fetch([left.url, right.url], tmp_path / "b", published.release.id)
        assert fetched.chunks.fetched == 5


async def test_fetch_resumes_where_the_last_stopped(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    withheld = scripted.received[2]
    event = scripted.events.pop(withheld)
    with pytest.raises(ChunksMissing, match="1 of 5 chunks"):
        await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert visible(tmp_path / "b") == {}
    scripted.events[withheld] = event
    fetched = await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert (fetched.chunks.fetched, fetched.chunks.reused) == (1, 4)
    assert fetched.release.file("checkpoint").local_path.read_bytes() == checkpoint_bytes()
    assert list((tmp_path / "b/store/partial").iterdir()) == []


async def test_chunks_in_a_part_file_are_verified(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    event = scripted.events.pop(scripted.received[2])
    with pytest.raises(ChunksMissing):
        await fetch([scripted.url], tmp_path / "b", published.release.id)
    (part,) = (path for path in (tmp_path / "b/store/partial").iterdir() if path.stat().st_size > 46_080)
    with part.open("r+b") as file:
        file.write(b"damage")
    scripted.events[event["id"]] = event
    fetched = await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert fetched.chunks.fetched == 2
    assert fetched.release.file("checkpoint").local_path.read_bytes() == checkpoint_bytes()


async def test_second_fetch_transfers_nothing(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    await fetch([scripted.url], tmp_path / "b", published.release.id)
    before = visible(tmp_path / "b")
    again = await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert (again.chunks.fetched, again.chunks.reused) == (0, 5)
    assert visible(tmp_path / "b") == before


async def test_damaged_release_is_fetched_again(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    published = await publish([scripted.url], tmp_path / "a", key, tiny_sources())
    first = await fetch([scripted.url], tmp_path / "b", published.release.id)
    local = first.release.file("checkpoint").local_path
    local.chmod(0o644)
    local.write_bytes(b"damage")  # the blob too: they are one file
    (tmp_path / "b/store/refs/current").write_bytes(b"damage")
    again = await fetch([scripted.url], tmp_path / "b", published.release.id)
    assert (again.chunks.fetched, again.chunks.reused) == (3, 2)
    assert again.release.file("checkpoint").local_path.read_bytes() == checkpoint_bytes()
    assert Store(tmp_path / "b").current() == published.release.id
    assert [path.name for path in (tmp_path / "b/store/releases").iterdir()] == [published.release.id.hex()]


async def test_requests_are_small_and_limited(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    data = b"".join(bytes([n]) * 46_080 for n in range(120))
    files = [source("big.bin", "checkpoint", data, [("weights", len(data))]), *tiny_sources()[1:]]
    published = await publish([scripted.url], tmp_path / "a", key, files)
    await fetch([scripted.url], tmp_path / "b", published.release.id)
    by_id = [wanted for wanted in scripted.requests if "ids" in wanted]
    assert max(len(wanted["ids"]) for wanted in by_id) == 50
    assert all(wanted["limit"] == len(wanted["ids"]) for wanted in by_id)


async def test_unknown_id_and_name_are_not_found(relay: str, tmp_path: Path, key: SecretKey) -> None:
    with pytest.raises(NotFound):
        await fetch([relay], tmp_path, bytes(32))
    with pytest.raises(NotFound):
        await fetch([relay], tmp_path, AddressReference(author=key.pubkey, name="nothing"))


async def test_unreachable_relays_are_reported(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match=r"no relay can be reached: ws://127\.0\.0\.1:1: Connect"):
        await fetch(["ws://127.0.0.1:1"], tmp_path, bytes(32))


@pytest.mark.parametrize("name", ["", "Demo", "../demo", "a" * 65, "a/b", "-x"])
async def test_invalid_name_publishes_nothing(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, name: str
) -> None:
    with pytest.raises(CallerError, match="name"):
        await publish([scripted.url], tmp_path, key, tiny_sources(), name=name)
    assert scripted.received == []


async def test_file_changed_during_publish_is_refused(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(checkpoint_bytes(seed=1))
    sources = tiny_sources(seed=1)
    with path.open("rb") as file:
        changing = source(sources[0].path, "checkpoint", b"x", sources[0].segments)
        object.__setattr__(changing, "file", file)

        def overwrite(_event: object) -> tuple[bool, str]:
            path.write_bytes(checkpoint_bytes(seed=2))
            return True, ""

        scripted.accept = overwrite
        with pytest.raises(CallerError, match="changed"):
            await publish([scripted.url], tmp_path / "a", key, [changing, *sources[1:]])
    assert RELEASE_KIND not in {event["kind"] for event in scripted.events.values()}
