"""What a revocation takes along: file events (NIP-94), and versions on later pages of a relay."""

import itertools
import json
from pathlib import Path

import pytest
from support.releases import clock, publish, tiny_sources
from support.scripted_relay import ScriptedRelay

from distribution import published
from distribution.events import FILE_KIND, RELEASE_KIND
from distribution.revocation import REVOCATION_KIND
from distribution.revoke import Revoked, Revoker
from distribution.store import Store
from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip19 import EventReference
from relay_client.pool import Pool
from relay_client.timeouts import Timeouts


async def revoke(relay: ScriptedRelay, home: Path, key: SecretKey, release_id: bytes) -> Revoked:
    async with Pool([relay.url], timeouts=Timeouts(readable_first_s=0.001)) as pool:
        revoker = Revoker(pool=pool, versions=Store(home).seen_versions, key=key, now=clock)
        return await revoker.revoke(EventReference(id=release_id))


def add_file_event(relay: ScriptedRelay, signer: SecretKey, release_id: bytes) -> str:
    tags = (("url", "https://a.example/x.bin"), ("e", release_id.hex()))
    event = EventDraft(kind=FILE_KIND, created_at=clock(), tags=tags).sign(signer)
    relay.events[event.id.hex()] = json.loads(event.to_json())
    return event.id.hex()


def deletions(relay: ScriptedRelay) -> list[list[list[str]]]:
    return [event["tags"] for event in relay.events.values() if event["kind"] == REVOCATION_KIND]


async def test_revocation_names_the_file_events_of_the_release(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, stranger: SecretKey
) -> None:
    release = (await publish([scripted.url], tmp_path, key, tiny_sources())).release
    described = add_file_event(scripted, key, release.id)
    add_file_event(scripted, key, bytes(32))
    add_file_event(scripted, stranger, release.id)
    await revoke(scripted, tmp_path, key, release.id)
    expected = [["e", release.id.hex()], ["k", str(RELEASE_KIND)], ["e", described], ["k", str(FILE_KIND)]]
    assert deletions(scripted) == [expected]
    del scripted.events[described]
    assert (await revoke(scripted, tmp_path, key, release.id)).already
    assert deletions(scripted) == [expected]  # the first one was sent again


async def test_older_version_on_a_later_page_becomes_the_latest(
    scripted: ScriptedRelay, tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "_LEAST_CUT", 2)
    dates = itertools.count(clock() - 100)  # every event a second later
    releases = []
    for number, name in enumerate(["demo", "demo", "other", "other", "other"]):
        files = tiny_sources(seed=number)
        made = await publish([scripted.url], tmp_path / "author", key, files, name=name, now=dates.__next__)
        releases.append(made.release)
    scripted.most = 2
    revoked = await revoke(scripted, tmp_path / "elsewhere", key, releases[1].id)
    assert revoked.latest
    assert revoked.latest.id == releases[0].id
