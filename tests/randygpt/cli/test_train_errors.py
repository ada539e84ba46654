"""Errors of training: files of another run under its names, damaged files, invalid names."""

import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from support.command import TIMEOUT_S, environment, only_line
from support.memory import memory_for
from support.models import TEXT, TOKENIZER, write_tiny

from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.rgpt import Checkpoint, write_checkpoint
from randygpt.checkpoint.sidecar import inspect_checkpoint
from randygpt.cli.main import run
from randygpt.cli.rust_compat import normalise
from randygpt.model.config import ModelConfig

TINY = ("--dim", "16", "--heads", "2", "--layers", "1", "--batch", "2", "--block", "32")


@pytest.fixture(autouse=True)
def _at_work(at_home: Path) -> None:
    (at_home / "train.txt").write_text(TEXT, encoding="utf-8")


def train(*words: str) -> int:
    return run(["train", "--quiet", *words])


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file grows beyond so many bytes meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def change_training(name: str, **changes: Any) -> None:  # noqa: ANN401 (JSON)
    path = Path(name)
    sidecar = json.loads(path.read_bytes())
    sidecar["training"] |= changes
    path.write_text(json.dumps(sidecar), encoding="utf-8")


@pytest.mark.parametrize("words", [("--train-file", "my.json"), ("--train-file", "my.bin"), ("--vocab", "my.json")])
def test_inputs_are_not_overwritten(capsys: pytest.CaptureFixture[str], words: tuple[str, str]) -> None:
    assert train(*TINY, "--iters", "1", "--checkpoint", "other") == 0
    text = TEXT if words[0] == "--train-file" else json.dumps(json.loads(Path("other.json").read_bytes())["tokenizer"])
    Path(words[1]).write_text(text, encoding="utf-8")
    capsys.readouterr()
    assert train(*TINY, "--iters", "2", "--checkpoint", "my", *words) == 2
    assert words[1] in only_line(capsys.readouterr().err)
    assert Path(words[1]).read_text(encoding="utf-8") == text


def test_best_checkpoint_belongs_to_the_resumed_run() -> None:
    """As `--resume my_run.bin` is typed, with the best of another run under the default name."""
    assert train(*TINY, "--iters", "30", "--lr", "1e-2", "--dim", "32") == 0
    assert train(*TINY, "--iters", "3", "--checkpoint", "my_run") == 0
    assert train("--resume", "my_run.bin", "--iters", "4", "--lr", "1e-9", "--min-lr", "1e-10") == 0
    assert inspect_checkpoint(Path("checkpoint.bin")).config.n_embd == 16
    assert inspect_checkpoint(Path("checkpoint_best.bin")).config.n_embd == 16


def test_full_disk_keeps_the_old_checkpoint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(*TINY, "--iters", "10") == 0
    before = {path: path.read_bytes() for path in (Path("checkpoint.bin"), Path("checkpoint.json"))}
    capsys.readouterr()
    with room_for(len(before[Path("checkpoint.bin")]) - 1):
        assert train("--resume", "--iters", "20") == 5
    assert "checkpoint" in only_line(capsys.readouterr().err)
    assert {path: path.read_bytes() for path in before} == before
    assert not list(Path().glob(".tmp*"))
    assert train("--resume", "--iters", "20") == 0


def test_full_disk_names_the_metrics_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*TINY, "--iters", "10") == 0
    metrics = Path("checkpoint.metrics.jsonl")
    metrics.write_bytes(b'{"iter": 0}\n' * 50_000)
    assert metrics.stat().st_size > Path("checkpoint.bin").stat().st_size
    capsys.readouterr()
    with room_for(metrics.stat().st_size):
        assert train("--resume", "--iters", "20") == 5
    assert "checkpoint.metrics.jsonl: " in only_line(capsys.readouterr().err)
    assert train("--resume", "--iters", "20") == 0


def test_diverged_run_keeps_older_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*TINY, "--iters", "10") == 0
    before = {path: path.read_bytes() for path in Path().glob("checkpoint*")}
    capsys.readouterr()
    assert train(*TINY, "--iters", "20", "--lr", "1e30") == 2
    assert "--lr" in only_line(capsys.readouterr().err)
    assert {path: path.read_bytes() for path in Path().glob("checkpoint*")} == before


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory is kept on Linux only")
def test_out_of_memory_keeps_older_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*TINY, "--iters", "2") == 0
    before = {path: path.read_bytes() for path in Path().glob("checkpoint*")}
    capsys.readouterr()
    with memory_for(1 << 30):
        assert train(*TINY, "--iters", "3", "--batch", "16000000") == 2
    assert "--accumulate" in only_line(capsys.readouterr().err)
    assert {path: path.read_bytes() for path in Path().glob("checkpoint*")} == before


def test_run_warns_about_replaced_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*TINY, "--iters", "1") == 0
    assert run(["train", *TINY, "--iters", "2"]) == 0
    assert "checkpoint.bin exists: the first save overwrites it" in capsys.readouterr().err
    assert run(["train", "--resume", "--iters", "3"]) == 0
    assert "already exists" not in capsys.readouterr().err


def test_directory_in_the_way_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("checkpoint.metrics.jsonl").mkdir()
    assert train(*TINY, "--iters", "1") == 2
    assert "checkpoint.metrics.jsonl: " in only_line(capsys.readouterr().err)


def test_unwritable_folder_fails_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("/proc")  # takes none from root either
    if not folder.is_dir():
        pytest.skip("no /proc here")
    assert run(["train", *TINY, "--iters", "1", "--checkpoint", str(folder / "m")]) == 5
    assert "/proc: cannot create files there" in only_line(capsys.readouterr().err)


def test_bare_resume_suggests_the_best_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*TINY, "--iters", "1") == 0
    Path("checkpoint.bin").unlink()
    capsys.readouterr()
    assert train("--resume", "--iters", "2") == 2
    assert "--resume checkpoint_best.bin" in only_line(capsys.readouterr().err)


def test_resume_with_other_vocabulary_size_warns(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*TINY, "--iters", "1", "--bpe", "40") == 0
    assert run(["train", "--resume", "--iters", "2", "--bpe", "50"]) == 0
    assert "--bpe 50 ignored: checkpoint.bin has a vocabulary of 40 tokens" in capsys.readouterr().err


def test_default_batch_of_a_deep_model(capsys: pytest.CaptureFixture[str]) -> None:
    deep = ModelConfig.from_preset("deep", vocab_size=TOKENIZER.vocab_size)
    header = CheckpointHeader(magic="RGPT0002", vocab_size=TOKENIZER.vocab_size, iteration=0, step=0, best_loss=1.0)
    zeros = np.zeros(deep.parameter_count, dtype=np.float32)
    write_checkpoint(Path("m.bin"), Checkpoint(header=header, config=deep, weights=zeros, optimizer_state=None))
    assert train("--resume", "m.bin", "--iters", "2", "--checkpoint", "m", "--accumulate", "17") == 2
    assert "--accumulate must be from 1 to the batch size, 16" in only_line(capsys.readouterr().err)


def test_invalid_world_size_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "x")
    assert train(*TINY, "--iters", "1") == 2
    assert "WORLD_SIZE" in only_line(capsys.readouterr().err)


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
        {"batch_size": True},
        {"precision": None},
        {"plateau_waited": 1.5},
        {"batch_size": 10**30},
        {"seed": -1},
        {"seed": 2**40},
        {"tokens_seen": -1},
        {"plateau_waited": "x"},
        {"plateau_cuts": 10**400},
    ],
    ids=lambda changes: str(changes)[:30],
)
def test_invalid_training_state_is_refused(capsys: pytest.CaptureFixture[str], changes: dict[str, object]) -> None:
    assert train(*TINY, "--iters", "2") == 0
    change_training("checkpoint.json", **changes)
    before = Path("checkpoint.bin").read_bytes()
    capsys.readouterr()
    assert train("--resume", "--iters", "3") == 2
    assert "checkpoint.json: " in only_line(capsys.readouterr().err)
    assert Path("checkpoint.bin").read_bytes() == before


def test_invalid_iteration_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*TINY, "--iters", "2") == 0
    path = Path("checkpoint.json")
    for value in (True, -1, 1.5):
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"iteration": value}), encoding="utf-8")
        capsys.readouterr()
        assert train("--resume", "--iters", "3") == 2
        assert "checkpoint.json: iteration" in only_line(capsys.readouterr().err)


@pytest.mark.parametrize("field", ["iteration", "step"])
def test_run_beyond_the_range_of_counters_is_refused(capsys: pytest.CaptureFixture[str], field: str) -> None:
    """The file format has 32-bit counters."""
    assert train(*TINY, "--iters", "2") == 0
    path = Path("checkpoint.bin")
    data = path.read_bytes()
    fields = {name: getattr(CheckpointHeader.parse(data), name) for name in CheckpointHeader.__dataclass_fields__}
    path.write_bytes(CheckpointHeader(**fields | {field: 2**32 - 1}).encode() + data[24:])
    before = Path("checkpoint.json").read_bytes()
    capsys.readouterr()
    if field == "iteration":
        assert train("--resume", "--iters", str(2**32 - 1)) == 0
        assert "nothing to do" in only_line(capsys.readouterr().err)
    assert train("--resume", "--iters", str(2**32 if field == "iteration" else 3)) == 2
    assert ("--iters" if field == "iteration" else "checkpoint.bin: ") in only_line(capsys.readouterr().err)
    assert Path("checkpoint.json").read_bytes() == before


def test_negative_second_moment_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Its square root would be NaN."""
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
def test_damaged_metrics_line_is_dropped(line: bytes) -> None:
    assert train(*TINY, "--iters", "2") == 0
    path = Path("checkpoint.metrics.jsonl")
    path.write_bytes(line + b"\n" + path.read_bytes())
    assert train("--resume", "--iters", "3") == 0
    assert [json.loads(row)["iter"] for row in path.read_bytes().splitlines()] == [0, 1, 2]


@pytest.mark.parametrize("text", ["", "hello"])
def test_short_text_is_named(capsys: pytest.CaptureFixture[str], text: str) -> None:
    Path("short.txt").write_text(text, encoding="utf-8")
    assert train(*TINY, "--train-file", "short.txt") == 2
    assert "short.txt has " in only_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--checkpoint", "."),
        ("train", "--checkpoint", ""),
        ("train", "--checkpoint", ".."),
        ("train", "--checkpoint", ".bin"),
        ("generate", "--checkpoint", "."),
        ("plot", "."),
        ("plot", ""),
        ("import", "folder", ".."),
        ("import", "folder", "."),
    ],
)
def test_invalid_file_names_are_refused(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    tiny = (*TINY, "--iters", "1") if words[0] == "train" else ()
    assert run([*words, *tiny]) == 2
    only_line(capsys.readouterr().err)


def test_nothing_to_do_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*TINY, "--iters", "2") == 0
    capsys.readouterr()
    assert run(["train", "--resume", "--iters", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["iteration"] == 1


def test_nothing_to_do_comes_before_other_checks(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither does the text have to be there, nor would anything be replaced."""
    assert train(*TINY, "--iters", "2", "--checkpoint", "my_run") == 0
    assert train(*TINY, "--iters", "1") == 0
    capsys.readouterr()
    assert run(["train", "--resume", "my_run.bin", "--iters", "2", "--train-file", "gone.txt"]) == 0
    assert "nothing to do: my_run.bin" in only_line(capsys.readouterr().err)


def test_small_vocabulary_names_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.txt").write_text(TEXT, encoding="utf-8")
    assert train(*TINY, "--train-file", "my.txt", "--bpe", "20") == 2
    assert "my.txt: --bpe 20 is too small" in only_line(capsys.readouterr().err)


def test_rust_checkpoint_flag_with_equals_sign() -> None:
    words = normalise(["--serve", "--checkpoint=my_run"])
    assert "checkpoint" not in words


@pytest.mark.full
def test_undecodable_prompt_as_json(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.bin")
    done = subprocess.run(
        [sys.executable, "-m", "randygpt", "generate", b"a\xff", "--model", "m.bin", "--max-tokens", "2", "--json"],
        cwd=tmp_path,
        env=environment(tmp_path) | {"PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        check=False,
        timeout=TIMEOUT_S,
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


def test_import_can_be_repeated_after_full_disk() -> None:
    exported()
    with room_for(Path("m.bin").stat().st_size - 1):
        assert run(["import", "folder", "back"]) == 5
    assert not list(Path().glob("*back*"))
    assert run(["import", "folder", "back"]) == 0


def test_import_with_oversized_loss_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    exported(lambda metadata: metadata.update(best_loss="1e39"))
    capsys.readouterr()
    assert run(["import", "folder", "back"]) == 2
    assert "folder/model.safetensors: " in only_line(capsys.readouterr().err)
    assert not Path("back.json").exists()
