"""What goes wrong around a run: files of somebody else under its names, damaged files, names that are none."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from support.command import environment, only_line
from support.models import TEXT, write_tiny

from randygpt import export, saving
from randygpt.cli.main import run
from randygpt.cli.spelling import normalise
from randygpt.header import CheckpointHeader
from randygpt.sidecar import describe, read_sidecar

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


def test_a_disk_that_fills_up_between_json_and_checkpoint_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(*TINY, "--iters", "10") == 0
    with monkeypatch.context() as full:
        full.setattr(saving, "write_checkpoint", no_room)
        assert train("--resume", "--iters", "20") == 5
    assert train("--resume", "--iters", "20") == 0
    beside = read_sidecar(Path("checkpoint.bin"))
    assert beside is not None
    assert beside.training["tokens_seen"] == 20 * 2 * 32


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": 5},
        {"recipe": []},
        {"recipe": "slow"},
        {"precision": []},
        {"precision": ["bf16"]},
        {"precision": 5},
        {"batch_size": "x"},
        {"batch_size": 0},
        {"batch_size": 10**30},
        {"seed": -1},
        {"seed": 2**40},
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


@pytest.mark.parametrize("field", ["iteration", "step"])
def test_counters_at_their_end(capsys: pytest.CaptureFixture[str], field: str) -> None:
    """What goes on from there could not be written."""
    assert train(*TINY, "--iters", "2") == 0
    path = Path("checkpoint.bin")
    data = path.read_bytes()
    fields = {name: getattr(CheckpointHeader.parse(data), name) for name in CheckpointHeader.__dataclass_fields__}
    path.write_bytes(CheckpointHeader(**fields | {field: 2**32 - 1}).encode() + data[24:])
    before = Path("checkpoint.json").read_bytes()
    capsys.readouterr()
    assert train("--resume", "--iters", str(2**32 + 5 if field == "iteration" else 3)) == 2
    assert "checkpoint.bin: " in only_line(capsys.readouterr().err)
    assert Path("checkpoint.json").read_bytes() == before


def test_a_second_moment_under_zero(capsys: pytest.CaptureFixture[str]) -> None:
    """The root of it is no number."""
    assert train(*TINY, "--iters", "2") == 0
    path = Path("checkpoint.bin")
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32(-1).tobytes()
    path.write_bytes(data)
    metrics = Path("checkpoint.metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert train("--resume", "--iters", "3") == 2
    assert "checkpoint.bin: " in only_line(capsys.readouterr().err)
    assert Path("checkpoint.metrics.jsonl").read_bytes() == metrics


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
        ("plot", "."),
        ("import", "folder", "."),
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


def test_a_prompt_that_is_not_text_is_json(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.bin")
    done = subprocess.run(
        [sys.executable, "-m", "randygpt", "generate", b"a\xff", "--model", "m.bin", "--max-tokens", "2", "--json"],
        cwd=tmp_path,
        env=environment(tmp_path) | {"PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["completions"]


def exported(change: Callable[[dict[str, str]], object] = lambda _: None) -> None:
    write_tiny(Path("m.bin"))
    assert run(["export", "m.bin", "folder"]) == 0
    path = Path("folder/model.safetensors")
    with safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata())
    change(metadata)
    save_file(load_file(path), path, metadata)


def test_an_import_that_does_not_fit_can_be_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    exported()
    with monkeypatch.context() as full:
        full.setattr(export, "write_checkpoint", no_room)
        assert run(["import", "folder", "back"]) == 5
    assert not Path("back.json").exists()
    assert run(["import", "folder", "back"]) == 0


def test_an_import_with_a_loss_that_no_header_holds(capsys: pytest.CaptureFixture[str]) -> None:
    exported(lambda metadata: metadata.update(best_loss="1e39"))
    capsys.readouterr()
    assert run(["import", "folder", "back"]) == 2
    assert "folder/model.safetensors: " in only_line(capsys.readouterr().err)
    assert not Path("back.json").exists()
