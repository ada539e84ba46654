"""Sampling one token: against a plain reference, and at the limits of the parameters."""

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from randygpt.errors import CallerError
from randygpt.model.sampling import (
    REPEAT_WINDOW,
    Continuation,
    Sampling,
    log_softmax,
    penalize_repeats,
    sample,
    sample_batch,
    sample_next,
)

DRAWS = 20_000
LAST = 1 - 2**-53  # the largest double below 1
Array = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32]


def some_logits(size: int, *, spread: float = 2.0, seed: int = 0) -> Logits:
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32) * np.float32(spread)


def softmax(logits: Logits, temperature: float) -> Array:
    scaled = logits.astype(np.float64) / temperature
    shares = np.exp(scaled - scaled.max())
    probabilities: Array = shares / shares.sum()
    return probabilities


def nucleus(logits: Logits, sampling: Sampling) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return probabilities and ids of the smallest set of tokens that reaches top_p, likeliest first."""
    probabilities = softmax(logits, sampling.temperature)
    tokens = np.argsort(-probabilities)[: sampling.top_k or None]
    tokens = tokens[probabilities[tokens] >= sampling.min_p * probabilities.max()]
    values = probabilities[tokens]
    kept = 1
    while kept < len(values) and values[:kept].sum() < sampling.top_p:
        kept += 1
    return values[:kept], tokens[:kept]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_follow_their_probabilities(temperature: float) -> None:
    logits = some_logits(67)
    sampling = Sampling(temperature=temperature)
    uniform = np.random.default_rng(1).random(DRAWS)
    counts = Counter(sample(logits, sampling, value) for value in uniform)
    expected = softmax(logits, temperature)
    for token, probability in enumerate(expected):
        sigma = math.sqrt(DRAWS * probability * (1 - probability))
        assert abs(counts[token] - DRAWS * probability) <= 4 * sigma + 1, token


@pytest.mark.parametrize(
    ("size", "spread", "sampling"),
    [
        (67, 2.0, Sampling(temperature=1.0, top_p=0.9)),
        (67, 2.0, Sampling(temperature=0.7, top_p=0.5)),
        (67, 2.0, Sampling(temperature=1.0, top_p=0.999)),
        (67, 2.0, Sampling(temperature=1.0, top_k=5)),
        (67, 2.0, Sampling(temperature=1.0, top_k=5, top_p=0.5)),
        (67, 2.0, Sampling(temperature=1.0, top_k=1000)),
        (2000, 4.0, Sampling(temperature=1.0, top_p=0.9)),
        (2000, 0.5, Sampling(temperature=1.0, top_p=0.9)),
        (2000, 0.5, Sampling(temperature=1.0, top_p=0.9, top_k=300)),
        (2000, 0.5, Sampling(temperature=1.0, top_k=300)),
        (2000, 0.5, Sampling(temperature=2.0, top_p=0.1)),
        (67, 2.0, Sampling(temperature=1.0, min_p=0.05)),
        (2000, 0.5, Sampling(temperature=0.5, min_p=0.02)),
        (2000, 0.5, Sampling(temperature=1.0, min_p=0.02, top_p=0.6, top_k=900)),
        (2000, 0.5, Sampling(temperature=1.0, min_p=0.0001, top_p=0.9)),
    ],
    ids=lambda value: (
        f"p={value.top_p},k={value.top_k},m={value.min_p},t={value.temperature}"
        if isinstance(value, Sampling)
        else None
    ),
)
def test_top_p_top_k_and_min_p_match_a_plain_reference(size: int, spread: float, sampling: Sampling) -> None:
    logits = some_logits(size, spread=spread)
    values, tokens = nucleus(logits, sampling)
    edges = values.cumsum()
    compared = 0
    for uniform in np.random.default_rng(2).random(400):
        point = uniform * edges[-1]
        if np.abs(edges - point).min() < 1e-6:  # float32 logits may round to the other side
            continue
        compared += 1
        assert sample(logits, sampling, uniform) == tokens[np.searchsorted(edges, point, side="right")]
    assert compared > 200


def test_one_case_needs_the_lower_threshold() -> None:
    values, _ = nucleus(some_logits(2000, spread=0.5), Sampling(temperature=1.0, top_p=0.9))
    assert len(values) > 1000


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0), Sampling(top_k=1), Sampling(top_p=1e-6), Sampling(min_p=1)]
)
@pytest.mark.parametrize("uniform", [0.0, 0.5, LAST])
@pytest.mark.parametrize("size", [2, 67, 2000])
def test_greedy_sampling(sampling: Sampling, uniform: float, size: int) -> None:
    logits = some_logits(size)
    assert sample(logits, sampling, uniform) == logits.argmax()


@pytest.mark.parametrize("temperature", [1e-3, 1e-10, 1e-37, 1e-40, 5e-324])
@pytest.mark.parametrize("uniform", [0.0, 0.5, LAST])
def test_tiny_temperature_is_greedy(temperature: float, uniform: float) -> None:
    logits = np.array([-5.0, 2.0, 7.0, 6.0, -90.0], np.float32)
    assert sample(logits, Sampling(temperature=temperature), uniform) == 2


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.999, 1 - 2**-25, LAST])
@pytest.mark.parametrize("impossible", [-1000.0, -math.inf])
def test_impossible_token_is_never_sampled(uniform: float, impossible: float) -> None:
    logits = np.array([impossible, 1.0, impossible, 1.0, 0.0, impossible], np.float32)
    assert sample(logits, Sampling(temperature=1.0), uniform) in {1, 3, 4}


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.999, 1 - 2**-25, LAST])
@pytest.mark.parametrize("size", [67, 2000])
@pytest.mark.parametrize("top_p", [0.3, 0.9])
def test_token_outside_the_nucleus_is_never_sampled(uniform: float, size: int, top_p: float) -> None:
    sampling = Sampling(temperature=1.0, top_p=top_p)
    logits = some_logits(size)
    assert sample(logits, sampling, uniform) in nucleus(logits, sampling)[1]


def test_equal_tokens_are_equally_likely() -> None:
    drawn = [
        sample(np.zeros(2, np.float32), Sampling(temperature=1.0), uniform)
        for uniform in (0.0, 0.5 - 2**-20, 0.5, 0.75)
    ]
    assert drawn in ([0, 0, 1, 1], [1, 1, 0, 0])


def test_batched_sampling_matches_single_sampling() -> None:
    samplings = [
        Sampling(temperature=0),
        Sampling(temperature=0.7),
        Sampling(top_p=0.9),
        Sampling(temperature=2.0),
        Sampling(temperature=0),
        Sampling(top_k=3),
        Sampling(min_p=0.2),
        Sampling(temperature=1e-310),
    ] * 5
    logits = np.stack([some_logits(300, seed=seed) for seed in range(len(samplings))])
    uniforms = np.random.default_rng(3).random(len(samplings)).tolist()
    alone = [sample(*row) for row in zip(logits, samplings, uniforms, strict=True)]
    assert sample_batch(logits, samplings, uniforms) == alone
    assert len(set(alone)) > 10


@pytest.mark.parametrize("penalty", [1.3, 0.5, 2])
def test_repeat_penalty_matches_a_plain_reference(penalty: float) -> None:
    logits = np.stack([some_logits(300, seed=seed) for seed in range(3)])
    before = logits.copy()
    context = [7, 8, *range(20, 19 + REPEAT_WINDOW), 20]  # 8 is the last token outside the window
    samplings = [Sampling(repeat_penalty=penalty), Sampling(), Sampling(repeat_penalty=penalty)]
    texts = [Continuation(context, sampling, 256) for sampling in samplings]
    expected = before.copy()
    for row, token in ((row, token) for row in (0, 2) for token in {*context[2:]}):
        value = before[row, token]
        expected[row, token] = value / np.float32(penalty) if value > 0 else value * np.float32(penalty)
    assert np.array_equal(penalize_repeats(logits, texts), expected)
    assert np.array_equal(logits, before)


def test_without_penalty_logits_are_not_copied() -> None:
    logits = some_logits(67)[None]
    assert penalize_repeats(logits, [Continuation([5], Sampling(), 8)]) is logits


def test_repeat_penalty_changes_the_greedy_token() -> None:
    logits = np.array([[0.0, 3.0, 2.9]], np.float32)
    greedy = Sampling(temperature=0, repeat_penalty=1.1)
    assert sample_next(logits, [Continuation([0], greedy, 8)]) == [1]
    assert sample_next(logits, [Continuation([1], greedy, 8)]) == [2]


def test_log_softmax() -> None:
    logits = some_logits(67)
    np.testing.assert_allclose(log_softmax(logits), np.log(softmax(logits, 1.0)), atol=1e-9)


def test_sampling_does_not_modify_the_logits() -> None:
    logits = some_logits(67)
    before = logits.copy()
    sample(logits, Sampling(top_p=0.5, top_k=10), 0.5)
    assert np.array_equal(logits, before)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("temperature", -0.1),
        ("temperature", 100.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", -0.5),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("repeat_penalty", 0),
        ("repeat_penalty", 11),
        ("repeat_penalty", math.nan),
        ("top_k", -1),
        ("top_k", 1.5),
        ("max_tokens", 2.5),
        ("max_tokens", True),
        ("seed", 0.5),
    ],
)
def test_invalid_sampling_parameter_is_named(field: str, value: float) -> None:
    wrong: dict[str, Any] = {field: value}
    with pytest.raises(CallerError, match=f"{field} must be .*{value}"):
        Sampling(**wrong)


@pytest.mark.parametrize(
    ("field", "value"), [("max_tokens", 1), ("temperature", 0), ("temperature", 100), ("top_p", 1.0), ("top_p", 1e-9)]
)
def test_limits_of_sampling_parameters_are_allowed(field: str, value: float) -> None:
    right: dict[str, Any] = {field: value}
    assert getattr(Sampling(**right), field) == value
