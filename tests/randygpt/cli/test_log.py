"""`randygpt log`: the ancestry of releases and files."""

import asyncio
import json
from pathlib import Path

import pytest
from support.command import invoke, only_line
from support.family import claim, make_release, revoke_on, store_on
from support.models import write_tiny
from support.release_store import ReleaseStore
from support.scripted_relay import ScriptedRelay

from distribution.ancestors import Ancestor, Lineage
from distribution.events import Release
from distribution.trust_list import TrustStore
from randygpt.checkpoint.origin import Origin
from randygpt.checkpoint.sidecar import read_sidecar, sidecar_path
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

AUTHOR, FRIEND, STRANGER = (SecretKey(bytes([number]) * 32) for number in (1, 2, 3))
BASE = make_release(AUTHOR, "base", card={"training": {"best_loss": 1.9, "val_loss": 1.8, "bits_per_byte": 2.597}})
FORKS = [make_release(FRIEND, "fork", version=number, base=BASE) for number in (1, 2)]
MERGE = make_release(AUTHOR, "base", version=2, base=BASE, merged=FORKS)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    asyncio.run(TrustStore(tmp_path).add(FRIEND.pubkey, "bob"))
    return tmp_path


def log(home: Path, relay: ScriptedRelay, which: Release | str, *words: str) -> list[str]:
    name = which if isinstance(which, str) else which.id.hex()
    done = invoke(home, "log", name, "--relay", relay.url, *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_log_draws_the_ancestry_of_a_merge(home: Path, threaded_relay: ScriptedRelay) -> None:
    store_on(threaded_relay, [MERGE, *FORKS, BASE])
    lines = log(home, threaded_relay, MERGE)
    newest, oldest = lines[0].split("  "), lines[-1].split("  ")
    assert newest[:3] == ["*", MERGE.short_id, "base@2"]
    assert newest[-1] == "(merge of 2)"
    assert lines[1] == "├─╮"
    assert sorted(line[-len("bob  2026-09-21") - 8 :] for line in lines[2:4]) == [
        "fork@1  bob  2026-09-21",
        "fork@2  bob  2026-09-21",
    ]
    assert oldest[:3] == ["*", BASE.short_id, "base@1"]
    assert oldest[-1] == "loss 1.8000, 2.597 bits/byte"
    assert len(lines) == 6


def test_log_as_json(home: Path, threaded_relay: ScriptedRelay) -> None:
    store_on(threaded_relay, [MERGE, *FORKS])
    result = json.loads("".join(log(home, threaded_relay, MERGE, "--json")))
    assert result["incomplete"] is True
    first, *_, last = result["releases"]
    assert (first["release"], first["base"]) == (MERGE.id.hex(), BASE.id.hex())
    assert first["merged"] == [fork.id.hex() for fork in FORKS]
    assert last == {
        "release": BASE.id.hex(),
        "state": "missing",
        "author": encode_npub(AUTHOR.pubkey),
        "author_name": None,
        "named_authors": [encode_npub(AUTHOR.pubkey)],
        "name": None,
        "version": None,
        "created_at": None,
        "losses": {},
        "base": None,
        "merged": [],
        "revoked": False,
        "reason": None,
        "cycle": False,
    }


def test_log_says_what_is_wrong(home: Path, threaded_relay: ScriptedRelay) -> None:
    liar = make_release(STRANGER, "lie", base=claim(BASE, author=FRIEND.pubkey))
    store_on(threaded_relay, [liar, BASE, FORKS[0]])
    revoke_on(threaded_relay, BASE, AUTHOR, reason="bad text")
    line = log(home, threaded_relay, liar)[-1]
    assert "(revoked by its author: bad text; not by bob, as a release made from it claims)" in line
    threaded_relay.events.pop(BASE.id.hex())
    line = log(home, threaded_relay, FORKS[0])[-1]
    assert "not found on the relays, said to be by npub1rwzv" in line
    assert line.endswith("(revoked by its author: bad text)")


def test_log_of_a_file_begins_with_its_base(home: Path, threaded_relay: ScriptedRelay) -> None:
    path = write_tiny(home / "mine.bin")
    sidecar = read_sidecar(path)
    assert sidecar is not None
    recorded = {**sidecar.to_json(), "base": Origin(release=BASE.id, author=BASE.author).to_json()}
    sidecar_path(path).write_text(json.dumps(recorded), encoding="utf-8")
    store_on(threaded_relay, [BASE])
    lines = log(home, threaded_relay, "mine.bin")
    assert lines[0] == "*  mine.bin (a file)"
    assert lines[1].startswith(f"*  {BASE.short_id}  base@1")


def test_log_of_installed_releases_needs_no_relay(home: Path) -> None:
    releases = ReleaseStore(home=home, key=FRIEND)
    base = releases.install()
    fork = releases.install(tags=Lineage(base=Ancestor(release_id=base.id, author=base.author)).tags)
    done = invoke(home, "log", "tiny@2")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[1:3] for line in done.stdout.splitlines()] == [
        [fork.short_id, "tiny@2"],
        [base.short_id, "tiny@1"],
    ]


def test_log_without_relays_says_so(home: Path) -> None:
    ReleaseStore(home=home, key=FRIEND).install(tags=Lineage(base=claim(BASE)).tags)
    done = invoke(home, "log", "tiny")
    assert "incomplete: no relays are configured" in only_line(done.stderr)
    assert "not looked for" in done.stdout.splitlines()[-1]


def test_log_of_a_single_release_is_one_line(home: Path, threaded_relay: ScriptedRelay) -> None:
    store_on(threaded_relay, [BASE])
    assert len(log(home, threaded_relay, BASE)) == 1
