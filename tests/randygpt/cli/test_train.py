"""`randygpt train` as a user types it: shapes, recipes, fine-tuning, and what it says when there is nothing to do."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.command import only_line
from support.models import TEXT, TOKENIZER

from randygpt.checkpoint.rgpt import read_checkpoint, read_weights
from randygpt.checkpoint.sidecar import CheckpointInfo, inspect_checkpoint, read_sidecar
from randygpt.cli.main import run

TINY = ("--dim", "16", "--heads", "2", "--layers", "1", "--batch", "2", "--block", "64")


@pytest.fixture
def at_work(at_home: Path) -> Path:
    (at_home / "train.txt").write_text(TEXT, encoding="utf-8")
    return at_home


def train(*words: str) -> int:
    return run(["train", "--quiet", *words])


def found(name: str = "checkpoint.bin") -> CheckpointInfo:
    return inspect_checkpoint(Path(name))


def training(name: str = "checkpoint.bin") -> dict[str, object]:
    sidecar = read_sidecar(Path(name))
    assert sidecar is not None
    return dict(sidecar.training)


@pytest.mark.usefixtures("at_work")
def test_any_shape_can_be_trained() -> None:
    assert train(*TINY, "--iters", "2") == 0
    config = found().config
    assert (config.n_embd, config.n_head, config.n_layer, config.block_size) == (16, 2, 1, 64)
    assert train("--preset", "xs", "--layers", "1", "--batch", "2", "--iters", "1", "--checkpoint", "other") == 0
    config = found("other.bin").config
    assert (config.n_embd, config.n_head, config.n_layer, config.preset) == (116, 4, 1, "custom")


@pytest.mark.usefixtures("at_work")
def test_impossible_shape_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--dim", "10", "--heads", "3") == 2
    assert "--heads 3 does not divide --dim 10" in only_line(capsys.readouterr().err)


@pytest.mark.usefixtures("at_work")
def test_custom_shape_without_json_needs_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*TINY, "--iters", "2") == 0
    Path("checkpoint.json").unlink()
    capsys.readouterr()
    assert train("--resume", "--iters", "3") == 2
    assert "fit no preset" in only_line(capsys.readouterr().err)
    assert train(*TINY, "--resume", "--iters", "3") == 0
    assert found().header.iteration == 2


@pytest.mark.usefixtures("at_work")
def test_resume_with_other_shape_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*TINY, "--iters", "1") == 0
    capsys.readouterr()
    assert train("--resume", "--iters", "3", "--dim", "32") == 2
    line = only_line(capsys.readouterr().err)
    assert "says dim 16, heads 2, layers 1, block 64, but the flags say dim 32, heads 8, layers 6" in line


@pytest.mark.usefixtures("at_work")
def test_recipe_is_remembered() -> None:
    assert train(*TINY, "--recipe", "classic", "--iters", "2") == 0
    assert training()["recipe"] == "classic"
    assert train("--dim", "16", "--heads", "2", "--layers", "1", "--iters", "2") == 0
    assert (training()["recipe"], training()["batch_size"]) == ("fast", 8)
    assert train("--resume", "--iters", "3") == 0
    assert (training()["recipe"], training()["batch_size"]) == ("fast", 8)
    lines = [json.loads(line) for line in Path("checkpoint.metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["lr"] for line in lines] == pytest.approx([0.003, 0.00315, 0.0033], rel=0.5)  # a warm-up
    assert [line["tokens"] for line in lines] == [8 * 256 * count for count in (1, 2, 3)]


@pytest.mark.usefixtures("at_work")
def test_resume_remembers_learning_rates_and_target(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--recipe", "classic", "--lr", "0.5", "--min-lr", "0.25", "--accumulate", "2")
    assert train(*TINY, "--iters", "4", *options) == 0
    started = training()
    assert train("--resume", "--iters", "6") == 0
    changing = ("tokens_seen", "best_iteration", "plateau_waited")
    assert training() | {"iterations": 4} | {name: started[name] for name in changing} == started
    capsys.readouterr()
    assert run(["train", "--resume", "--iters", "7", "--lr", "0.125"]) == 0
    changes = "--iters 7 (was 6), --lr 0.125 (was 0.5), --min-lr 0.125 (was 0.25)"
    assert f"changed since the checkpoint was saved: {changes}" in capsys.readouterr().err.splitlines()
    assert train("--resume") == 0
    assert "nothing to do: checkpoint.bin is already at iteration 7; pass --iters above that" in only_line(
        capsys.readouterr().err
    )
    assert run(["train", "--resume", "--iters", "8", "--recipe", "fast"]) == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("changed"))
    assert line.endswith(
        "--recipe fast (was classic), --iters 8 (was 7), --lr 0.03 (was 0.125), --min-lr 0.0015 (was 0.125), "
        "dropout 0 (was 0.1)"
    )


@pytest.mark.usefixtures("at_work")
def test_text_that_the_vocabulary_lacks_needs_consent(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*TINY, "--iters", "1") == 0
    Path("greek.txt").write_text("the λόγος " * 800, encoding="utf-8")
    again = ("train", "--resume", "--train-file", "greek.txt")
    capsys.readouterr()
    assert run([*again, "--iters", "2"]) == 2
    line = only_line(capsys.readouterr().err)
    assert "greek.txt: 4,000 of 8,000 characters (50.0%) are not in the vocabulary; " in line
    assert "pass --drop-unknown" in line
    assert found().header.iteration == 0
    assert run([*again, "--iters", "2", "--drop-unknown"]) == 0
    assert "4,000 of 8,000 characters (50.0%) are not in the vocabulary and are dropped" in capsys.readouterr().err
    assert run([*again, "--iters", "3"]) == 0  # remembered
    capsys.readouterr()
    assert run(["generate", "the λ", "λ", "--model", "checkpoint.bin", "--max-tokens", "2"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "vocabulary" in line]
    assert lines == [
        f"1 of {size} characters of the prompt are not in the vocabulary and are dropped" for size in (5, 1)
    ]
    assert run(["generate", "the", "--model", "checkpoint.bin", "--max-tokens", "2"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("at_work")
@pytest.mark.parametrize("words", [("--recipe", "slow"), ("--accumulate", "3", "--batch", "2"), ("--precision", "fp8")])
def test_unsupported_option_value_is_refused(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert train("--iters", "1", *words) == 2
    only_line(capsys.readouterr().err)
    assert not Path("checkpoint.bin").exists()


@pytest.mark.usefixtures("at_work")
@pytest.mark.parametrize("words", [("--resume", "base.bin", "--fine-tune"), ("--fine-tune", "--resume", "base.bin")])
def test_fine_tune_keeps_only_the_weights(words: tuple[str, ...]) -> None:
    assert train(*TINY, "--iters", "30", "--seed", "5", "--checkpoint", "base") == 0
    before = Path("base.bin").read_bytes()
    Path("other.txt").write_text(TEXT[::-1], encoding="utf-8")
    # a rate so low that the weights stay where they are
    rate = ("--lr", "1e-12", "--min-lr", "1e-12", "--iters", "4", "--batch", "2")
    assert train(*words, *rate, "--train-file", "other.txt", "--checkpoint", "tuned") == 0
    tuned, base = found("tuned.bin"), found("base.bin")
    assert (tuned.header.iteration, tuned.header.step) == (3, 4)
    assert tuned.header.best_loss > base.header.best_loss  # on a text it does not know
    weights = read_weights(tuned.path, tuned.config)
    np.testing.assert_allclose(weights, read_weights(base.path, base.config), rtol=0, atol=1e-9)
    states = [read_checkpoint(each.path, each.config).optimizer_state for each in (tuned, base)]
    assert states[0] is not None
    assert states[1] is not None
    assert not np.allclose(states[0][1], states[1][1])
    assert training("tuned.bin")["seed"] != 5
    assert tuned.sidecar is not None
    assert tuned.sidecar.name == "tuned"
    assert tuned.tokenizer is not None
    assert tuned.tokenizer.to_json() == TOKENIZER.to_json()
    lines = Path("tuned.metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["iter"] for line in lines] == [0, 1, 2, 3]
    assert Path("base.bin").read_bytes() == before


@pytest.mark.usefixtures("at_work")
def test_fine_tune_defaults_to_newest_checkpoint() -> None:
    assert train(*TINY, "--iters", "3") == 0
    assert train("--fine-tune", "--iters", "2", "--batch", "2") == 0
    assert found().header.iteration == 1


@pytest.mark.usefixtures("at_work")
def test_fine_tune_without_checkpoint_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--fine-tune", "--iters", "2") == 2
    assert "checkpoint.bin: No such file" in only_line(capsys.readouterr().err)


@pytest.mark.usefixtures("at_work")
@pytest.mark.parametrize("iters", ["2", "1"])
def test_resume_at_target_has_nothing_to_do(capsys: pytest.CaptureFixture[str], iters: str) -> None:
    assert train(*TINY, "--iters", "2") == 0
    before = Path("checkpoint.bin").read_bytes()
    capsys.readouterr()
    assert run(["--iters", iters, "--resume", "--quiet"]) == 0
    assert "nothing to do: checkpoint.bin is already at iteration 2; pass --iters above that" in only_line(
        capsys.readouterr().err
    )
    assert Path("checkpoint.bin").read_bytes() == before


@pytest.mark.usefixtures("at_work")
@pytest.mark.parametrize(
    "words",
    [
        ("--iters", "3", "--seed", "1"),
        ("--iters", "3", "--bpe", "40"),
        ("--iters", "3", "--bpe", "40", "--checkpoint", "my_run", "--lr", "1e-3", "--min-lr", "1e-4"),
        ("--iters", "3", "--train-file", "train.txt"),
    ],
)
def test_rust_command_lines(words: tuple[str, ...]) -> None:
    assert run([*words, *TINY, "--quiet"]) == 0
    assert training("my_run.bin" if "my_run" in words else "checkpoint.bin")["recipe"] == "classic"
    prefix = "my_run" if "my_run" in words else "checkpoint"
    more = ["--checkpoint", prefix] if prefix == "my_run" else []
    for resume in (["--resume"], ["--resume", f"{prefix}_best.bin"], ["--resume", f"{prefix}.bin"]):
        assert run(["--iters", "4", *resume, *more, "--quiet"]) == 0
    assert found(f"{prefix}.bin").header.iteration == 3
    assert found(f"{prefix}.bin").config.vocab_size == (40 if "--bpe" in words else TOKENIZER.vocab_size)
    bpe = ["--bpe"] if "--bpe" in words else []
    assert run(["--iters", "5", "--resume", *bpe, *more, "--quiet"]) == 0
    assert (
        run(["--generate", "the", "fox", "--max-tokens", "5", "--temperature", "0.5", "--top-p", "0.9", *bpe, *more])
        == 0
    )


@pytest.mark.usefixtures("at_work")
def test_rust_flags_train_and_resume(capsys: pytest.CaptureFixture[str]) -> None:
    common = (*TINY, "--quiet")
    assert run(["--iters", "2", *common]) == 0
    assert run(["--iters", "3", "--resume", *common]) == 0
    metrics = Path("checkpoint.metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["iter"] for line in metrics] == [0, 1, 2]
    capsys.readouterr()
    assert run(["--iters", "3", "--resume", *common]) == 0
    assert "nothing to do" in only_line(capsys.readouterr().err)


@pytest.mark.usefixtures("at_work")
def test_bpe_vocabulary_survives_a_resume() -> None:
    common = (*TINY, "--quiet")
    assert run(["--iters", "1", "--bpe", "40", *common]) == 0
    assert run(["--iters", "2", "--bpe", "--resume", *common]) == 0
    sidecar = json.loads(Path("checkpoint.json").read_text(encoding="utf-8"))
    assert (sidecar["config"]["tokenizer"], sidecar["config"]["vocab_size"], sidecar["iteration"]) == ("bpe", 40, 1)


def test_long_text_is_tokenized_once(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, tokens = at_home / "my.txt", at_home / "my.txt.tokens"
    text.write_text(TEXT * 300, encoding="utf-8")
    common = ("train", *TINY, "--train-file", "my.txt")
    assert run([*common, "--iters", "1", "--quiet"]) == 0
    made = tokens.stat().st_ino
    assert run([*common, "--iters", "2", "--resume", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert tokens.stat().st_ino == made
    text.write_text("my " + TEXT * 300, encoding="utf-8")
    assert run([*common, "--iters", "3", "--resume"]) == 0
    assert "checkpoint.bin was trained on another text" in capsys.readouterr().err
    assert tokens.stat().st_ino != made
    tokens.write_bytes(b"something of mine")
    assert run([*common, "--iters", "4", "--resume"]) == 0
    assert capsys.readouterr().err.count("my.txt.tokens is not a token cache") == 1
    assert tokens.read_bytes() == b"something of mine"


def test_prefix_that_is_no_text_can_be_saved(at_work: Path) -> None:
    assert train(*TINY, "--block", "64", "--iters", "1", "--checkpoint", "m\udcff") == 0
    sidecar = read_sidecar(at_work / "m\udcff.bin")
    assert sidecar is not None
    assert sidecar.name == "m\ufffd"
    assert run(["plot", "m\udcff", "--quiet"]) == 0
