"""Training runs: learning, files, timing of saves, and disk failures."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.models import TEXT, TOKENIZER, evaluate_every
from torch.nn import functional

from randygpt.checkpoint.rgpt import read_checkpoint
from randygpt.checkpoint.sidecar import inspect_checkpoint, read_sidecar
from randygpt.errors import Diverged, InvalidModelFile
from randygpt.model.config import ModelConfig
from randygpt.model.gpt import GPT
from randygpt.training import trainer as trainer_module
from randygpt.training.checkpointing import CheckpointWriter, Step
from randygpt.training.compute import EVAL_SEQUENCES
from randygpt.training.data import Corpus
from randygpt.training.options import TrainOptions
from randygpt.training.recipe import RECIPES, Recipe
from randygpt.training.trainer import Trainer

BLOCK = 64
FILES = ("m.bin", "m.json", "m_best.bin", "m_best.json")


def shape(vocab_size: int) -> ModelConfig:
    return ModelConfig(n_embd=16, n_head=2, n_layer=2, vocab_size=vocab_size, block_size=BLOCK)


def options(folder: Path, iterations: int = 6, **changes: Any) -> TrainOptions:  # noqa: ANN401 (fields)
    folder.mkdir(exist_ok=True)
    made = TrainOptions(iterations=iterations, batch_size=2, seed=1, max_lr=3e-3, prefix=folder / "m")
    return replace(made, **changes)


def run(asked: TrainOptions, *, stop_after: int | None = None, name: str = "") -> tuple[Trainer, list[Step], bool]:
    """Train a new model; return the trainer, its reports, and whether it finished."""
    trainer = Trainer.start(asked, TEXT, shape, name=name)
    steps: list[Step] = []
    finished = trainer.run(steps.append, lambda: len(steps) == stop_after)
    return trainer, steps, finished


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "m.metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_loss_falls(tmp_path: Path) -> None:
    trainer, steps, finished = run(options(tmp_path, 50, batch_size=4))
    assert finished
    assert [step.iteration for step in steps] == list(range(50))
    assert steps[0].loss == pytest.approx(math.log(TOKENIZER.vocab_size), abs=0.05)
    assert steps[-1].loss < steps[0].loss - 0.3
    assert trainer.best_loss < steps[0].loss - 0.3
    assert trainer.next_iteration == 50


def test_run_leaves_exactly_its_files(tmp_path: Path) -> None:
    trainer, steps, _ = run(options(tmp_path), name="story")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([*FILES, "m.metrics.jsonl"])
    for name in ("m.bin", "m_best.bin"):
        found = inspect_checkpoint(tmp_path / name)
        assert (found.header.magic, found.header.iteration, found.header.step) == ("RGPT0003", 5, 6)
        assert found.header.best_loss == pytest.approx(trainer.best_loss, rel=1e-6)
        assert found.config == shape(TOKENIZER.vocab_size)
        assert found.tokenizer is not None
        assert found.tokenizer.vocab == TOKENIZER.chars
        assert found.sidecar is not None
        assert (found.sidecar.name, found.sidecar.iteration) == ("story", 5)
        assert found.sidecar.matches(found.header)
        best = trainer.best_loss
        assert found.sidecar.losses == {"train": steps[-1].loss, "val": best, "best_val": best}
        assert found.sidecar.training == {
            "recipe": "classic",
            "precision": "float32",
            "tokens_seen": 6 * 2 * BLOCK,
            "tokens": Corpus(TEXT, TOKENIZER, BLOCK).identity,
            "seed": 1,
            "batch_size": 2,
            "iterations": 6,
            "accumulate": 1,
            "drop_unknown": False,
            "max_lr": trainer.options.max_lr,
            "min_lr": trainer.options.min_lr,
            "dropout": trainer.options.dropout,
            "plateau_waited": 0,
            "plateau_cuts": 0,
            "bytes_per_token": 1.0,
            "best_iteration": 5,
        }


def test_checkpoint_has_the_trained_weights(tmp_path: Path) -> None:
    trainer, _, _ = run(options(tmp_path))
    written = read_checkpoint(tmp_path / "m.bin", trainer.model.config)
    assert np.array_equal(written.weights, trainer.model.flat)
    assert not np.array_equal(written.weights, GPT.initialize(trainer.model.config, seed=1).flat)
    assert written.optimizer_state is not None
    assert all(np.abs(moment).max() > 0 for moment in written.optimizer_state)


def test_metrics_have_one_line_per_iteration(tmp_path: Path) -> None:
    _, steps, _ = run(options(tmp_path, 30, batch_size=1))
    lines = metrics(tmp_path)
    assert [line["iter"] for line in lines] == list(range(30))
    for line, step in zip(lines, steps, strict=True):
        measured = step.iteration % 3 == 2
        expected = {"iter", "loss", "lr", "ms_per_iter", "tokens"}
        expected |= {"val_loss", "val_bits_per_byte"} if measured else set()
        assert set(line) == expected
        assert (step.val_loss is not None) == measured
        assert (line["loss"], line["lr"]) == (round(step.loss, 6), step.lr)
    assert lines[17]["lr"] == 3e-3
    assert 1e-5 < lines[29]["lr"] < lines[20]["lr"] < 3e-3


def test_new_run_replaces_the_metrics(tmp_path: Path) -> None:
    run(options(tmp_path, 6))
    run(options(tmp_path, 3))
    assert [line["iter"] for line in metrics(tmp_path)] == [0, 1, 2]


def test_best_checkpoint_has_the_lowest_validation_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_every(monkeypatch, 1)
    trainer, _, _ = run(options(tmp_path, 12, max_lr=0.12, min_lr=0.12))  # so high that the loss jumps
    losses = [line["val_loss"] for line in metrics(tmp_path)]
    best = losses.index(min(losses))
    assert 0 < best < 11
    found = inspect_checkpoint(tmp_path / "m_best.bin")
    assert (found.header.iteration, found.header.step) == (best, best + 1)
    assert found.header.best_loss == pytest.approx(losses[best], abs=1e-5)
    assert inspect_checkpoint(tmp_path / "m.bin").header.best_loss == found.header.best_loss
    model = GPT(found.config, torch.from_numpy(read_checkpoint(found.path, found.config).weights)).eval()
    inputs, targets = Corpus(TEXT, TOKENIZER, BLOCK).validation(EVAL_SEQUENCES)
    with torch.inference_mode():
        loss = functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(losses[best], abs=1e-5)
    assert trainer.best_loss == pytest.approx(losses[best], abs=1e-5)


def test_stop_before_any_evaluation_saves_no_best(tmp_path: Path) -> None:
    trainer, steps, finished = run(options(tmp_path, 100), stop_after=2)
    assert not finished
    assert [step.iteration for step in steps] == [0, 1]
    assert {path.name for path in tmp_path.iterdir()} == {"m.bin", "m.json", "m.metrics.jsonl"}
    assert inspect_checkpoint(tmp_path / "m.bin").header.best_loss == trainer.best_loss == math.inf
    assert trainer.saved_best is None


@pytest.mark.parametrize("iterations", [1, 7, 8, 30, 199])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_run_is_evaluated_at_least_eight_times(recipe: Recipe, iterations: int) -> None:
    assert iterations // recipe.eval_interval(iterations) >= min(iterations, 8)
    assert recipe.eval_interval(1_000_000) == recipe.eval_every


def test_bits_per_byte_counts_the_bytes_of_the_targets(tmp_path: Path) -> None:
    text = "the quick brown \N{FOX FACE}" * 200  # 16 characters of one byte, one of four
    trainer = Trainer.start(options(tmp_path), text, shape)
    assert trainer.bits_per_byte(math.log(2)) == pytest.approx(17 / 20, abs=0.01)


def test_sidecar_is_strict_json(tmp_path: Path) -> None:
    run(options(tmp_path, 100), stop_after=2)

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    contents = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert contents["losses"]["best_val"] is None
    assert "best_iteration" not in contents["training"]


def test_equal_seeds_give_equal_models(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        torch.manual_seed(len(folder))
        run(options(tmp_path / folder))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_other_seed_gives_another_model(tmp_path: Path) -> None:
    run(options(tmp_path / "a"))
    run(options(tmp_path / "b", seed=2))
    assert contents(tmp_path / "a")["m.bin"] != contents(tmp_path / "b")["m.bin"]


def test_dropout_affects_training(tmp_path: Path) -> None:
    run(options(tmp_path / "a", 2))
    run(options(tmp_path / "b", 2, dropout=0.0))
    assert contents(tmp_path / "a")["m.bin"] != contents(tmp_path / "b")["m.bin"]


@pytest.mark.parametrize("lost_at", [0, 2, 5])
def test_missing_folder_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost_at: int) -> None:
    evaluate_every(monkeypatch, 1)
    folder = tmp_path / "run"
    trainer = Trainer.start(options(folder), TEXT, shape)

    def lose(step: Step) -> None:
        if step.iteration == lost_at:
            folder.rename(tmp_path / "elsewhere")  # atomically: the writer may be creating a file in it

    with pytest.raises(OSError, match="m") as caught:
        trainer.run(lose, lambda: False)
    assert isinstance(caught.value, FileNotFoundError)
    assert not folder.exists()


def test_latest_state_is_saved_periodically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "SAVE_EVERY_S", -1.0)
    trainer = Trainer.start(options(tmp_path, 100), TEXT, shape)

    def crash(step: Step) -> None:
        if step.iteration == 4:
            raise RuntimeError("out of power")

    with pytest.raises(RuntimeError, match="out of power"):
        trainer.run(crash, lambda: False)
    assert inspect_checkpoint(tmp_path / "m.bin").header.iteration == 3
    assert not (tmp_path / "m_best.bin").exists()


def test_largest_seed(tmp_path: Path) -> None:
    _, steps, finished = run(options(tmp_path, 1, seed=(1 << 31) - 1))
    assert finished
    assert len(steps) == 1


@pytest.mark.parametrize(
    ("text", "config"),
    [("too short", shape), (TEXT, lambda _: ModelConfig.from_preset("none", vocab_size=1))],
    ids=["text", "shape"],
)
def test_invalid_text_or_shape_is_refused(tmp_path: Path, text: str, config: Callable[[int], ModelConfig]) -> None:
    with pytest.raises(InvalidModelFile):
        Trainer.start(options(tmp_path), text, config)
    assert list(tmp_path.iterdir()) == []
    assert read_sidecar(tmp_path / "m.bin") is None


def test_latest_state_is_saved_at_most_once_per_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1000))
    clock = SimpleNamespace(monotonic=lambda: next(seconds), perf_counter=lambda: 0.0)
    monkeypatch.setattr(trainer_module, "time", clock)
    monkeypatch.setattr(trainer_module, "SAVE_EVERY_S", 5)
    saved: list[Path] = []
    submit = CheckpointWriter.submit

    def note(writer: CheckpointWriter, path: Path, *state: Any) -> None:  # noqa: ANN401 (passed on)
        saved.append(path)
        submit(writer, path, *state)

    monkeypatch.setattr(CheckpointWriter, "submit", note)
    trainer, _, _ = run(options(tmp_path, 20))
    assert 3 <= saved.count(trainer.options.latest) <= 4


def test_non_finite_training_loss_raises_at_once(tmp_path: Path) -> None:
    """Waiting for the next evaluation could save a broken state."""
    steps: list[Step] = []
    trainer = Trainer.start(options(tmp_path, 100, max_lr=1e30), TEXT, shape)
    with pytest.raises(Diverged, match="at iteration"):
        trainer.run(steps.append, lambda: len(steps) == 4)
    assert not (tmp_path / "m.bin").exists()
