"""Uploads to Blossom servers during a publish: their signatures, and their order with the rest of it."""

import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.blossom import FAST, cut_small_files
from support.blossom_server import Answer, Asked, BlossomServer, blossom_server
from support.releases import clock, many_sources, publish
from support.scripted_relay import ScriptedRelay

from distribution import plan as plan_module
from distribution.errors import CallerError
from distribution.revocation import revocation_draft
from relay_client.keys import SecretKey


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small_files(monkeypatch)


@pytest.fixture
async def server() -> AsyncIterator[BlossomServer]:
    async with blossom_server() as running:
        yield running


async def test_two_signatures_serve_all_blobs_and_servers(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey
) -> None:
    async with blossom_server() as other:
        servers = [server, other]
        urls = [each.url for each in servers]
        published = await publish(
            [scripted.url], tmp_path, key, many_sources(11), servers=urls, send_chunks=False, timeouts=FAST
        )
        tokens = {asked.headers["authorization"] for each in servers for asked in each.asked if asked.method == "PUT"}
    assert len(tokens) == 2  # one for the files, one for the manifest
    assert published.events == 3  # the manifest, the release and the head


async def test_files_are_uploaded_while_events_are_planned(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded, real = threading.Event(), plan_module.make_plan

    def note_upload(asked: Asked) -> Answer | None:
        if asked.method == "PUT":
            uploaded.set()
        return None

    def plan_after_upload(*arguments: object, **named: object) -> plan_module.Plan:
        assert uploaded.wait(timeout=10)
        return real(*arguments, **named)  # type: ignore[arg-type]

    server.script = note_upload
    monkeypatch.setattr("distribution.publish.make_plan", plan_after_upload)
    published = await publish([scripted.url], tmp_path, key, many_sources(11), servers=[server.url], timeouts=FAST)
    assert published.release.manifest_sha256.hex() in server.blobs


async def test_nothing_of_a_revoked_release_is_uploaded(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey
) -> None:
    first = await publish([scripted.url], tmp_path, key, many_sources(3), servers=[server.url], timeouts=FAST)
    draft = revocation_draft(first.release.id, reason="", created_at=clock())
    event = draft.sign(key)
    scripted.events[event.id.hex()] = json.loads(event.to_json())
    server.blobs.clear()
    with pytest.raises(CallerError, match="is revoked"):
        await publish([scripted.url], tmp_path, key, many_sources(3), servers=[server.url], timeouts=FAST)
    assert server.blobs == {}


async def test_card_that_is_too_long_uploads_nothing(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey
) -> None:
    card = {"note": "x" * 70_000}
    with pytest.raises(CallerError, match="the card is too long"):
        await publish([scripted.url], tmp_path, key, many_sources(3), servers=[server.url], card=card, timeouts=FAST)
    assert server.count("PUT") == 0
