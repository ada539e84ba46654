"""`publish --note` and `--nip89`: events for people and other programs, sent after the head."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.command import invoke, only_line
from support.scripted_relay import RawEvent, ScriptedRelay, relay_on_thread

from distribution.announce import handler_draft
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference, parse_reference


def events_of(relay: ScriptedRelay, kind: int) -> list[RawEvent]:
    return [event for event in relay.events.values() if event["kind"] == kind]


def publish_words(relay: ScriptedRelay, *words: str) -> Sequence[str]:
    return ("publish", "checkpoint_best.bin", "--relay", relay.url, *words)


def test_note_quotes_the_model_after_its_head(author: Path, threaded_relay: ScriptedRelay, key: SecretKey) -> None:
    words = publish_words(threaded_relay, "--note", "It rhymes now. #Poetry #poetry not#this", "--json")
    done = json.loads(invoke(author, *words).stdout)
    (note,) = events_of(threaded_relay, 1)
    assert [threaded_relay.events[event_id]["kind"] for event_id in threaded_relay.received][-2:] == [34181, 1]
    text, _, uri = str(note["content"]).rpartition("\n\n")
    assert text == "It rhymes now. #Poetry #poetry not#this"
    found = parse_reference(uri)
    assert isinstance(found, AddressReference)
    assert (uri[:12], found.author, found.name, found.kind) == ("nostr:naddr1", key.pubkey, "demo", 34181)
    address = f"34181:{key.pubkey.hex()}:demo"
    assert note["tags"] == [["q", address, threaded_relay.url, key.pubkey.hex()], ["t", "poetry"]]
    assert done["note"] == {"id": note["id"], "relays": {threaded_relay.url: ""}, "failure": ""}


def test_note_is_not_sent_twice(author: Path, threaded_relay: ScriptedRelay) -> None:
    for _ in range(2):
        assert invoke(author, *publish_words(threaded_relay, "--note", "once")).returncode == 0
    assert len(events_of(threaded_relay, 1)) == 1
    again = invoke(author, *publish_words(threaded_relay, "--note", "other words"))
    assert len(events_of(threaded_relay, 1)) == 2
    assert "note     note1" in again.stdout
    assert len(events_of(threaded_relay, 4181)) == 1


def test_refused_note_leaves_the_release_published(author: Path, threaded_relay: ScriptedRelay) -> None:
    threaded_relay.accept = lambda event: (event["kind"] != 1, "blocked: models only")
    done = invoke(author, *publish_words(threaded_relay, "--note", "hello", "--nip89"))
    assert done.returncode == 0
    assert "note not sent" in done.stderr
    assert "models only" in done.stderr
    assert "fetch naddr1" in done.stdout
    assert "skipped relay" not in done.stderr
    assert len(events_of(threaded_relay, 31990)) == 1


def test_note_of_an_earlier_run_is_not_repeated_with_other_hints(author: Path, threaded_relay: ScriptedRelay) -> None:
    assert invoke(author, *publish_words(threaded_relay, "--note", "once")).returncode == 0
    with relay_on_thread() as other:
        both = publish_words(threaded_relay, "--relay", other.url, "--note", "once")
        assert invoke(author, *both).returncode == 0
        assert events_of(other, 1) == events_of(threaded_relay, 1)
    assert len(events_of(threaded_relay, 1)) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "1 to 4,000"), (" \n", "1 to 4,000"), ("x" * 4_001, "1 to 4,000"), ("my key is NSEC1abc", "SECRET key")],
)
def test_unusable_note_sends_nothing(author: Path, threaded_relay: ScriptedRelay, text: str, says: str) -> None:
    done = invoke(author, *publish_words(threaded_relay, "--note", text))
    assert done.returncode == 2
    assert says in only_line(done.stderr)
    assert "NSEC1abc" not in done.stderr
    assert (threaded_relay.connections, list(author.glob("state"))) == (0, [])


def test_handler_names_the_kinds_of_releases(author: Path, threaded_relay: ScriptedRelay) -> None:
    assert invoke(author, *publish_words(threaded_relay, "--nip89")).returncode == 0
    (handler,) = events_of(threaded_relay, 31990)
    tags = [tag for tag in handler["tags"] if tag[0] != "alt"]
    assert tags == [["d", "randygpt"], ["k", "4181"], ["k", "34181"]]
    assert json.loads(str(handler["content"]))["name"] == "randygpt"


def test_handler_is_sent_once(author: Path, threaded_relay: ScriptedRelay, key: SecretKey) -> None:
    earlier = handler_draft(now=1).sign(key)
    threaded_relay.events[earlier.id.hex()] = json.loads(earlier.to_json())
    done = json.loads(invoke(author, *publish_words(threaded_relay, "--nip89", "--json")).stdout)
    assert done["handler"]["id"] == earlier.id.hex()
    assert len(events_of(threaded_relay, 31990)) == 1


@pytest.mark.parametrize("flag", [("--note", "hello"), ("--nip89",)])
def test_file_of_events_has_no_announcement(author: Path, flag: Sequence[str]) -> None:
    done = invoke(author, "publish", "checkpoint_best.bin", "--out", "x.jsonl", *flag)
    assert (done.returncode, (author / "x.jsonl").exists()) == (2, False)
    assert f"leave out {flag[0]}" in only_line(done.stderr)
