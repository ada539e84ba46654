"""`randygpt serve --follow`: one process that fetches each new version and serves it."""

import asyncio
import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.blossom import blob_server
from support.command import TIMEOUT_S, background, only_line
from support.models import write_tiny
from support.releases import publish, tiny_sources

from distribution.store import Store
from randygpt.cli.main import run
from randygpt.user.home import Home
from relay_client.keys import SecretKey
from relay_client.local_relay import LocalRelay
from relay_client.nip19 import encode_npub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


class Client:
    """A client of one server."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._address = address

    async def complete(self) -> tuple[int, str | None]:
        """Return the status and the release that answered."""
        async with self._session.post(self._address, json={"prompt": "the", "max_tokens": 3}) as response:
            return response.status, response.headers.get("X-Release")

    async def until(self, condition: Callable[[dict[str, Any]], object]) -> None:
        """Wait until the server's facts satisfy a condition."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                async with self._session.get(f"{self._address}/provenance") as response:
                    if condition(await response.json()):
                        return
                await asyncio.sleep(0.05)


def serves(facts: dict[str, Any], *, version: int) -> bool:
    return (facts["release"] or {}).get("version") == version


@pytest.mark.full
async def test_serve_follow_swaps_and_survives_relay_outage(
    tmp_path: Path, home: Path, key: SecretKey, free_port: int
) -> None:
    author, url = tmp_path / "author", f"ws://127.0.0.1:{free_port}"
    words = ("--follow", f"{encode_npub(key.pubkey)}/demo", "--relay", url, "--port", "0", "--json")
    with background(home, "serve", *words) as (process, line):
        async with aiohttp.ClientSession() as session:
            client = Client(session, json.loads(line)["address"])
            assert await client.complete() == (503, None)
            async with LocalRelay(port=free_port):
                release = None
                for version in (1, 2):
                    release = (await publish([url], author, key, tiny_sources(seed=version))).release
                    await client.until(partial(serves, version=version))
                    assert await client.complete() == (200, release.id.hex())
                await client.until(lambda told: told["followed"][0]["relays"][0]["connected"])
            await client.until(lambda told: not told["followed"][0]["relays"][0]["connected"])
            assert release
            assert await client.complete() == (200, release.id.hex())
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=TIMEOUT_S) == 143
    [status] = json.loads(Home(home).follow_path.read_bytes()).values()
    assert (status["running"], status["version"], status["last_install"]["version"]) == (False, 2, 2)


@pytest.mark.full
async def test_serve_follow_installs_from_a_server(relay: str, tmp_path: Path, home: Path, key: SecretKey) -> None:
    words = ("--follow", f"{encode_npub(key.pubkey)}/demo", "--relay", relay, "--port", "0", "--json")
    async with blob_server(tmp_path / "blobs") as origin:
        Home(home).write_servers([origin])
        with background(home, "serve", *words) as (_, line):
            async with aiohttp.ClientSession() as session:
                client = Client(session, json.loads(line)["address"])
                for version in (1, 2):
                    files = tiny_sources(seed=version)
                    sent = await publish([relay], tmp_path / "author", key, files, servers=[origin], send_chunks=False)
                    await client.until(partial(serves, version=version))
                    assert await client.complete() == (200, sent.release.id.hex())


@pytest.mark.full
async def test_serve_follow_skips_oversized_release(relay: str, tmp_path: Path, home: Path, key: SecretKey) -> None:
    await publish([relay], tmp_path / "author", key, tiny_sources())
    words = ("--follow", f"{encode_npub(key.pubkey)}/demo", "--relay", relay, "--port", "0", "--max-size", "1000")
    with background(home, "serve", *words) as (_, address):
        async with aiohttp.ClientSession() as session:
            client = Client(session, address)
            await client.until(lambda told: told["followed"] and told["followed"][0]["relays"][0]["connected"])
            async with asyncio.timeout(TIMEOUT_S):
                while not Store(home).seen_versions.seen(key.pubkey, "demo").highest:  # noqa: ASYNC110 (another process)
                    await asyncio.sleep(0.05)
            assert await client.complete() == (503, None)
    assert not (home / "store" / "releases").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--follow", "{npub}/demo", "--relay", "ws://127.0.0.1:1"], 3, "not trusted"),
        (["--follow", "{npub}/demo", "--model", "m.bin"], 2, "--follow cannot be combined"),
        (["--follow", "{npub}/demo", "--checkpoint", "m"], 2, "--follow cannot be combined"),
        (["--follow", "{npub}/demo"], 2, "no relay"),
        (["--follow", "{npub}", "--relay", "ws://127.0.0.1:1"], 2, "npub…/name"),
        (["--follow", "{npub}/demo", "--max-size", "much"], 2, "not a size in bytes"),
        (["--relay", "ws://127.0.0.1:1"], 2, "--relay requires --follow"),
    ],
)
def test_invalid_follow_is_refused_before_serving(
    at_home: Path, capsys: pytest.CaptureFixture[str], key: SecretKey, words: list[str], code: int, said: str
) -> None:
    write_tiny(at_home / "m.bin")
    assert run(["trust", "policy", "allowlist"]) == 0
    if code != 3:
        assert run(["trust", "add", encode_npub(key.pubkey), "alice"]) == 0
    capsys.readouterr()
    assert run(["serve", "--port", "0", *(word.format(npub=encode_npub(key.pubkey)) for word in words)]) == code
    shown = capsys.readouterr()
    assert (shown.out, said in only_line(shown.err)) == ("", True), shown.err
    assert not (at_home / "store").exists()
