"""`randygpt list --mine`: what one published, from relays and the journal."""

import json
from pathlib import Path

from support.command import invoke
from support.models import write_tiny
from support.scripted_relay import ScriptedRelay

UNREACHABLE = "ws://127.0.0.1:1"


def publish(author: Path, relay: ScriptedRelay, seed: int) -> str:
    write_tiny(author / "checkpoint_best.bin", name="demo", seed=seed)
    done = invoke(author, "publish", "checkpoint_best.bin", "--relay", relay.url, "--json")
    return str(json.loads(done.stdout)["release"])


def test_published_versions_are_listed_from_relays(author: Path, tmp_path: Path, threaded_relay: ScriptedRelay) -> None:
    first, second = (publish(author, threaded_relay, seed) for seed in (1, 2))
    assert invoke(author, "revoke", first, "--relay", threaded_relay.url).returncode == 0
    other = tmp_path / "another machine"
    other.mkdir()
    words = ("list", "--mine", "--relay", threaded_relay.url, "--key-file", author / "keys/nsec")
    listed = json.loads(invoke(other, *words, "--json").stdout)["published"]
    assert [(each["release"], each["version"]) for each in listed] == [(second, 2), (first, 1)]
    assert [(each["latest"], each["revoked"]) for each in listed] == [(True, False), (False, True)]
    assert listed[0]["relays"] == [threaded_relay.url]
    lines = invoke(other, *words).stdout.splitlines()
    assert lines[0].startswith(second[:12])
    assert lines[0].endswith("demo version 2  (latest)")
    assert lines[1].endswith("demo version 1  (revoked)")


def test_journal_lists_what_no_relay_has(author: Path, threaded_relay: ScriptedRelay) -> None:
    publish(author, threaded_relay, 1)
    threaded_relay.events.clear()
    done = invoke(author, "list", "--mine", "--relay", threaded_relay.url)
    assert done.stdout.endswith("demo version 1  (only in this machine's journal)\n")
    assert done.stderr == ""
    offline = invoke(author, "list", "--mine", "--relay", UNREACHABLE)
    assert (offline.returncode, offline.stdout) == (0, done.stdout)
    assert "incomplete: no relay can be reached" in offline.stderr


def test_events_of_other_authors_do_not_count(author: Path, tmp_path: Path, threaded_relay: ScriptedRelay) -> None:
    publish(author, threaded_relay, 1)
    threaded_relay.junk = [*threaded_relay.events.values()]
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    assert invoke(stranger, "keys", "new").returncode == 0
    done = invoke(stranger, "list", "--mine", "--relay", threaded_relay.url, "--json")
    assert json.loads(done.stdout)["published"] == []
