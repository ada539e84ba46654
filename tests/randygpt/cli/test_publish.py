"""`randygpt publish`: dry run, confirmation, resume after a kill, and what is sent."""

import hashlib
import json
import math
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from support.command import TIMEOUT_S, environment, invoke, only_line
from support.models import CONFIG, TOKENIZER, tiny_checkpoint, write_tiny
from support.scripted_relay import RawEvent, ScriptedRelay, relay_on_thread

from randygpt.checkpoint.header import CheckpointHeader, weights_size
from randygpt.checkpoint.rgpt import Checkpoint, write_checkpoint
from randygpt.checkpoint.sidecar import Sidecar, sidecar_path
from randygpt.cli.main import run
from randygpt.cli.qr import qr_lines
from randygpt.model.config import ModelConfig
from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip19 import parse_reference

IN_FLIGHT = 8  # events


def write_larger(path: Path) -> Path:
    """Write a checkpoint of about 60 different chunks."""
    config = ModelConfig(n_embd=64, n_head=2, n_layer=4, vocab_size=TOKENIZER.vocab_size)
    header = CheckpointHeader(magic="RGPT0003", vocab_size=config.vocab_size, iteration=1, step=1, best_loss=2.0)
    weights, first, second = np.random.default_rng(1).random((3, config.parameter_count), dtype=np.float32)
    write_checkpoint(path, Checkpoint(header=header, config=config, weights=weights, optimizer_state=(first, second)))
    sidecar = Sidecar(config=config, tokenizer=TOKENIZER, name="larger", iteration=1)
    sidecar_path(path).write_bytes(sidecar.encode())
    return path


# --- killed


def publish_until(home: Path, relay: ScriptedRelay, moment: int | str, words: Sequence[str]) -> None:
    """Publish, and kill the process when the relay has received so many events, or one of this kind."""
    with subprocess.Popen(
        [sys.executable, "-m", "randygpt", "publish", "checkpoint_best.bin", "--relay", relay.url, *words],
        cwd=home,
        env=environment(home),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:

        def accept(event: RawEvent) -> tuple[bool, str]:
            if moment in {len(relay.received), str(event["kind"])}:
                process.kill()
            return True, ""

        relay.accept = accept
        assert process.wait(TIMEOUT_S) == -signal.SIGKILL
    relay.accept = lambda _event: (True, "")


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        pytest.param(1, [], marks=pytest.mark.full, id="first event"),
        pytest.param(20, [], id="20th event"),
        pytest.param("4181", [], marks=pytest.mark.full, id="release"),
        pytest.param("34181", [], marks=pytest.mark.full, id="head"),
        *(
            pytest.param(moment, ["--chunk-key", "throwaway"], marks=pytest.mark.full, id=f"throw-away key, {moment}")
            for moment in (1, 20, 55, "4181", "34181")
        ),
    ],
)
def test_publish_resumes_after_kill(
    author: Path, threaded_relay: ScriptedRelay, moment: int | str, words: list[str]
) -> None:
    relay = threaded_relay
    write_larger(author / "checkpoint_best.bin")
    publish_until(author, relay, moment, words)
    before = len(relay.received)
    done = invoke(author, "publish", "checkpoint_best.bin", "--relay", relay.url, *words, "--json")
    published = json.loads(done.stdout)
    assert ("chunk_author" in published) == bool(words)
    kinds = Counter(event["kind"] for event in relay.events.values())
    assert (kinds[4181], kinds[34181]) == (1, 1)
    assert published["release"] in relay.events
    assert kinds[1064] + 2 == published["events"]  # no chunk has two ids
    twice = sum(count - 1 for count in Counter(relay.received).values())
    assert twice <= IN_FLIGHT
    assert len(relay.received) - before <= published["events"] - (before - IN_FLIGHT)
    sent = len(relay.received)
    again = invoke(author, "publish", "checkpoint_best.bin", "--relay", relay.url)
    assert "nothing sent: the relays already have every event" in again.stderr
    assert published["release"] in again.stdout
    assert len(relay.received) == sent


# --- before anything is sent


def test_dry_run_predicts_what_publish_sends(author: Path, threaded_relay: ScriptedRelay) -> None:
    words = ("publish", "checkpoint_best.bin", "--relay", threaded_relay.url)
    planned = json.loads((invoke(author, *words, "--dry-run", "--json")).stdout)
    in_words = invoke(author, *words, "--dry-run")
    assert (threaded_relay.received, threaded_relay.connections) == ([], 0)
    published = json.loads((invoke(author, *words, "--json")).stdout)
    assert (planned["events"], planned["bytes"]) == (published["events"], published["bytes"])
    assert (planned["name"], planned["version"], planned["resumed"]) == ("demo", 1, False)
    share = planned["relays"][threaded_relay.url]
    assert (share["events"], share["bytes"], share["measured"]) == (planned["events"], planned["bytes"], False)
    assert share["seconds"] > 0
    assert len(threaded_relay.received) == planned["events"]
    assert f"demo version 1: {planned['events']} events" in in_words.stdout
    assert f"{threaded_relay.url}  {planned['events']} events, " in in_words.stdout
    after = json.loads((invoke(author, *words, "--dry-run", "--json")).stdout)
    assert (after["resumed"], after["relays"][threaded_relay.url]["events"]) == (True, 0)
    assert f"{threaded_relay.url}  nothing" in (invoke(author, *words, "--dry-run")).stdout


def test_dry_run_spreads_copies_over_relays(author: Path) -> None:
    relays = [word for n in range(3) for word in ("--relay", f"wss://{n}.example")]
    done = invoke(author, "publish", "checkpoint_best.bin", *relays, "--copies", "1", "--dry-run", "--json")
    planned = json.loads(done.stdout)
    events = [share["events"] for share in planned["relays"].values()]
    assert sum(events) == planned["events"] + 2 * 3  # manifest, release and head go to all three
    assert max(events) - min(events) <= 1


def test_more_copies_than_relays_are_refused(author: Path, threaded_relay: ScriptedRelay) -> None:
    done = invoke(author, "publish", "checkpoint_best.bin", "--relay", threaded_relay.url, "--copies", "2")
    assert (done.returncode, threaded_relay.received) == (2, [])
    assert "--copies 2" in only_line(done.stderr)


@pytest.mark.parametrize("text", ["", "30", "0d", "-1d", "1.5d", "30 d", "30y", "999999d", "d"])
def test_invalid_expiry_is_refused(text: str, author: Path, at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["publish", str(author / "checkpoint_best.bin"), "--relay", "ws://127.0.0.1:1", "--expires", text]) == 2
    assert "--expires" in only_line(capsys.readouterr().err)
    assert list(at_home.glob("state")) == []


def test_text_that_is_not_unicode_is_refused(author: Path, threaded_relay: ScriptedRelay) -> None:
    words = ("publish", "checkpoint_best.bin", "--relay", threaded_relay.url, "--about", "\udcff")
    done = invoke(author, *words)
    assert done.returncode == 2
    assert "the card cannot be written as JSON" in only_line(done.stderr)
    assert threaded_relay.received == []


# --- what is sent


def test_weights_only_leaves_out_optimizer_state(author: Path, threaded_relay: ScriptedRelay, tmp_path: Path) -> None:
    done = invoke(
        author,
        "publish",
        "checkpoint_best.bin",
        "--relay",
        threaded_relay.url,
        "--weights-only",
        "--expires",
        "1h",
        "--json",
    )
    published = json.loads(done.stdout)
    assert published["files"][0]["size"] == weights_size(CONFIG)
    (release,) = (event for event in threaded_relay.events.values() if event["kind"] == 4181)
    assert ["format", "RGPT0002"] in release["tags"]
    assert "expiration" in [tag[0] for tag in release["tags"]]
    friend = tmp_path / "friend"
    friend.mkdir()
    fetched = json.loads(
        (invoke(friend, "fetch", published["release"], "--relay", threaded_relay.url, "--json")).stdout
    )
    write_checkpoint(expected := tmp_path / "expected.bin", tiny_checkpoint(with_optimizer=False))
    assert fetched["files"][0]["sha256"] == hashlib.sha256(expected.read_bytes()).hexdigest()


def test_release_is_tagged_for_other_programs(author: Path, threaded_relay: ScriptedRelay) -> None:
    words = (
        "publish",
        "checkpoint_best.bin",
        "--relay",
        threaded_relay.url,
        "--about",
        "The\nplays",
        "--license",
        "MIT",
    )
    assert invoke(author, *words, "--tag", "#Poetry", "--tag", "ai-model", "--tag", "poetry").returncode == 0
    again = invoke(author, *words, "--tag", "prose")
    (release,) = (event for event in threaded_relay.events.values() if event["kind"] == 4181)
    tags = [tag for tag in release["tags"] if tag[0] in {"title", "summary", "license", "published_at", "t"}]
    assert sorted(tags) == [
        ["license", "MIT"],
        ["published_at", str(release["created_at"])],
        ["summary", "The plays"],
        ["t", "ai-model"],
        ["t", "poetry"],
        ["t", "randygpt"],
        ["title", "demo"],
    ]
    assert "topics, expiry and chunk key stay as they were" in again.stderr
    assert [event["kind"] for event in threaded_relay.events.values()].count(4181) == 1


@pytest.mark.parametrize("tags", [["two words"], ["x" * 41], [""], ["a\n"], [f"topic{n}" for n in range(11)]])
def test_unusable_tags_are_refused(
    author: Path, at_home: Path, tags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for tag in tags for word in ("--tag", tag)]
    assert run(["publish", str(author / "checkpoint_best.bin"), "--relay", "ws://127.0.0.1:1", *words]) == 2
    assert "tag" in only_line(capsys.readouterr().err)
    assert list(at_home.glob("state")) == []


def test_qr_code_is_spelled_out_without_a_terminal(author: Path, threaded_relay: ScriptedRelay) -> None:
    done = invoke(author, "publish", "checkpoint_best.bin", "--relay", threaded_relay.url, "--qr", "--json")
    (line,) = (line for line in done.stderr.splitlines() if "--qr" in line)
    uri = line.rpartition(" ")[2]
    assert uri.startswith("NOSTR:NADDR1")
    assert parse_reference(uri) == parse_reference(json.loads(done.stdout)["naddr"])
    with_file = invoke(author, "publish", "checkpoint_best.bin", "--qr", "--out", "x")
    assert "leave out --qr" in only_line(with_file.stderr)


@pytest.mark.full
def test_qr_code_is_drawn_on_a_terminal(author: Path, threaded_relay: ScriptedRelay) -> None:
    words = f"publish checkpoint_best.bin --relay {threaded_relay.url} --yes --qr"
    shell = f"stty cols 100 rows 60; {sys.executable} -m randygpt {words}"
    done = subprocess.run(
        [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", "sh", "-c", shell],
        cwd=author,
        env=environment(author) | {"NO_COLOR": "1", "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    shown = done.stdout.decode()
    naddr = re.search("fetch (naddr1[a-z0-9]+)", shown)
    assert naddr
    for line in qr_lines(f"NOSTR:{naddr[1].upper()}"):
        assert line.rstrip() in shown


def test_card_has_losses_up_to_the_checkpoint(author: Path, threaded_relay: ScriptedRelay) -> None:
    write_tiny(author / "checkpoint_best.bin", name="demo", seed=1000)  # of iteration 1000
    lines = [{"iter": at, "loss": 4 - at / 1000, "lr": 1e-4} for at in range(1501)]
    for line in lines[::7]:
        line["val_loss"] = line["loss"] + 0.1
    lines[7]["val_loss"] = math.nan
    (author / "checkpoint.metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = author / "checkpoint_best.json"
    raw = json.loads(path.read_bytes()) | {"losses": {"val": 1.75}, "training": {"bytes_per_token": 1.25}}
    path.write_text(json.dumps(raw))
    assert (invoke(author, "publish", "checkpoint_best.bin", "--relay", threaded_relay.url)).returncode == 0
    (release,) = (event for event in threaded_relay.events.values() if event["kind"] == 4181)
    training = json.loads(release["content"])["training"]
    history = training["history"]
    assert (training["val_loss"], training["bits_per_byte"]) == (1.75, pytest.approx(1.75 / math.log(2) / 1.25))
    assert 70 <= len(history) <= 100
    assert history[-1] == [994, 3.006, 3.106]
    assert {later[0] - earlier[0] for earlier, later in pairwise(history)} == {14}


def test_nip65_publishes_to_the_relay_list(author: Path, threaded_relay: ScriptedRelay, key: SecretKey) -> None:
    with relay_on_thread() as listed:
        words = ("publish", "checkpoint_best.bin", "--relay", threaded_relay.url, "--nip65", "--json")
        none = invoke(author, *words)
        assert none.returncode == 4
        assert "no NIP-65 list" in only_line(none.stderr)
        tags = (("r", listed.url), ("r", "wss://read.invalid", "read"))
        event = EventDraft(kind=10002, created_at=1, tags=tags).sign(key)
        threaded_relay.events[event.id.hex()] = json.loads(event.to_json())
        published = json.loads((invoke(author, *words)).stdout)
        assert list(published["relays"]) == [threaded_relay.url, listed.url]
        assert len(listed.events) == published["events"]


def test_relay_limits_are_reported(author: Path, threaded_relay: ScriptedRelay) -> None:
    threaded_relay.description = {"limitation": {"payment_required": True}}
    with relay_on_thread() as small:
        small.description = {"limitation": {"max_message_length": 1_000}}
        relays = ("--relay", threaded_relay.url, "--relay", small.url)
        done = invoke(author, "publish", "checkpoint_best.bin", *relays)
        assert f"{threaded_relay.url} announces: requires payment" in done.stderr
        assert f"skipped relay: {small.url}: takes messages of up to 1,000 bytes" in done.stderr
        assert small.received == []
        as_json = json.loads((invoke(author, "publish", "checkpoint_best.bin", *relays, "--json")).stdout)
        assert as_json["relays"][small.url]["reason"].startswith(f"{small.url}: takes messages")
