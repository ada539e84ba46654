"""Training on another device than a CPU: a second device for torch stands for a GPU."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import second_device
from support.models import SHORT, TEXT
from support.second_device import recorded
from torch.overrides import TorchFunctionMode

from randygpt.checkpoint.rgpt import read_weights
from randygpt.checkpoint.sidecar import inspect_checkpoint
from randygpt.errors import Diverged
from randygpt.model.gpt import GPT
from randygpt.training.checkpointing import Step
from randygpt.training.options import TrainOptions
from randygpt.training.trainer import Trainer

SHAPE = replace(SHORT, n_layer=1, block_size=16)
FILES = ("m.bin", "m.json", "m_best.bin", "m_best.json")
SECOND = second_device.register()  # while tests are collected: torch counts devices in the first backward pass


def options(folder: Path, device: str, recipe: str = "fast", **changes: Any) -> TrainOptions:  # noqa: ANN401 (fields)
    folder.mkdir(exist_ok=True)
    fields = {"iterations": 16, "batch_size": 4, "accumulate": 2, "seed": 1, "max_lr": 3e-3, **changes}
    return TrainOptions(recipe=recipe, device=device, prefix=folder / "m", **fields)


def train(asked: TrainOptions, *, stop_after: int | None = None) -> list[Step]:
    """Start a run, or resume it if it has files."""
    if asked.latest.is_file():
        trainer = Trainer.resume(asked, TEXT, inspect_checkpoint(asked.latest))
    else:
        trainer = Trainer.start(asked, TEXT, lambda _: SHAPE)
    steps: list[Step] = []
    trainer.run(steps.append, lambda: trainer.next_iteration == stop_after)
    return steps


def test_devices_do_not_mix() -> None:
    x = torch.ones(3)
    with recorded() as record:
        moved = x.to(SECOND)
        with pytest.raises(RuntimeError, match="same device"):
            moved + x
        assert (moved + moved.sum()).cpu().tolist() == [4, 4, 4]
    assert (record.copies, record.waits) == (2, ["copy_", "_to_copy"])


@pytest.mark.parametrize("recipe", [pytest.param("classic", marks=pytest.mark.full), "fast"])
def test_losses_and_weights_are_those_of_the_cpu(tmp_path: Path, recipe: str) -> None:
    asked = [options(tmp_path / device, device, recipe, dropout=0.0) for device in ("cpu", SECOND)]
    expected, found = (train(each) for each in asked)
    assert [step.iteration for step in found] == list(range(16))
    for step, exact in zip(found, expected, strict=True):
        assert step.loss == pytest.approx(exact.loss, rel=1e-4)
        assert step.val_loss == (exact.val_loss and pytest.approx(exact.val_loss, rel=1e-4))
    weights, exact_weights = (read_weights(each.latest, SHAPE) for each in reversed(asked))
    np.testing.assert_allclose(weights, exact_weights, atol=2e-3)


@pytest.mark.parametrize("recipe", ["classic", "fast"])
def test_cpu_waits_only_to_read_losses(tmp_path: Path, recipe: str) -> None:
    trainer = Trainer.start(options(tmp_path, SECOND, recipe, dropout=0.1), TEXT, lambda _: SHAPE)
    with recorded() as record:
        for _ in range(6):
            trainer._iterations.advance()
        assert record.waits == []
        assert record.copies == 6 * 2  # one for each micro-batch
        reading = trainer._iterations.read()
    assert record.waits == ["_to_copy"]  # the losses of six steps and of an evaluation
    assert len(reading.steps) == 6
    assert reading.steps[-1].val_loss is not None


@pytest.mark.parametrize("recipe", ["classic", pytest.param("fast", marks=pytest.mark.full)])
def test_resumed_run_equals_uninterrupted_run(tmp_path: Path, recipe: str) -> None:
    folders = [tmp_path / name for name in ("whole", "parts")]
    whole, parts = (options(folder, SECOND, recipe, dropout=0.1) for folder in folders)
    train(whole)
    assert [step.iteration for step in train(parts, stop_after=5)] == list(range(5))
    train(parts)
    for name in FILES:
        assert (folders[1] / name).read_bytes() == (folders[0] / name).read_bytes()
    lines = (folders[1] / "m.metrics.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["iter"] for line in lines] == list(range(16))


def test_losses_are_reported_in_order_and_often(tmp_path: Path) -> None:
    trainer = Trainer.start(options(tmp_path, SECOND, iterations=10_000), TEXT, lambda _: SHAPE)
    reported: list[tuple[int, int]] = []
    trainer.run(
        lambda step: reported.append((step.iteration, trainer.next_iteration)), lambda: trainer.next_iteration == 13
    )
    read_at = [1] + [10] * 9 + [13] * 3  # the first iteration is slow, and is timed alone
    assert reported == list(enumerate(read_at))


def test_diverged_run_saves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"at iteration [1-9]:"):
        train(options(tmp_path, SECOND, "classic", iterations=1000, max_lr=1e30))
    assert list(tmp_path.iterdir()) == []


class Names(TorchFunctionMode):
    """Names of torch's functions that are called."""

    def __init__(self) -> None:
        self.called: list[str] = []
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        self.called.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_attention_is_the_library_function_on_an_accelerator(dtype: torch.dtype) -> None:
    model = GPT.initialize(SHAPE, seed=0, device=SECOND)
    model.set_training_dtype(dtype)
    with Names() as names:
        model(torch.zeros(1, 8, dtype=torch.int64).to(SECOND))
    assert names.called.count("scaled_dot_product_attention") == SHAPE.n_layer
