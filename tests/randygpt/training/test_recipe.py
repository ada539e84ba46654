"""Recipes: their values, initialization and optimizers, and resuming one with the other."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import CONFIG, SHORT, TEXT

from randygpt.checkpoint.rgpt import read_checkpoint
from randygpt.checkpoint.sidecar import inspect_checkpoint
from randygpt.model.gpt import GPT, gradient_views
from randygpt.model.layout import tensor_shapes
from randygpt.training.checkpointing import Step
from randygpt.training.optim import FlatAdamW, FlatMuon, warmup_then_linear
from randygpt.training.options import TrainOptions
from randygpt.training.recipe import CLASSIC, RECIPES
from randygpt.training.trainer import Trainer

FAST = RECIPES["fast"]


def options(folder: Path, iterations: int = 20, *, recipe: str = "fast") -> TrainOptions:
    folder.mkdir(exist_ok=True)
    rates: dict[str, Any] = {"max_lr": FAST.max_lr, "min_lr": FAST.min_lr} if recipe == "fast" else {}
    return TrainOptions(
        iterations=iterations, recipe=recipe, batch_size=4, dropout=0.0, prefix=folder / "m", seed=1, **rates
    )


def run(asked: TrainOptions, *, stop_after: int | None = None, resume: bool = False) -> list[Step]:
    if resume:
        trainer = Trainer.resume(asked, TEXT, inspect_checkpoint(asked.latest))
    else:
        trainer = Trainer.start(asked, TEXT, lambda _: SHORT)
    steps: list[Step] = []
    trainer.run(steps.append, lambda: len(steps) == stop_after)
    return steps


def test_classic_values_match_the_rust_program() -> None:
    classic, default = RECIPES[CLASSIC], TrainOptions(iterations=1)
    assert (classic.max_lr, classic.min_lr, classic.dropout, classic.eval_every) == (1e-4, 1e-5, 0.1, 25)
    assert (default.recipe, default.max_lr, default.min_lr, default.dropout) == (CLASSIC, 1e-4, 1e-5, 0.1)
    assert classic.batch_size is None
    model = GPT.initialize(CONFIG, seed=1)
    before = model.flat.clone()
    classic.prepare(model)
    assert torch.equal(model.flat, before)


def test_warmup_then_linear_schedule() -> None:
    rates = [warmup_then_linear(iteration, iterations=100, max_lr=1.0, min_lr=0.1) for iteration in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[4] == pytest.approx(0.5 * (1 - 0.9 * 0.04))
    assert rates[50] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert np.ptp(np.diff(rates[10:])) < 1e-12


def test_fast_initializes_sinusoidal_positions() -> None:
    model = GPT.initialize(CONFIG, seed=1)
    layers = model.flat[-12 * CONFIG.n_layer * CONFIG.n_embd**2 :].clone()
    FAST.prepare(model)
    assert model.wte.square().mean().sqrt().item() == pytest.approx(0.1)
    assert model.wpe.square().mean().sqrt().item() == pytest.approx(0.1, rel=0.05)
    products = model.wpe.detach() @ model.wpe.detach().T
    for distance in (1, 5, 40):
        assert np.ptp(products.diagonal(distance).numpy()) < 1e-6  # depends only on the distance of the positions
    assert torch.equal(model.flat[-len(layers) :], layers)


def steps_of(optimizer: FlatMuon | FlatAdamW, gradient: torch.Tensor, count: int, rate: float) -> None:
    for index in range(count):
        optimizer.gradient.copy_(gradient * (1 + index))
        optimizer.step(rate)
        assert not optimizer.gradient.any()


def test_flat_muon_matches_torch() -> None:
    """Compare with torch's own optimizers over separate tensors."""
    generator = torch.Generator().manual_seed(3)
    flat = torch.randn(CONFIG.parameter_count, generator=generator)
    gradient = torch.randn(CONFIG.parameter_count, generator=generator)
    tensors, gradients, start = {}, {}, 0
    for name, (rows, columns) in tensor_shapes(CONFIG).items():
        size = rows * columns
        tensors[name] = torch.nn.Parameter(flat[start : start + size].view(rows, columns).clone())
        gradients[name] = gradient[start : start + size].view(rows, columns)
        start += size
    tables = [tensors[name] for name in ("wte", "wpe", "lm_head")]
    matrices = [tensor for name, tensor in tensors.items() if name.startswith("layer")]
    adamw = torch.optim.AdamW(tables, lr=0.01, betas=(0.9, 0.95), weight_decay=0)
    muon = torch.optim.Muon(matrices, lr=0.03, momentum=0.9, weight_decay=0)
    for index in range(3):
        for name, tensor in tensors.items():
            tensor.grad = gradients[name] * (1 + index)
        adamw.step()
        muon.step()
    optimizer = FlatMuon(CONFIG, flat, torch.zeros_like(flat))
    steps_of(optimizer, gradient, 3, 0.03)
    expected = torch.cat([tensor.detach().flatten() for tensor in tensors.values()])
    torch.testing.assert_close(flat, expected, rtol=0, atol=1e-5)


def test_muon_momentum_equals_adamw_first_moment() -> None:
    """With equal gradients the states are equal, so AdamW can resume a checkpoint of the fast recipe."""
    gradient = torch.randn(CONFIG.parameter_count, generator=torch.Generator().manual_seed(3)) * 0.03
    flats = [torch.zeros(CONFIG.parameter_count) for _ in range(2)]
    muon, adamw = FlatMuon(CONFIG, flats[0], flats[0].clone()), FlatAdamW(flats[1], flats[1].clone())
    for optimizer in (muon, adamw):
        steps_of(optimizer, gradient, 4, 1e-3)
    border = CONFIG.parameter_count - 12 * CONFIG.n_layer * CONFIG.n_embd**2
    torch.testing.assert_close(muon.state[0], adamw.state[0])
    torch.testing.assert_close(muon.state[1][border:], adamw.state[1][border:])


@pytest.mark.full
def test_fast_recipe_learns_faster(tmp_path: Path) -> None:
    fast, classic = (run(options(tmp_path / name, 60, recipe=name))[-1].val_loss for name in ("fast", "classic"))
    assert fast is not None
    assert classic is not None
    assert fast < classic / 2


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    run(options(tmp_path / "whole"))
    run(options(tmp_path / "parts"), stop_after=7)
    run(options(tmp_path / "parts"), resume=True)
    for name in ("m.bin", "m.json", "m_best.bin"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("first", "second"), [("fast", CLASSIC), pytest.param(CLASSIC, "fast", marks=pytest.mark.full)]
)
def test_one_recipe_resumes_the_other(tmp_path: Path, first: str, second: str) -> None:
    before = run(options(tmp_path, 30, recipe=first))
    after = run(options(tmp_path, 60, recipe=second), resume=True)
    assert all(math.isfinite(step.loss) for step in after)
    assert after[0].loss < before[0].loss
    assert after[-1].loss < before[-1].loss + 0.1
    assert json.loads((tmp_path / "m.json").read_bytes())["training"]["recipe"] == second


def test_checkpoint_has_state_of_every_parameter(tmp_path: Path) -> None:
    run(options(tmp_path))
    state = read_checkpoint(tmp_path / "m.bin", SHORT).optimizer_state
    assert state is not None
    start = 0
    for name, (rows, columns) in tensor_shapes(SHORT).items():
        for part in state:
            assert np.any(part[start : start + rows * columns]), name
        start += rows * columns


def test_gradients_reach_the_optimizer() -> None:
    model = GPT.initialize(CONFIG, seed=1)
    gradient = torch.zeros_like(model.flat)
    gradient_views(model, gradient)
    optimizer = FlatMuon(CONFIG, model.flat, gradient)
    before = model.flat.clone()
    model(torch.tensor([[2, 3, 4]])).square().mean().backward()
    optimizer.step(0.03)
    assert not torch.equal(model.wte.detach().flatten(), before[: model.wte.numel()])
    assert not torch.equal(model.flat[-10:], before[-10:])


def test_recipes_have_their_default_preset() -> None:
    assert {name: recipe.preset for name, recipe in RECIPES.items()} == {"classic": "l", "fast": "xs"}


def test_fast_values_match_the_documentation() -> None:
    assert (FAST.max_lr, FAST.min_lr, FAST.dropout) == (0.03, 0.0015, 0.0)
    assert (FAST.eval_every, FAST.batch_size) == (100, 8)
