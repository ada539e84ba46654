"""Releases as files of events, carried by other programs: nostr-tools and a relay's own import and export."""

import asyncio
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.command import TIMEOUT_S, invoke, invoke_with_input, randygpt
from support.relays import NPM_MODULES, PYTHON_RELAY, find_free_port, python_relay, running_relay

from distribution.store import Store
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

pytestmark = pytest.mark.full
PAGE = Path(__file__).parents[3] / "docs" / "distribution.md"
SCRIPTS = dict(re.findall(r"^```js\n// (\w+\.mjs)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))


@pytest.fixture
def written(author: Path) -> Path:
    """A file with the events of a release."""
    done = invoke(author, "publish", "checkpoint_best.bin", "--out", "release.jsonl", "--quiet")
    assert done.returncode == 0, done.stderr
    return author / "release.jsonl"


@pytest.fixture
def make_home(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    return make


def checkpoint(home: Path) -> bytes:
    store = Store(home)
    current = store.current()
    installed = store.release(current) if current else None
    assert installed
    return installed.file("checkpoint").local_path.read_bytes()


def run(command: Sequence[object], stdin: bytes = b"") -> bytes:
    done = subprocess.run([*map(str, command)], input=stdin, capture_output=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_page_has_both_scripts() -> None:
    lines = {name: len([line for line in text.splitlines() if line]) for name, text in SCRIPTS.items()}
    assert set(lines) == {"send.mjs", "receive.mjs"}
    assert max(lines.values()) <= 10


@pytest.mark.parametrize("name", ["embedded, memory", "npm, sqlite"])
def test_nostr_tools_carries_a_release(
    name: str, author: Path, written: Path, make_home: Callable[[str], Path], key: SecretKey
) -> None:
    scripts = make_home("scripts")
    (scripts / "node_modules").symlink_to(NPM_MODULES)
    for file, text in SCRIPTS.items():
        (scripts / file).write_text(text)
    friend, events = make_home("friend"), written.read_bytes()

    async def through_relay() -> bytes:
        async with running_relay(name, make_home("relay"), find_free_port()) as url:
            await asyncio.to_thread(run, ["node", scripts / "send.mjs", url], events)
            reference = f"{encode_npub(key.pubkey)}/demo"
            done = await asyncio.to_thread(randygpt, friend, "fetch", reference, "--relay", url)
            assert done.returncode == 0, done.stderr
            return await asyncio.to_thread(run, ["node", scripts / "receive.mjs", url, key.pubkey.hex()])

    received = asyncio.run(through_relay())
    other = make_home("other")
    done = invoke_with_input(other, received, "fetch", "--from", "-")
    assert done.returncode == 0, done.stderr
    assert checkpoint(other) == checkpoint(friend) == (author / "checkpoint_best.bin").read_bytes()


@pytest.mark.parametrize("storage", ["sqlite", "lmdb"])
def test_relay_imports_and_exports_a_release(
    storage: str, author: Path, written: Path, make_home: Callable[[str], Path], key: SecretKey
) -> None:
    folder, friend, other = make_home("relay"), make_home("friend"), make_home("other")
    with python_relay(folder, find_free_port(), storage) as url:
        relay = [PYTHON_RELAY, "-c", folder / "relay.yaml"]
        assert b"total: 8" in run([*relay, "load", written])
        fetched = invoke(friend, "fetch", f"{encode_npub(key.pubkey)}/demo", "--relay", url)
        assert fetched.returncode == 0, fetched.stderr
        dumped = run([*relay, "dump", "--no-event"])
    done = invoke_with_input(other, dumped, "fetch", "--from", "-")
    assert done.returncode == 0, done.stderr
    assert checkpoint(other) == checkpoint(friend) == (author / "checkpoint_best.bin").read_bytes()
