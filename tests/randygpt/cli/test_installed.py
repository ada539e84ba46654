"""Commands on installed releases (list, show, verify, use, pin) and on the trust list."""

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.command import TIMEOUT_S, invoke, only_line
from support.releases import fetch, publish, tiny_sources, visible
from support.scripted_relay import ScriptedRelay, scripted_relay

from distribution.events import Release
from randygpt.cli.main import run
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub


@dataclass(frozen=True)
class Friend:
    """A home with two versions of one author's model and one of another's; the newest of the first is current."""

    home: Path
    author: SecretKey
    stranger: SecretKey
    first: Release
    second: Release
    theirs: Release


@pytest.fixture
def friend(at_home: Path, key: SecretKey, stranger: SecretKey) -> Friend:
    async def make() -> list[Release]:
        made = []
        async with scripted_relay() as relay:
            for author, name, seed in ((key, "demo", 1), (stranger, "other", 5), (key, "demo", 2)):
                sources = tiny_sources(seed=seed)
                published = await publish([relay.url], at_home / "authors" / name, author, sources, name=name)
                made.append((await fetch([relay.url], at_home, published.release.id), published.release)[1])
        return made

    first, theirs, second = asyncio.run(make())
    return Friend(at_home, key, stranger, first, second, theirs)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run([*words, "--json"]) == 0
    result: dict[str, Any] = json.loads(only_line(capsys.readouterr().out))
    return result


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run([*words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return only_line(err)


# --- list, use, pin


def test_list_marks_current_previous_and_pinned(friend: Friend, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trust", "add", encode_npub(friend.author.pubkey), "alice"]) == 0
    assert run(["pin", "other"]) == 0
    capsys.readouterr()
    listed = {entry["release"]: entry for entry in said(capsys, "list")["releases"]}
    assert set(listed) == {release.id.hex() for release in (friend.first, friend.second, friend.theirs)}
    current = listed[friend.second.id.hex()]
    assert (current["current"], current["previous"], current["pinned"]) == (True, False, False)
    assert (current["author_name"], current["author"]) == ("alice", encode_npub(friend.author.pubkey))
    assert (current["name"], current["version"], current["size"]) == ("demo", 2, friend.second.size)
    assert (listed[friend.theirs.id.hex()]["previous"], listed[friend.theirs.id.hex()]["pinned"]) == (True, True)
    assert run(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("current") for line in lines] == [True, False, False]
    assert all(len(line) < 80 for line in lines)
    npub = encode_npub(friend.stranger.pubkey)
    assert sorted(line.split()[4:] for line in lines) == [
        ["demo@1", "alice"],
        ["demo@2", "alice", "current"],
        ["other@1", f"{npub[:9]}…{npub[-4:]}", "previous,", "pinned"],
    ]


def test_use_previous_toggles(friend: Friend, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "use", "previous")["release"] == friend.theirs.id.hex()
    assert said(capsys, "use", "previous")["release"] == friend.second.id.hex()
    assert said(capsys, "use", friend.first.id.hex()[:8])["version"] == 1
    assert said(capsys, "show", "current")["release"] == friend.first.id.hex()


def test_list_and_use_import_no_torch_or_network(friend: Friend) -> None:
    code = (
        "import sys; from randygpt.cli.main import run; assert run(['list']) == run(['use', 'previous']) == 0\n"
        "assert not {'torch', 'nostr_sdk', 'websockets', 'numpy', 'aiohttp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=TIMEOUT_S, cwd=friend.home)


def test_pin_and_unpin(friend: Friend, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "pin")["release"] == friend.second.id.hex()
    assert said(capsys, "show", "current")["pinned"] is True
    assert said(capsys, "pin", "demo", "--remove")["pinned"] is False
    assert said(capsys, "show", "current")["pinned"] is False


# --- references


def test_every_kind_of_reference_names_a_release(friend: Friend, capsys: pytest.CaptureFixture[str]) -> None:
    npub = encode_npub(friend.author.pubkey)
    assert run(["trust", "add", npub, "alice"]) == 0
    capsys.readouterr()
    for which in (friend.second.id.hex(), friend.second.id.hex()[:6], f"{npub}/demo", "alice/demo", "demo", "current"):
        assert said(capsys, "show", which)["release"] == friend.second.id.hex()
    assert said(capsys, "show", friend.first.id.hex())["version"] == 1


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("nothing", "no file and no installed release"),
        ("0000", "no file and no installed release"),
        ("ff" * 32, "is not installed; install it with randygpt fetch"),
        ("alice/demo", "no author 'alice' on your trust list"),
        ("a/b/c", "no file and no installed release"),
    ],
)
def test_unknown_release_changes_nothing(
    friend: Friend, capsys: pytest.CaptureFixture[str], which: str, says: str
) -> None:
    before = visible(friend.home)
    for command in ("verify", "use", "pin"):
        assert says in refused(capsys, command, which)
    assert visible(friend.home) == before


def test_ambiguous_name_needs_its_author(friend: Friend, capsys: pytest.CaptureFixture[str]) -> None:
    async def fetch_another() -> None:
        async with scripted_relay() as relay:
            published = await publish([relay.url], friend.home / "authors" / "c", friend.stranger, tiny_sources(seed=9))
            await fetch([relay.url], friend.home, published.release.id)

    asyncio.run(fetch_another())
    assert "several authors have a model demo" in refused(capsys, "use", "demo")
    assert said(capsys, "use", f"{encode_npub(friend.author.pubkey)}/demo")["release"] == friend.second.id.hex()


def test_commands_without_any_release(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "list") == {"releases": []}
    assert "no previous release yet" in refused(capsys, "use", "previous")
    assert run(["verify"]) == 0
    assert list(at_home.iterdir()) == []


# --- show and verify


def test_show_names_the_signer(friend: Friend, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trust", "add", encode_npub(friend.author.pubkey), "alice"]) == 0
    assert run(["show", "current"]) == 0
    text = capsys.readouterr().out
    assert f"signed by   alice ({encode_npub(friend.author.pubkey)}), 20" in text
    assert f"release     {friend.second.id.hex()}\n" in text
    assert "name        demo version 2 (current)\n" in text
    assert "shape       custom: 2 layers" in text


def test_verify_names_damaged_files(friend: Friend, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "verify")["releases"][0]["intact"] is True
    store = friend.home / "store" / "releases"
    damaged = [store / friend.first.id.hex() / "checkpoint_best.bin", store / friend.second.id.hex() / "config.json"]
    for path in damaged:
        path.chmod(0o644)
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert run(["verify", "--json"]) == 5
    out, err = capsys.readouterr()
    entries = {entry["release"]: entry for entry in json.loads(out)["releases"]}
    assert str(damaged[0]) in entries[friend.first.id.hex()]["damaged"]
    assert all(str(path) in only_line(err) for path in damaged)
    assert run(["verify", friend.first.id.hex()]) == 5
    assert str(damaged[0]) in capsys.readouterr().err


def test_verify_refuses_servers_with_no_servers(friend: Friend, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--relay", "ws://127.0.0.1:1", "--server", "http://127.0.0.1:1", "--no-servers")
    assert "--no-servers excludes --server" in refused(capsys, "verify", friend.first.id.hex(), "--remote", *flags)


def test_verify_file_finds_its_release(friend: Friend, capsys: pytest.CaptureFixture[str]) -> None:
    path = friend.home / "store/releases" / friend.first.id.hex() / "checkpoint_best.bin"
    result = said(capsys, "verify", str(path))
    assert (result["intact"], [entry["release"] for entry in result["releases"]]) == (True, [friend.first.id.hex()])
    other = friend.home / "copy.bin"
    other.write_bytes(path.read_bytes()[:-1])
    assert run(["verify", str(other), "--json"]) == 2
    assert "copy.bin" in only_line(capsys.readouterr().err)


# --- trust


def test_trust_list_is_edited_by_commands(at_home: Path, capsys: pytest.CaptureFixture[str], key: SecretKey) -> None:
    npub = encode_npub(key.pubkey)
    assert said(capsys, "trust", "list") == {"policy": "explicit", "authors": [], "addresses": {}}
    assert said(capsys, "trust", "add", npub, "alice") == {"npub": npub, "name": "alice"}
    assert said(capsys, "trust", "policy", "allowlist") == {"policy": "allowlist"}
    alice = {"npub": npub, "name": "alice"}
    assert said(capsys, "trust", "list") == {"policy": "allowlist", "authors": [alice], "addresses": {}}
    assert said(capsys, "trust", "remove", "alice") == {"npub": npub}
    assert "not on your trust list" in refused(capsys, "trust", "remove", "alice")
    assert "no such policy" in refused(capsys, "trust", "policy", "everybody")
    assert "SECRET" not in refused(capsys, "trust", "add", "npub1nonsense", "x")
    assert (at_home / "state" / "trust.json").is_file()


def test_allowlist_refuses_before_requesting_chunks(
    threaded_relay: ScriptedRelay, tmp_path: Path, key: SecretKey
) -> None:
    relay = threaded_relay
    published = asyncio.run(publish([relay.url], tmp_path / "author", key, tiny_sources()))
    home, npub = tmp_path / "home", encode_npub(key.pubkey)
    home.mkdir()

    def command(*words: str) -> tuple[int, str]:
        done = invoke(home, *words, "--relay", relay.url)
        return done.returncode, done.stdout + done.stderr

    assert invoke(home, "trust", "policy", "allowlist").returncode == 0
    before = visible(home)
    relay.requests.clear()
    for which in (published.release.id.hex(), f"{npub}/demo"):
        code, text = command("fetch", which)
        assert (code, "not trusted" in text) == (3, True)
    assert {event_id for wanted in relay.requests for event_id in wanted.get("ids", [])} == {published.release.id.hex()}
    assert visible(home) == before
    assert invoke(home, "trust", "add", npub, "alice").returncode == 0
    code, text = command("fetch", f"{npub}/demo")
    assert (code, f"alice ({npub})" in text) == (0, True)
