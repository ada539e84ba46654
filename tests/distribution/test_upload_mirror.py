"""Uploads that servers copy from another server instead (BUD-04)."""

import hashlib
import time
from collections.abc import AsyncIterator

import orjson
import pytest
from support.blossom import FAST
from support.blossom_server import Answer, Asked, BlossomServer, blossom_server

from distribution.upload import LocalBlob, ServerReport, Uploader
from relay_client.keys import SecretKey

SOURCE = "https://source.example"
CONTENTS = [bytes([number]) * 1_000 for number in range(5)]


def local(data: bytes) -> LocalBlob:
    return LocalBlob(
        sha256=hashlib.sha256(data).digest(), size=len(data), read=lambda start, size: data[start : start + size]
    )


@pytest.fixture
async def server() -> AsyncIterator[BlossomServer]:
    async with blossom_server() as running:
        yield running


async def upload(server: BlossomServer) -> ServerReport:
    signer = SecretKey.generate()
    async with Uploader(
        [server.url], signer=signer, now=lambda: int(time.time()), sources=[SOURCE], timeouts=FAST
    ) as uploader:
        await uploader.upload([local(data) for data in CONTENTS])
        return uploader.reports[server.url]


def requests(server: BlossomServer, path: str) -> list[Asked]:
    return [asked for asked in server.asked if asked.method == "PUT" and asked.path == path]


async def test_server_copies_from_the_source(server: BlossomServer) -> None:
    elsewhere = {hashlib.sha256(data).hexdigest(): data for data in CONTENTS}

    def mirror(asked: Asked) -> Answer | None:
        if asked.path != "/mirror":
            return None
        source, _, name = orjson.loads(asked.body)["url"].rpartition("/")
        assert source == SOURCE
        server.add(elsewhere[name])
        return Answer(status=201, body=orjson.dumps({"sha256": name, "size": len(elsewhere[name])}))

    server.script = mirror
    report = await upload(server)
    assert (report.mirrored, report.uploaded, report.bytes, report.reason) == (5, 0, 0, "")
    assert requests(server, "/upload") == []


@pytest.mark.parametrize("answer", [Answer(status=404), Answer(status=502), Answer(status=200)])
async def test_server_that_cannot_copy_gets_an_upload(
    server: BlossomServer, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay_client.blossom.client._CONFIRM_WAIT_S", 0.001)
    server.script = lambda asked: answer if asked.path == "/mirror" else None
    report = await upload(server)
    assert (report.mirrored, report.uploaded, report.reason) == (0, 5, "")
    assert len(requests(server, "/mirror")) <= 2  # one for each upload at a time


async def test_copy_that_cannot_be_read_back_is_uploaded(
    server: BlossomServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distribution.upload._READ_WAIT_S", 0.001)

    def claim(asked: Asked) -> Answer | None:
        if asked.path != "/mirror":
            return None
        name = orjson.loads(asked.body)["url"][-64:]
        return Answer(status=201, body=orjson.dumps({"sha256": name, "size": 1_000}))

    server.script = claim  # and stores nothing
    report = await upload(server)
    assert (report.mirrored, report.uploaded, report.reason) == (0, 5, "")
