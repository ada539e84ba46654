"""Learning-rate schedule, plateau rule, and AdamW against its formulas."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from randygpt.training.optim import FlatAdamW, Plateau, constant_then_cosine

PEAK, LOWEST = 1e-4, 1e-5


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [
        (0, PEAK),
        (599, PEAK),
        (600, PEAK),
        (700, LOWEST + (PEAK - LOWEST) * (2 + math.sqrt(2)) / 4),
        (800, (PEAK + LOWEST) / 2),
        (1000, LOWEST),
        (5000, LOWEST),
    ],
)
def test_constant_then_cosine_schedule(iteration: int, expected: float) -> None:
    rate = constant_then_cosine(iteration, iterations=1000, max_lr=PEAK, min_lr=LOWEST)
    assert rate == pytest.approx(expected, rel=1e-9)


def test_cosine_schedule_never_rises() -> None:
    rates = [constant_then_cosine(iteration, iterations=77, max_lr=PEAK, min_lr=LOWEST) for iteration in range(78)]
    assert rates == sorted(rates, reverse=True)
    assert rates[46] > rates[47] > rates[76] > LOWEST


@pytest.mark.parametrize("iterations", [1, 2])
def test_very_short_run_has_a_learning_rate(iterations: int) -> None:
    assert constant_then_cosine(0, iterations=iterations, max_lr=PEAK, min_lr=LOWEST) == PEAK


def test_plateau_halves_the_rate_three_times_then_ends() -> None:
    plateau = Plateau()
    assert not plateau.update(1.0)
    factors, stops = [], []
    for _ in range(120):
        stops.append(plateau.update(1.0))
        factors.append(plateau.factor)
    assert factors == [1.0] * 29 + [0.5] * 30 + [0.25] * 30 + [0.125] * 31
    assert stops == [False] * 119 + [True]


def test_new_best_resets_the_patience() -> None:
    plateau = Plateau(best=1.0, waited=29, cuts=1)
    assert not plateau.update(0.9)
    assert (plateau.best, plateau.waited, plateau.factor) == (0.9, 0, 0.5)


@pytest.mark.parametrize("loss", [1.0, math.nan, math.inf])
def test_equal_or_worse_loss_is_not_a_new_best(loss: float) -> None:
    plateau = Plateau(best=1.0)
    assert not plateau.update(loss)
    assert (plateau.best, plateau.waited) == (1.0, 1)


def gradients(count: int, steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(count, generator=generator) * 2 for _ in range(steps)]  # many exceed the clamp


def run(optimizer: FlatAdamW, gradient: Tensor, steps: list[Tensor], rates: list[float]) -> None:
    for values, rate in zip(steps, rates, strict=True):
        gradient.copy_(values)
        optimizer.step(rate)


def test_adamw_matches_the_formulas() -> None:
    flat = torch.randn(200, generator=torch.Generator().manual_seed(1))
    gradient = torch.zeros_like(flat)
    expected = flat.double().numpy().copy()
    first, second = np.zeros_like(expected), np.zeros_like(expected)
    optimizer = FlatAdamW(flat, gradient)
    steps, rates = gradients(200, 5), [1e-2, 1e-2, 5e-3, 1e-3, 1e-4]
    assert max(values.abs().max() for values in steps) > 1
    run(optimizer, gradient, steps, rates)
    for index, (values, rate) in enumerate(zip(steps, rates, strict=True), 1):
        clamped = values.double().numpy().clip(-1, 1)
        first = 0.9 * first + 0.1 * clamped
        second = 0.999 * second + 0.001 * clamped**2
        expected *= 1 - rate * 0.1
        expected -= rate * (first / (1 - 0.9**index)) / (np.sqrt(second / (1 - 0.999**index)) + 1e-8)
    np.testing.assert_allclose(flat.numpy(), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(optimizer.state[0].numpy(), first, rtol=0, atol=1e-6)
    np.testing.assert_allclose(optimizer.state[1].numpy(), second, rtol=0, atol=1e-6)


def test_step_zeroes_the_gradient() -> None:
    flat, gradient = torch.ones(4), torch.ones(4)
    FlatAdamW(flat, gradient).step(0.1)
    assert torch.equal(gradient, torch.zeros(4))
    assert (flat < 1).all()


def test_restored_state_continues_exactly() -> None:
    start = torch.randn(50, generator=torch.Generator().manual_seed(1))
    steps, rates = gradients(50, 6), [1e-2] * 6
    unbroken, gradient = start.clone(), torch.zeros(50)
    run(FlatAdamW(unbroken, gradient), gradient, steps, rates)

    resumed, gradient = start.clone(), torch.zeros(50)
    before = FlatAdamW(resumed, gradient)
    run(before, gradient, steps[:4], rates[:4])
    after = FlatAdamW(resumed, gradient)
    after.restore(4, (before.state[0].clone(), before.state[1].clone()))
    run(after, gradient, steps[4:], rates[4:])
    assert torch.equal(resumed, unbroken)
