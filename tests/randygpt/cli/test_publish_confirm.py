"""Questions and notes of `randygpt publish` before anything is sent."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.command import invoke, only_line
from support.models import CONFIG, TOKENIZER, tiny_checkpoint, write_tiny
from support.scripted_relay import ScriptedRelay
from support.terminal import Typist

from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.rgpt import Checkpoint
from randygpt.checkpoint.save import save_checkpoint
from randygpt.checkpoint.sidecar import Sidecar
from randygpt.cli import publish_confirm as module
from randygpt.cli.main import run

Publish = Callable[..., tuple[int, str, Typist]]


@pytest.fixture
def at_terminal(
    author: Path, at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Publish:
    """Publish at a terminal where these answers are typed; returns exit code, stderr and the typist."""
    assert at_home.exists()
    monkeypatch.setenv("RANDYGPT_HOME", str(author))
    monkeypatch.chdir(author)

    def publish(*words: str, answers: tuple[str, ...] = ()) -> tuple[int, str, Typist]:
        monkeypatch.setattr("sys.stdin", typist := Typist(*answers))
        code = run(["publish", "checkpoint_best.bin", *words])
        return code, capsys.readouterr().err, typist

    return publish


def names(relay: ScriptedRelay) -> list[str]:
    return [tag[1] for event in relay.events.values() for tag in event["tags"] if tag[0] == "name"]


def test_publish_says_what_goes_out(author: Path, threaded_relay: ScriptedRelay) -> None:
    words = ("publish", "checkpoint_best.bin", "--relay", threaded_relay.url)
    whole = invoke(author, *words).stderr.splitlines()
    assert whole[:2] == ["model    demo: randygpt-2L-2H-16D, iteration 1", "loss     validation 2.5000"]
    assert whole[2].endswith("two thirds are optimizer state, which only --resume needs")
    assert "--weights-only" in whole[3]
    weights = invoke(author, *words, "--weights-only").stderr
    assert "optimizer" not in weights
    assert "weights only" in weights
    assert invoke(author, *words, "--quiet").stderr == ""


def test_first_version_is_confirmed_at_a_terminal(at_terminal: Publish, threaded_relay: ScriptedRelay) -> None:
    words = ("--relay", threaded_relay.url)
    code, said, _ = at_terminal(*words, answers=("n",))
    assert (code, threaded_relay.received) == (2, [])
    assert "the first version of demo from this machine. Publish? [y/N]" in said
    assert "nothing was sent" in said
    code, said, _ = at_terminal(*words, answers=("y",))
    assert (code, names(threaded_relay)) == (0, ["demo"])
    code, said, typist = at_terminal(*words, "--new-version")
    assert (code, typist.asked, names(threaded_relay)) == (0, 0, ["demo", "demo"])


def test_yes_asks_nothing(at_terminal: Publish, threaded_relay: ScriptedRelay) -> None:
    code, _, typist = at_terminal("--relay", threaded_relay.url, "--yes")
    assert (code, typist.asked, names(threaded_relay)) == (0, 0, ["demo"])


# --- names


def test_checkpoint_without_name_needs_one(author: Path, threaded_relay: ScriptedRelay) -> None:
    write_tiny(author / "checkpoint_best.bin")
    done = invoke(author, "publish", "checkpoint_best.bin", "--relay", threaded_relay.url)
    assert (done.returncode, threaded_relay.received) == (2, [])
    assert "pass --name" in only_line(done.stderr)


@pytest.mark.parametrize(("typed", "name"), [("", "author"), ("plays", "plays")])
def test_name_of_the_folder_is_a_suggestion(
    at_terminal: Publish, author: Path, threaded_relay: ScriptedRelay, typed: str, name: str
) -> None:
    write_tiny(author / "checkpoint_best.bin")
    code, said, _ = at_terminal("--relay", threaded_relay.url, answers=(typed, "y"))
    assert (code, names(threaded_relay)) == (0, [name])
    assert "Name to publish checkpoint_best.bin under [author]: " in said


# --- checkpoints that were never evaluated


def test_unevaluated_checkpoint_needs_a_flag(author: Path, threaded_relay: ScriptedRelay) -> None:
    tiny = tiny_checkpoint()
    header = CheckpointHeader(magic="RGPT0003", vocab_size=CONFIG.vocab_size, iteration=5, step=6, best_loss=np.inf)
    checkpoint = Checkpoint(header=header, config=CONFIG, weights=tiny.weights, optimizer_state=tiny.optimizer_state)
    sidecar = Sidecar(config=CONFIG, tokenizer=TOKENIZER, name="demo", iteration=5, losses={"best_val": None})
    save_checkpoint(author / "checkpoint_best.bin", checkpoint, sidecar)
    words = ("publish", "checkpoint_best.bin", "--relay", threaded_relay.url)
    refused = invoke(author, *words)
    assert (refused.returncode, threaded_relay.received) == (2, [])
    assert "no validation loss" in only_line(refused.stderr)
    assert "--without-validation" in refused.stderr
    accepted = invoke(author, *words, "--without-validation")
    assert (accepted.returncode, names(threaded_relay)) == (0, ["demo"])
    assert "no validation loss" in accepted.stderr


# --- many events


@pytest.fixture
def low_event_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MANY", 3)


@pytest.mark.usefixtures("low_event_limit")
def test_many_events_to_public_relays_need_yes(author: Path) -> None:
    words = ("publish", "checkpoint_best.bin", "--relay", "wss://relay.invalid")
    refused = invoke(author, *words)
    assert refused.returncode == 2
    assert "wss://relay.invalid: 8 events" in only_line(refused.stderr)
    assert "--yes" in refused.stderr
    confirmed = invoke(author, *words, "--yes")
    assert confirmed.returncode == 4  # it continues, and reaches no relay
    assert "no relay can be reached" in confirmed.stderr
    own = invoke(author, "publish", "checkpoint_best.bin", "--relay", "ws://127.0.0.1:1")
    assert own.returncode == 4


@pytest.mark.usefixtures("low_event_limit")
@pytest.mark.parametrize(("answer", "code"), [("y", 4), ("n", 2)])
def test_many_events_are_confirmed_at_a_terminal(at_terminal: Publish, answer: str, code: int) -> None:
    ended, said, _ = at_terminal("--relay", "wss://relay.invalid", answers=(answer,))
    assert ended == code
    assert "relays   wss://relay.invalid: 8 events" in said
    assert ("nothing was sent" in said) == (code == 2)
