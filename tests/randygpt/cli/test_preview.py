"""Looking at a release on relays before it is fetched: `show` of a remote release, `fetch --dry-run`, and versions."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.blossom_server import Answer, blossom_on_thread
from support.command import invoke, only_line
from support.family import make_release, store_on
from support.models import CONFIG
from support.release_store import ReleaseStore
from support.releases import publish, tiny_sources, visible
from support.scripted_relay import ScriptedRelay, relay_on_thread

from distribution.events import CHUNK_KIND, Release
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

KEY = SecretKey(bytes.fromhex("11" * 32))
NPUB = encode_npub(KEY.pubkey)
CARD = {
    "license": "MIT",
    "about": "two\nlines",
    "config": CONFIG.to_json("char"),
    "training": {"iteration": 1500, "val_loss": 1.25, "bits_per_byte": 1.75, "train_loss": "high"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """A relay with two versions of a model."""

    relay: ScriptedRelay
    first: Release
    second: Release


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    author = tmp_path_factory.mktemp("author")
    with relay_on_thread() as relay:
        first, second = (
            asyncio.run(publish([relay.url], author, KEY, tiny_sources(seed=seed), card=CARD)).release
            for seed in (1, 2)
        )
        yield Shelf(relay=relay, first=first, second=second)


def requested_kinds(relay: ScriptedRelay, release: Release) -> bool:
    """Return whether nothing but the release and its head was asked for by id."""
    asked = {event_id for wanted in relay.requests for event_id in wanted.get("ids", [])}
    return asked == {release.id.hex()} and not any(CHUNK_KIND in w.get("kinds", []) for w in relay.requests)


def test_show_looks_at_a_remote_release(shelf: Shelf, tmp_path: Path) -> None:
    shelf.relay.requests.clear()
    done = invoke(tmp_path, "show", f"{NPUB}/demo", "--relay", shelf.relay.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert requested_kinds(shelf.relay, shelf.second)
    for line in (
        f"release     {shelf.second.id.hex()}",
        "name        demo version 2 (not installed)",
        f"signed by   {NPUB}",
        "license     MIT",
        "about       two lines",
        "shape       custom: 2 layers, 2 heads, width 16, context length 256",
        "trained     to iteration 1,501",
        "val loss    1.2500 (perplexity 3.49)",
        "bits/byte   1.750 (validation text)",
        f"relays      {shelf.relay.url}",
        f"fetch       randygpt fetch {NPUB}/demo",
    ):
        assert f"{line}\n" in done.stdout
    assert "train loss" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_show_of_a_remote_release_as_json(shelf: Shelf, tmp_path: Path) -> None:
    done = invoke(tmp_path, "show", shelf.first.id.hex(), "--relay", shelf.relay.url, "--json")
    facts = json.loads(done.stdout)
    assert (facts["release"], facts["version"], facts["installed"]) == (shelf.first.id.hex(), 1, False)
    assert (facts["author"], facts["size"], facts["card"]) == (NPUB, shelf.first.size, CARD)
    assert (facts["relays"], facts["ancestors"]) == ([shelf.relay.url], [])


def test_show_has_what_a_release_was_made_from(tmp_path: Path, threaded_relay: ScriptedRelay) -> None:
    author = SecretKey(bytes.fromhex("33" * 32))
    base = make_release(author, "base")
    merge = make_release(KEY, "both", base=base, merged=[make_release(author, name, base=base) for name in ("a", "b")])
    store_on(threaded_relay, [merge])
    installed = ReleaseStore(home=tmp_path, key=KEY).install(tags=merge.lineage.tags)
    for which in (merge.id.hex(), installed.id.hex()):
        lines = invoke(tmp_path, "show", which, "--relay", threaded_relay.url).stdout.splitlines()
        start = lines.index(f"made from   base {base.id.hex()} by {encode_npub(author.pubkey)}")
        assert [line.split()[0] for line in lines[start + 1 : start + 4]] == ["merged", "merged", "(as"]
        facts = json.loads(invoke(tmp_path, "show", which, "--relay", threaded_relay.url, "--json").stdout)
        roles = [(each["release"], each["role"]) for each in facts["ancestors"]]
        assert roles == [(each.release_id.hex(), role) for role, each in merge.lineage.ancestors]


def test_dry_run_of_a_fetch_installs_nothing(shelf: Shelf, tmp_path: Path) -> None:
    words = ("fetch", f"{NPUB}/demo", "--relay", shelf.relay.url)
    shelf.relay.requests.clear()
    done = invoke(tmp_path, *words, "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert (plan["release"], plan["missing"], plan["size"]) == (shelf.second.id.hex(), *[shelf.second.size] * 2)
    assert plan["chunks"]["missing"] == plan["chunks"]["total"] > 0
    assert plan["relays"] == {shelf.relay.url: {"has_release": True, "reason": ""}}
    asked = {event_id for wanted in shelf.relay.requests for event_id in wanted.get("ids", [])}
    assert asked == {shelf.second.id.hex(), *(event_id.hex() for event_id in shelf.second.manifest_ids)}
    assert list(tmp_path.iterdir()) == []
    part = json.loads(invoke(tmp_path, *words, "--dry-run", "--json", "--weights-only").stdout)
    assert part["missing"] < plan["missing"]
    refused = invoke(tmp_path, *words, "--dry-run", "--max-size", "1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--max-size" in only_line(refused.stderr)


def test_dry_run_asks_servers_what_they_have(tmp_path: Path) -> None:
    with relay_on_thread() as relay, blossom_on_thread() as server:
        publishing = publish([relay.url], tmp_path, KEY, tiny_sources(), servers=[server.url], send_chunks=False)
        release = asyncio.run(publishing).release.id.hex()
        words = ("fetch", release, "--relay", relay.url, "--dry-run")
        server.blobs.popitem()
        server.asked.clear()
        done = invoke(tmp_path, *words, "--server", server.url)
        total = len(server.blobs) + 1
        assert f"server    {server.url} has {total - 1} of {total} files\n" in done.stdout
        assert {asked.method for asked in server.asked} == {"HEAD"}
        server.script = lambda _: Answer(status=403, headers={"X-Reason": "members only"})
        plan = json.loads(invoke(tmp_path, *words, "--server", server.url, "--json").stdout)
        assert plan["servers"][server.url]["held"] == 0
        assert "members only" in plan["servers"][server.url]["reason"]
        assert json.loads(invoke(tmp_path, *words, "--no-servers", "--json").stdout)["servers"] == {}


def test_dry_run_counts_what_is_here(shelf: Shelf, tmp_path: Path) -> None:
    words = ("fetch", f"{NPUB}/demo", "--relay", shelf.relay.url)
    full, part = (
        json.loads(invoke(tmp_path, *words, "--dry-run", "--json", *flags).stdout)["missing"]
        for flags in ((), ("--weights-only",))
    )
    assert invoke(tmp_path, *words, "--weights-only").returncode == 0
    before = visible(tmp_path)
    rest = json.loads(invoke(tmp_path, *words, "--dry-run", "--json").stdout)["missing"]
    assert rest == full - part
    assert "nothing: all of it is here" in invoke(tmp_path, *words, "--dry-run", "--weights-only").stdout
    assert visible(tmp_path) == before


def test_version_of_a_name_is_fetched(shelf: Shelf, tmp_path: Path) -> None:
    relay = ("--relay", shelf.relay.url)
    for _ in range(2):  # found on relays, then remembered
        done = invoke(tmp_path, "fetch", f"{NPUB}/demo@1", *relay, "--json")
        assert (done.returncode, json.loads(done.stdout)["release"]) == (0, shelf.first.id.hex())
    missing = invoke(tmp_path, "fetch", "demo@9", *relay)
    assert missing.returncode == 4
    assert f"no relay has version 9 of 'demo' by {NPUB}" in only_line(missing.stderr)


def test_show_of_an_unreachable_release_exits_4(tmp_path: Path) -> None:
    done = invoke(tmp_path, "show", "ab" * 32, "--relay", "ws://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (4, "")
    only_line(done.stderr)
