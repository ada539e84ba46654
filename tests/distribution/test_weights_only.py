"""Fetching the weights only: fewer bytes, a valid checkpoint, completed by a later fetch."""

from pathlib import Path

import orjson
import pytest
from support.models import CONFIG, has_weights, tiny_checkpoint
from support.releases import WEIGHTS_ONLY, checkpoint_bytes, fetch, publish, source, tiny_sources, visible
from support.scripted_relay import ScriptedRelay

from distribution.errors import ChunksMissing, TooLarge
from distribution.publish import Published
from distribution.store import Store
from randygpt.checkpoint.header import weights_size
from relay_client.keys import SecretKey
from server.models import load_release

WEIGHTS = weights_size(CONFIG)


@pytest.fixture
async def published(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> Published:
    done = await publish([scripted.url], tmp_path / "author", key, tiny_sources())
    scripted.requests.clear()
    return done


def chunks_asked(scripted: ScriptedRelay, published: Published) -> set[str]:
    """Return the ids of requested file chunks."""
    chunks = {chunk.event_id.hex() for file in published.manifest.files for chunk in file.chunks(46_080)}
    return chunks & {event_id for wanted in scripted.requests for event_id in wanted.get("ids", [])}


async def test_optimizer_chunks_are_not_requested(
    scripted: ScriptedRelay, tmp_path: Path, published: Published
) -> None:
    fetched = await fetch([scripted.url], tmp_path, published.release.id, weights=WEIGHTS_ONLY)
    checkpoint, *side = published.manifest.files
    weights = checkpoint.first_segment(46_080)
    assert chunks_asked(scripted, published) == {
        chunk.event_id.hex() for file in (weights, *side) for chunk in file.chunks(46_080)
    }
    assert weights.size == WEIGHTS <= 0.34 * checkpoint.size
    assert (fetched.chunks.fetched, fetched.release.partial) == (3, True)


async def test_installed_weights_are_a_valid_checkpoint(
    scripted: ScriptedRelay, tmp_path: Path, published: Published
) -> None:
    fetched = await fetch([scripted.url], tmp_path, published.release.id, weights=WEIGHTS_ONLY)
    local = fetched.release.file("checkpoint").local_path
    assert local.read_bytes() == b"RGPT0002" + checkpoint_bytes()[8:WEIGHTS]
    assert local.stat().st_mode & 0o222 == 0
    installed = Store(tmp_path).release(published.release.id)
    assert installed == fetched.release
    assert has_weights(load_release(installed).language_model.decoder, tiny_checkpoint().weights)
    record = orjson.loads((fetched.release.folder / "release.json").read_bytes())
    assert record["partial"] is True


async def test_installed_weights_restore_the_signed_segment(
    scripted: ScriptedRelay, tmp_path: Path, published: Published
) -> None:
    fetched = await fetch([scripted.url], tmp_path, published.release.id, weights=WEIGHTS_ONLY)
    file, store = fetched.release.file("checkpoint"), Store(tmp_path)
    assert file.original is not None
    assert file.original.sha256 == published.manifest.files[0].segments[0].sha256
    assert file.original.start == b"RGPT0003"
    assert store.is_intact(fetched.release)
    file.local_path.chmod(0o644)
    file.local_path.write_bytes(b"RGPT0001" + file.local_path.read_bytes()[8:])  # neither signed nor rewritten
    assert not store.is_intact(fetched.release)


async def test_full_fetch_downloads_only_the_rest(
    scripted: ScriptedRelay, tmp_path: Path, published: Published
) -> None:
    await fetch([scripted.url], tmp_path, published.release.id, weights=WEIGHTS_ONLY)
    scripted.requests.clear()
    full = await fetch([scripted.url], tmp_path, published.release.id)
    optimiser = [chunk for chunk in published.manifest.files[0].chunks(46_080) if chunk.offset >= WEIGHTS]
    assert chunks_asked(scripted, published) == {chunk.event_id.hex() for chunk in optimiser}
    assert (full.chunks.fetched, full.chunks.reused, full.release.partial) == (2, 3, False)
    assert full.release.file("checkpoint").local_path.read_bytes() == checkpoint_bytes()
    assert Store(tmp_path).is_intact(full.release)
    assert Store(tmp_path).release(published.release.id) == full.release


async def test_weights_stay_until_the_fetch_completes(
    scripted: ScriptedRelay, tmp_path: Path, published: Published
) -> None:
    await fetch([scripted.url], tmp_path, published.release.id, weights=WEIGHTS_ONLY)
    before = visible(tmp_path)
    last = list(published.manifest.files[0].chunks(46_080))[-1]
    scripted.events.pop(last.event_id.hex())
    with pytest.raises(ChunksMissing, match="1 of 5 chunks"):
        await fetch([scripted.url], tmp_path, published.release.id)
    assert visible(tmp_path) == before


async def test_complete_release_stays_complete(scripted: ScriptedRelay, tmp_path: Path, published: Published) -> None:
    await fetch([scripted.url], tmp_path, published.release.id)
    before = visible(tmp_path)
    again = await fetch([scripted.url], tmp_path, published.release.id, weights=WEIGHTS_ONLY)
    assert (again.chunks.fetched, again.release.partial) == (0, False)
    assert visible(tmp_path) == before


async def test_second_weights_only_fetch_requests_nothing(
    scripted: ScriptedRelay, tmp_path: Path, published: Published
) -> None:
    await fetch([scripted.url], tmp_path, published.release.id, weights=WEIGHTS_ONLY)
    scripted.requests.clear()
    again = await fetch([scripted.url], tmp_path, published.release.id, weights=WEIGHTS_ONLY)
    assert chunks_asked(scripted, published) == set()
    assert (again.chunks.reused, again.release.partial) == (3, True)


async def test_damaged_header_is_repaired_with_one_chunk(
    scripted: ScriptedRelay, tmp_path: Path, published: Published
) -> None:
    first = await fetch([scripted.url], tmp_path, published.release.id, weights=WEIGHTS_ONLY)
    local = first.release.file("checkpoint").local_path
    local.chmod(0o644)
    local.write_bytes(b"damage!!" + bytes(8) + local.read_bytes()[16:])
    again = await fetch([scripted.url], tmp_path, published.release.id, weights=WEIGHTS_ONLY)
    assert (again.chunks.fetched, again.chunks.reused) == (1, 2)
    assert local.read_bytes() == b"RGPT0002" + checkpoint_bytes()[8:WEIGHTS]


async def test_release_without_optimizer_is_fetched_unchanged(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    data = b"RGPT0002" + checkpoint_bytes()[8:WEIGHTS]
    files = [source("checkpoint.bin", "checkpoint", data, [("weights", WEIGHTS)]), *tiny_sources()[1:]]
    small = await publish([scripted.url], tmp_path / "a", key, files)
    fetched = await fetch([scripted.url], tmp_path / "b", small.release.id, weights=WEIGHTS_ONLY)
    assert not fetched.release.partial
    assert fetched.release.file("checkpoint").sha256 == small.manifest.files[0].sha256


async def test_size_limit_applies_to_the_weights(scripted: ScriptedRelay, tmp_path: Path, published: Published) -> None:
    checkpoint, *side = published.manifest.files
    needed = WEIGHTS + sum(file.size for file in side)
    with pytest.raises(TooLarge, match="--max-size"):
        await fetch([scripted.url], tmp_path, published.release.id, weights=WEIGHTS_ONLY, max_size=needed - 1)
    assert chunks_asked(scripted, published) == set()
    assert visible(tmp_path) == {}
    await fetch([scripted.url], tmp_path, published.release.id, weights=WEIGHTS_ONLY, max_size=needed)
    assert checkpoint.size > needed
