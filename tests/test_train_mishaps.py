"""What goes wrong around a run: files of somebody else under its names, damaged files, names that are none."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.command import only_line
from support.models import TEXT

from randygpt.cli.main import run
from randygpt.cli.spelling import normalise
from randygpt.sidecar import describe

TINY = ("--dim", "16", "--heads", "2", "--layers", "1", "--batch", "2", "--block", "32")


@pytest.fixture(autouse=True)
def _at_work(at_home: Path) -> None:
    (at_home / "train.txt").write_text(TEXT, encoding="utf-8")


def train(*words: str) -> int:
    return run(["train", "--quiet", *words])


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def change_training(name: str, **changes: Any) -> None:  # noqa: ANN401 (JSON)
    path = Path(name)
    beside = json.loads(path.read_bytes())
    beside["training"] |= changes
    path.write_text(json.dumps(beside), encoding="utf-8")


@pytest.mark.parametrize("words", [("--train-file", "my.json"), ("--train-file", "my.bin"), ("--vocab", "my.json")])
def test_what_is_read_is_not_written_over(capsys: pytest.CaptureFixture[str], words: tuple[str, str]) -> None:
    assert train(*TINY, "--iters", "1", "--checkpoint", "other") == 0
    text = TEXT if words[0] == "--train-file" else json.dumps(json.loads(Path("other.json").read_bytes())["tokenizer"])
    Path(words[1]).write_text(text, encoding="utf-8")
    capsys.readouterr()
    assert train(*TINY, "--iters", "2", "--checkpoint", "my", *words) == 2
    assert words[1] in only_line(capsys.readouterr().err)
    assert Path(words[1]).read_text(encoding="utf-8") == text


def test_the_best_file_of_a_resume_under_another_name_is_of_that_run() -> None:
    """As `--resume my_run.bin` is typed, with the best of another run under the default name."""
    assert train(*TINY, "--iters", "30", "--lr", "1e-2", "--dim", "32") == 0
    assert train(*TINY, "--iters", "3", "--checkpoint", "my_run") == 0
    assert train("--resume", "my_run.bin", "--iters", "4", "--lr", "1e-9", "--min-lr", "1e-10") == 0
    assert describe(Path("checkpoint.bin")).config.n_embd == 16
    assert describe(Path("checkpoint_best.bin")).config.n_embd == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": 5},
        {"recipe": []},
        {"precision": []},
        {"precision": ["bf16"]},
        {"precision": 5},
        {"batch_size": "x"},
        {"batch_size": 10**30},
        {"seed": -1},
        {"tokens_seen": -1},
        {"plateau_waited": "x"},
        {"plateau_cuts": 10**400},
    ],
    ids=lambda changes: str(changes)[:30],
)
def test_damaged_facts_of_a_run(capsys: pytest.CaptureFixture[str], changes: dict[str, object]) -> None:
    assert train(*TINY, "--iters", "2") == 0
    change_training("checkpoint.json", **changes)
    before = Path("checkpoint.bin").read_bytes()
    capsys.readouterr()
    assert train("--resume", "--iters", "3") == 2
    assert "checkpoint.json: " in only_line(capsys.readouterr().err)
    assert Path("checkpoint.bin").read_bytes() == before


@pytest.mark.parametrize("line", [b'{"iter": 1%s}' % (b"0" * 400), b"[" * 100_000], ids=["huge", "deep"])
def test_a_damaged_line_of_metrics_is_taken_out(line: bytes) -> None:
    assert train(*TINY, "--iters", "2") == 0
    path = Path("checkpoint.metrics.jsonl")
    path.write_bytes(line + b"\n" + path.read_bytes())
    assert train("--resume", "--iters", "3") == 0
    assert [json.loads(row)["iter"] for row in path.read_bytes().splitlines()] == [0, 1, 2]


@pytest.mark.parametrize("text", ["", "hello"])
def test_a_text_too_short_is_named(capsys: pytest.CaptureFixture[str], text: str) -> None:
    Path("short.txt").write_text(text, encoding="utf-8")
    assert train(*TINY, "--train-file", "short.txt") == 2
    assert "short.txt: " in only_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--checkpoint", "."),
        ("train", "--checkpoint", ""),
        ("train", "--checkpoint", ".."),
        ("train", "--checkpoint", ".bin"),
        ("generate", "--checkpoint", "."),
    ],
)
def test_a_name_that_is_none(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    tiny = (*TINY, "--iters", "1") if words[0] == "train" else ()
    assert run([*words, *tiny]) == 2
    only_line(capsys.readouterr().err)


def test_nothing_to_do_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*TINY, "--iters", "2") == 0
    capsys.readouterr()
    assert run(["train", "--resume", "--iters", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["iteration"] == 1


def test_a_prefix_behind_an_equals_sign_is_served() -> None:
    words = normalise(["--serve", "--checkpoint=my_run"])
    assert "checkpoint" not in words
