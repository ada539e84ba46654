"""What `randygpt train` shows at the start and at the end of a run, and its defaults."""

import json
import re
from pathlib import Path

import pytest
from support.command import only_line
from support.models import TEXT
from support.terminal import typed

from randygpt.checkpoint.sidecar import inspect_checkpoint, read_sidecar
from randygpt.cli.main import run
from randygpt.model.tokenizer import BpeTokenizer

Capture = pytest.CaptureFixture[str]
TINY = ("--dim", "16", "--heads", "2", "--layers", "1", "--batch", "2")


@pytest.fixture(autouse=True)
def folder(at_home: Path) -> Path:
    (at_home / "my.txt").write_text(TEXT, encoding="utf-8")
    return at_home


def test_default_is_the_fast_recipe_and_a_small_preset() -> None:
    small = ("--layers", "1", "--block", "32", "--batch", "1")
    assert run(["train", "my.txt", "--iters", "1", *small, "--quiet"]) == 0
    sidecar = read_sidecar(Path("checkpoint.bin"))
    assert sidecar is not None
    assert (sidecar.training["recipe"], sidecar.config.n_embd, sidecar.config.n_head) == ("fast", 116, 4)


def test_start_names_the_run_and_its_files(capsys: Capture) -> None:
    assert run(["train", "my.txt", *TINY, "--iters", "10", "--checkpoint", "fox", "--precision", "float32"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:5] == [
        "text    my.txt",
        "tokens  3,240 for training, 360 for validation; 31 different characters",
        "model   8,160 parameters: 1 layers, 2 heads, width 16",
        "run     fast recipe, 10 iterations of 2 x 256 tokens, cpu, float32",
        "files   fox.bin, fox_best.bin and fox.metrics.jsonl",
    ]
    assert re.fullmatch(r"time    about \d+ s left, [\d,]+ ms per iteration", lines[5])
    assert all(len(line) <= 80 for line in lines)


def test_end_names_both_checkpoints_and_the_next_commands(capsys: Capture) -> None:
    flags = (*TINY, "--iters", "9", "--lr", "9", "--min-lr", "9", "--checkpoint", "fox")
    assert run(["train", "my.txt", *flags]) == 0
    best, newest = inspect_checkpoint(Path("fox_best.bin")), inspect_checkpoint(Path("fox.bin"))
    assert best.header.iteration < newest.header.iteration == 8  # such a learning rate spoils it
    output = capsys.readouterr()
    first, second, third, fourth = output.out.splitlines()
    assert first.startswith("finished at iteration 9 of 9 (")
    loss = best.header.best_loss
    where = f"iteration {best.header.iteration + 1}, validation loss {loss:.4f}, "
    assert re.fullmatch(rf"best    {where}\d\.\d{{3}} bits per byte", second)
    assert re.fullmatch(r"newest  iteration 9, training loss [\d.]+, validation loss [\d.]+", third)
    assert fourth == "saved   fox_best.bin (best) and fox.bin (newest)"
    assert output.err.splitlines()[-3:] == [
        "sample  randygpt generate The --model fox_best.bin",
        "share   randygpt publish fox_best.bin",
        "longer  randygpt train my.txt --resume --checkpoint fox --iters 18",
    ]


def test_json_result_has_both_iterations(capsys: Capture) -> None:
    assert run(["train", "my.txt", *TINY, "--iters", "2", "--json"]) == 0
    result = json.loads(only_line(capsys.readouterr().out))
    assert (result["iteration"], result["best_iteration"], result["best"]) == (1, 1, "checkpoint_best.bin")
    assert result["val_loss"] == result["best_val_loss"]
    assert result["best_bits_per_byte"] == pytest.approx(result["val_loss"] / 0.6931, rel=1e-3)  # one byte per token


def test_run_without_improvement_says_so(capsys: Capture) -> None:
    assert run(["train", "my.txt", *TINY, "--iters", "16", "--lr", "9", "--min-lr", "9"]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "not improved" in line]
    assert len(notes) == 1
    assert re.fullmatch(r"validation loss has not improved for 5 evaluations; best at iteration \d+", notes[0])


def test_text_is_an_argument_or_a_flag(capsys: Capture) -> None:
    Path("other.txt").write_text(TEXT[::-1], encoding="utf-8")
    common = (*TINY, "--iters", "1", "--quiet")
    assert run(["train", "my.txt", "--train-file", "other.txt", *common]) == 2
    assert "two texts: my.txt and --train-file other.txt; name one" in only_line(capsys.readouterr().err)
    assert run(["train", "my.txt", *common]) == 0
    by_argument = Path("checkpoint.bin").read_bytes()
    assert run(["train", "--train-file", "my.txt", *common]) == 0
    assert Path("checkpoint.bin").read_bytes() == by_argument


def test_text_on_the_command_line_overrides_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANDYGPT_TRAIN_TRAIN_FILE", "missing.txt")
    assert run(["train", "my.txt", *TINY, "--iters", "1", "--quiet"]) == 0
    monkeypatch.setenv("RANDYGPT_TRAIN_FILE", "missing.txt")
    assert run(["train", "--train-file", "my.txt", *TINY, "--iters", "1", "--quiet"]) == 0


def test_bits_per_byte_compares_tokenizers() -> None:
    """An untrained model needs ln V nats per token, whatever the tokenizer."""
    bits = {}
    for name, flags in {"char": (), "bpe": ("--bpe", "60")}.items():
        assert (
            run(["train", "my.txt", *TINY, "--iters", "1", "--block", "32", "--checkpoint", name, *flags, "--quiet"])
            == 0
        )
        line = json.loads(Path(f"{name}.metrics.jsonl").read_text(encoding="utf-8"))
        bits[name] = line["val_bits_per_byte"]
    sidecar = read_sidecar(Path("bpe.bin"))
    assert sidecar is not None
    assert isinstance(sidecar.tokenizer, BpeTokenizer)
    ids = sidecar.tokenizer.encode(TEXT)
    expected = len(ids) / len(TEXT) * 5.9  # log2 of 60
    assert bits["char"] == pytest.approx(4.95, abs=0.3)  # log2 of 31
    assert bits["bpe"] == pytest.approx(expected, rel=0.1)


@pytest.mark.full
def test_terminal_shows_progress_of_our_own(folder: Path) -> None:
    flags = ("--bpe", "60", "--block", "32", "--iters", "16", "--checkpoint", "fox")
    code, screen = typed(folder, "train", "my.txt", *TINY, *flags, answers={})
    assert code == 0
    assert "reading my.txt" in screen
    assert "Compute merges" not in screen  # of the tokenizers library
    assert re.search(r" 2/16  training \d\.\d{4}  validation \d\.\d{4}  \d\.\d{3} bits per byte  best", screen)
    assert re.search(r"training loss \d\.\d{4}, validation \d\.\d{4}, \d\.\d{3} bits per byte", screen)
    assert "longer  randygpt train my.txt --resume --checkpoint fox --iters 32" in screen
