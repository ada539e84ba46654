"""Fetches in separate processes: killed and rerun, concurrent, and the output of the command."""

import asyncio
import contextlib
import json
import os
import pty
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.blossom import blob_server
from support.command import environment, invoke, only_line
from support.proxy import proxy_to
from support.releases import checkpoint_bytes, publish, source, tiny_sources, visible
from support.scripted_relay import RawEvent, ScriptedRelay

from distribution.events import CHUNK_KIND
from distribution.publish import Published
from distribution.source import SourceFile
from randygpt.cli.flags import parse_size
from randygpt.errors import CallerError
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

GIVE_UP_S = 120  # a test that waits this long has failed
COUNT = 150  # chunks of the checkpoint; 152 with the two other files
DATA = random.Random(1).randbytes(COUNT * 46_080)  # noqa: S311 (no secret)
SLACK = 2 << 20  # bytes from a server that a killed process did not write: begun chunks, and buffers of the sockets
HEADERS = 20_000  # bytes of all responses but for their bodies
IN_FLIGHT = 2 * 50  # requests that are open at a time, events of each


def big_sources() -> list[SourceFile]:
    return [source("big.bin", "checkpoint", DATA, [("weights", len(DATA))]), *tiny_sources()[1:]]


@pytest.fixture
async def published(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> Published:
    return await publish([scripted.url], tmp_path / "author", key, big_sources())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


async def start(home: Path, *words: object, stderr: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "randygpt",
        *map(str, words),
        cwd=home,
        env=environment(home) | {"TERM": "xterm", "COLUMNS": "120"},
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )


async def finish(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    """Return (exit code, stdout, stderr)."""
    async with asyncio.timeout(GIVE_UP_S):
        out, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


async def run(home: Path, *words: object) -> tuple[int, str, str]:
    return await finish(await start(home, *words))


def checkpoint(result: dict[str, Any]) -> bytes:
    """Return the bytes of the checkpoint that a fetch installed."""
    return Path(result["files"][0]["local"]).read_bytes()


def is_chunk(published: Published, event: RawEvent) -> bool:
    return event["kind"] == CHUNK_KIND and bytes.fromhex(event["id"]) not in published.release.manifest_ids


def noting(published: Published, given: list[str]) -> Callable[[RawEvent], RawEvent]:
    """Return a delivery that records the ids of the chunks."""

    def deliver(event: RawEvent) -> RawEvent:
        if is_chunk(published, event):
            given.append(event["id"])
        return event

    return deliver


async def test_fetch_resumes_after_kill(scripted: ScriptedRelay, home: Path, published: Published) -> None:
    given: list[str] = []
    process = await start(home, "fetch", published.release.id.hex(), "--relay", scripted.url)

    def deliver(event: RawEvent) -> RawEvent:
        if is_chunk(published, event):
            given.append(event["id"])
            if len(given) == 140:
                process.kill()
        return event

    scripted.deliver = deliver
    code, _, _ = await finish(process)
    assert code == -9
    assert visible(home) == {}
    first, given[:] = set(given), []
    scripted.deliver = noting(published, given)
    code, out, _ = await run(home, "fetch", published.release.id.hex(), "--relay", scripted.url, "--json")
    fetched = json.loads(out)
    assert code == 0
    assert checkpoint(fetched) == DATA
    assert len(first & set(given)) <= IN_FLIGHT
    assert len(given) == fetched["chunks"]["fetched"] <= COUNT + 2 - 140 + IN_FLIGHT
    assert fetched["chunks"]["reused"] == COUNT + 2 - len(given)


@pytest.mark.full
async def test_killed_fetch_asks_servers_for_missing_bytes_only(
    scripted: ScriptedRelay, home: Path, tmp_path: Path, key: SecretKey
) -> None:
    async with blob_server(tmp_path / "blobs") as server:
        await publish([scripted.url], tmp_path / "author", key, big_sources(), servers=[server], send_chunks=False)
        words = ("fetch", f"{encode_npub(key.pubkey)}/demo", "--relay", scripted.url, "--json", "--server")
        async with proxy_to(server) as slow:
            slow.delay_s = 0.05  # before each block of 64 KiB or less
            process = await start(home, *words, slow.url)
            async with asyncio.timeout(GIVE_UP_S):
                while slow.passed < len(DATA) // 2:  # noqa: ASYNC110 (a number that the proxy counts up)
                    await asyncio.sleep(0.01)
            process.kill()
            assert (await finish(process))[0] == -9
            first = slow.passed
        assert visible(home) == {}
        async with proxy_to(server) as rest:
            code, out, errors = await run(home, *words, rest.url)
            assert code == 0, errors
            fetched = json.loads(out)
            assert checkpoint(fetched) == DATA
            count = fetched["servers"][rest.url]["bytes"]
            assert 0 < count <= len(DATA) - first + SLACK
            assert count <= rest.passed < count + HEADERS


@pytest.mark.full
async def test_concurrent_fetches_download_once(scripted: ScriptedRelay, home: Path, published: Published) -> None:
    given: list[str] = []
    both = asyncio.Event()  # have begun
    begun = 0

    async def before_answer(wanted: dict[str, list[str]]) -> None:
        nonlocal begun
        begun += wanted["ids"] == [published.release.id.hex()]
        if begun == 2:
            both.set()
        if any(is_chunk(published, scripted.events[event_id]) for event_id in wanted["ids"]):
            async with asyncio.timeout(GIVE_UP_S):
                await both.wait()

    scripted.before_answer = before_answer
    scripted.deliver = noting(published, given)
    words = ("fetch", published.release.id.hex(), "--relay", scripted.url, "--json")
    first, second = await asyncio.gather(run(home, *words), run(home, *words))
    assert (first[0], second[0]) == (0, 0)
    assert len(given) == len(set(given)) == COUNT + 2
    counts = [json.loads(out)["chunks"] for _, out, _ in (first, second)]
    assert sorted(count["fetched"] for count in counts) == [0, COUNT + 2]
    assert checkpoint(json.loads(second[1])) == DATA


@pytest.mark.full
async def test_terminal_progress_never_decreases(scripted: ScriptedRelay, home: Path, published: Published) -> None:
    shown, partly_shown = "", asyncio.Event()

    async def after_the_first_is_shown(wanted: dict[str, list[str]]) -> None:
        if (
            len(wanted.get("ids", [])) == 50
            and len([each for each in scripted.requests if each.get("limit") == 50]) > 1
        ):
            await partly_shown.wait()

    def read() -> None:
        nonlocal shown
        with contextlib.suppress(OSError):  # the other end is closed
            shown += os.read(master, 1 << 16).decode()
        if counts() and counts()[-1] > 0:
            partly_shown.set()

    def counts() -> list[float]:
        return [float(done) for done in re.findall(r"([0-9]+\.[0-9])/6\.9 MB", shown)]

    scripted.requests.clear()
    scripted.before_answer = after_the_first_is_shown
    master, slave = pty.openpty()
    asyncio.get_running_loop().add_reader(master, read)
    try:
        process = await start(home, "fetch", published.release.id.hex(), "--relay", scripted.url, stderr=slave)
        async with asyncio.timeout(GIVE_UP_S):
            out, _ = await process.communicate()
    finally:
        asyncio.get_running_loop().remove_reader(master)
        os.close(slave)
        read()
        os.close(master)
    assert process.returncode == 0
    assert out.decode().startswith("demo version 1, signed by npub1")
    assert counts() == sorted(counts())
    assert len(set(counts())) > 1
    assert counts()[-1] == round(published.release.size / 1e6, 1)


@pytest.mark.full
async def test_weights_only_fetch_is_completed_by_the_next(
    scripted: ScriptedRelay, home: Path, tmp_path: Path, key: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path / "tiny", key, tiny_sources())
    words = ("fetch", published.release.id.hex(), "--relay", scripted.url)
    code, out, _ = await run(home, *words, "--weights-only", "--json")
    fetched = json.loads(out)
    assert (code, fetched["partial"], fetched["chunks"]["fetched"]) == (0, True, 3)
    assert checkpoint(fetched)[:8] == b"RGPT0002"
    code, out, _ = await run(home, *words, "--weights-only")
    assert (code, "weights only" in out) == (0, True)
    code, out, _ = await run(home, *words, "--json")
    fetched = json.loads(out)
    assert (code, fetched["partial"], fetched["chunks"]["reused"]) == (0, False, 3)
    assert checkpoint(fetched) == checkpoint_bytes()


def test_lying_relay_is_named_and_fetch_succeeds(
    threaded_relay: ScriptedRelay, home: Path, tmp_path: Path, key: SecretKey
) -> None:
    published = asyncio.run(publish([threaded_relay.url], tmp_path / "author", key, tiny_sources()))
    lies: list[str] = []

    def deliver(event: RawEvent) -> RawEvent:
        if lies or not is_chunk(published, event):
            return event
        lies.append(event["id"])
        return event | {"content": "AAAA"}

    threaded_relay.deliver = deliver
    done = invoke(home, "fetch", published.release.id.hex(), "--relay", threaded_relay.url)
    named = f"{threaded_relay.url} sent data that failed verification"
    assert only_line(done.stderr) == f"{named}; others were preferred from then on"
    assert (done.returncode, "signed by npub1" in done.stdout) == (0, True)  # its lie was replaced by hash


def test_only_lying_relay_exits_3_and_installs_nothing(
    threaded_relay: ScriptedRelay, home: Path, tmp_path: Path, key: SecretKey
) -> None:
    published = asyncio.run(publish([threaded_relay.url], tmp_path / "author", key, tiny_sources()))
    first = next(published.manifest.files[0].chunks(46_080)).event_id.hex()
    threaded_relay.deliver = lambda event: event | {"content": "AAAA"} if event["id"] == first else event
    done = invoke(home, "fetch", published.release.id.hex(), "--relay", threaded_relay.url)
    assert (done.returncode, done.stdout) == (3, "")
    assert "1 of 5 chunks are missing or did not verify" in only_line(done.stderr)
    assert threaded_relay.url in done.stderr
    assert visible(home) == {}


@pytest.mark.full
async def test_oversized_release_exits_2_and_writes_nothing(
    scripted: ScriptedRelay, home: Path, published: Published
) -> None:
    scripted.requests.clear()
    words = ("fetch", published.release.id.hex(), "--relay", scripted.url, "--max-size")
    code, _, errors = await run(home, *words, "6M")
    assert (code, len(scripted.requests)) == (2, 1)  # the release, and not even its manifest
    assert f"{published.release.size:,} bytes to fetch, above the limit of 6,291,456" in only_line(errors)
    assert visible(home) == {}
    assert not (home / "store" / "partial").exists()
    assert (await run(home, *words, "7M"))[0] == 0


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("1000", 1_000), ("500M", 500 << 20), ("2G", 2 << 30), ("3kb", 3 << 10), ("1T", 1 << 40)],
)
def test_size_may_have_a_unit(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5G", "M", "1 000", "1X", "9" * 17])
def test_malformed_size_is_refused(text: str) -> None:
    with pytest.raises(CallerError, match="not a size in bytes"):
        parse_size(text)
