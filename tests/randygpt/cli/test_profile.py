"""`randygpt keys profile`: the newest profile of all relays, changed without losing anything."""

import json
from pathlib import Path

import pytest
from support.command import invoke, only_line
from support.scripted_relay import ScriptedRelay, relay_on_thread

from relay_client.event import EventDraft
from relay_client.keys import SecretKey


def put(relay: ScriptedRelay, key: SecretKey, content: dict[str, object], *, created_at: int) -> None:
    event = EventDraft(kind=0, created_at=created_at, content=json.dumps(content)).sign(key)
    relay.events[event.id.hex()] = json.loads(event.to_json())


def profiles(relay: ScriptedRelay) -> list[dict[str, object]]:
    """Return the contents of the profiles that a relay has, oldest first."""
    found = sorted(relay.events.values(), key=lambda event: event["created_at"])
    return [json.loads(str(event["content"])) for event in found if event["kind"] == 0]


def test_newest_profile_of_all_relays_is_changed(author: Path, threaded_relay: ScriptedRelay, key: SecretKey) -> None:
    newest: dict[str, object] = {"name": "al", "lud16": "al@pay.example", "picture": "https://p.example/a.png"}
    with relay_on_thread() as other:
        put(threaded_relay, key, {"name": "older", "about": "lost since"}, created_at=100)
        put(other, key, newest, created_at=200)
        words = ("keys", "profile", "--relay", threaded_relay.url, "--relay", other.url)
        shown = invoke(author, *words, "--json")
        assert json.loads(shown.stdout)["profile"] == newest
        changed = invoke(author, *words, "--name", "alice", "--nip05", "_@Example.com")
        expected = newest | {"name": "alice", "nip05": "_@example.com"}
        assert (changed.returncode, changed.stderr) == (0, "")
        assert "alice" in changed.stdout
        assert profiles(threaded_relay)[-1] == profiles(other)[-1] == expected
        count = len(threaded_relay.received)
        assert invoke(author, *words, "--name", "alice").returncode == 0
        assert len(threaded_relay.received) == count  # nothing changed, nothing is sent


def test_relay_that_cannot_be_asked_stops_the_change(
    author: Path, threaded_relay: ScriptedRelay, key: SecretKey
) -> None:
    put(threaded_relay, key, {"name": "al"}, created_at=100)
    words = ("keys", "profile", "--name", "alice", "--relay", threaded_relay.url, "--relay", "ws://127.0.0.1:1")
    done = invoke(author, *words)
    assert done.returncode == 4
    assert "may have a newer version cannot be asked" in only_line(done.stderr)
    assert profiles(threaded_relay) == [{"name": "al"}]


def test_first_profile_needs_consent(author: Path, threaded_relay: ScriptedRelay) -> None:
    words = ("keys", "profile", "--name", "alice", "--relay", threaded_relay.url)
    refused = invoke(author, *words)
    assert (refused.returncode, threaded_relay.received) == (2, [])
    assert "--yes" in only_line(refused.stderr)
    assert invoke(author, *words, "--yes").returncode == 0
    assert profiles(threaded_relay) == [{"name": "alice"}]


@pytest.mark.parametrize("address", ["alice", "alice@localhost", "alice@example.com/x"])
def test_invalid_nip05_is_refused(author: Path, threaded_relay: ScriptedRelay, address: str) -> None:
    done = invoke(author, "keys", "profile", "--nip05", address, "--relay", threaded_relay.url)
    assert (done.returncode, threaded_relay.connections) == (2, 0)
    assert "not a name such as alice@example.com" in only_line(done.stderr)


def test_hostile_field_is_shown_on_one_line(author: Path, threaded_relay: ScriptedRelay, key: SecretKey) -> None:
    put(threaded_relay, key, {"name": "a\nrelease  forged\x1b[2J", "x\ny": [1]}, created_at=100)
    done = invoke(author, "keys", "profile", "--relay", threaded_relay.url)
    assert len(done.stdout.splitlines()) == 2
    assert "\x1b" not in done.stdout
