"""The arithmetic of merges: exact sums, one rounding, and which inputs the robust rule leaves out."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from randygpt.errors import CallerError
from randygpt.model.merge import (
    Combination,
    ExactProducts,
    Grid,
    MergeRule,
    clip_factors,
    find_fault,
    from_grid,
    points_away,
    to_grid,
)

LARGEST = 128 * 2**24


def robust(*changes: Sequence[int], weights: tuple[int, ...] = ()) -> Combination:
    products = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in changes] for one in changes]
    return Combination.robust(MergeRule(weights=weights or (1,) * len(changes), robust=True), products, {})


def test_grid_rounds_to_the_nearest_unit() -> None:
    values = np.array([0.5, -128, 2**-24, 2**-25, 3 * 2**-25, -(2**-140), 0.1], np.float32)
    assert to_grid(values).tolist() == [2**23, -LARGEST, 1, 0, 2, 0, 1677722]
    assert from_grid(to_grid(values))[:3].tolist() == values[:3].tolist()


@pytest.mark.parametrize(
    ("value", "fault"),
    [(math.nan, "NaN or infinity"), (-math.inf, "NaN or infinity"), (128.1, "a weight beyond ±128"), (-128, "")],
)
def test_values_that_fit_no_grid(value: float, fault: str) -> None:
    assert find_fault(np.array([0, value], np.float32)) == fault


@given(
    st.lists(st.tuples(st.integers(-LARGEST, LARGEST), st.integers(1, 21_845)), min_size=2, max_size=3),
    st.integers(-LARGEST, LARGEST),
    st.integers(1, 4_000).map(lambda thousandths: Fraction(thousandths, 1_000)),
)
def test_average_is_exact_with_one_rounding(inputs: list[tuple[int, int]], base: int, scale: Fraction) -> None:
    divisor = math.gcd(*(weight for _, weight in inputs))
    rule = MergeRule(weights=tuple(weight // divisor for _, weight in inputs), scale=scale)
    change = scale * sum(weight * (value - base) for value, weight in inputs) / sum(weight for _, weight in inputs)
    changes = {index: np.array([value - base]) for index, (value, _) in enumerate(inputs)}
    merged = Combination.plain(rule).apply(np.array([base]), changes)
    assert merged.tolist() == [base + math.floor(change + Fraction(1, 2))]


def test_largest_sums_do_not_overflow() -> None:
    rule = MergeRule(weights=(65_533, 1, 1, 1), scale=Fraction(3_999, 1_000), robust=True)
    combination = Combination.robust(rule, [[1] * 4] * 4, {})
    for change in (2 * LARGEST, -2 * LARGEST):
        merged = combination.apply(np.array([0]), dict.fromkeys(range(4), np.array([change])))
        assert merged.tolist() == [math.floor(change * rule.scale + Fraction(1, 2))]


@given(st.lists(st.lists(st.integers(-2 * LARGEST, 2 * LARGEST), min_size=5, max_size=5), min_size=3, max_size=3))
def test_products_are_exact(rows: list[list[int]]) -> None:
    products = ExactProducts(3)
    products.add(np.array(rows)[:, :2])
    products.add(np.array(rows)[:, 2:])
    assert products.rows() == [[sum(a * b for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]


def test_products_of_a_full_block_are_exact() -> None:
    changes: Grid = np.full((2, 1 << 16), 2 * LARGEST - 1)
    changes[1] *= -1
    products = ExactProducts(2)
    products.add(changes)
    square = (2 * LARGEST - 1) ** 2 << 16
    assert products.rows() == [[square, -square], [-square, square]]


def test_changes_are_clipped_to_the_lower_median_norm() -> None:
    assert clip_factors({0: 4, 1: 9, 2: 36, 3: 10_000}) == {0: 1 << 16, 1: 1 << 16, 2: 1 << 15, 3: 1966}


def test_liar_is_left_out_and_its_victim_is_not() -> None:
    honest = [(3, 1, 1), (1, 3, 1), (1, 1, 3)]
    liar = (-30, -10, -10)  # the first change, turned around and ten times as large
    found = robust(*honest, liar)
    assert found.factors == (1 << 16, 1 << 16, 1 << 16, 0)
    assert found.reasons == ("", "", "", "points away from the sum of the others")
    assert found.denominator == 3 << 16


def test_huge_change_is_clipped() -> None:
    found = robust((1, 0), (0, 1), (1000, 1000))
    assert found.factors == (1 << 16, 1 << 16, math.isqrt((1 << 32) // 2_000_000))


def test_change_beyond_any_proportion_is_left_out() -> None:
    found = robust((1, 0), (0, 1), (10**6, 10**6))
    assert found.factors[2] == 0
    assert found.reasons[2] == "its change is more than 65,536 times the median"


def test_two_inputs_always_remain() -> None:
    products = [[9, -8, -7], [-8, 9, -6], [-7, -6, 9]]
    assert points_away({0: 1, 1: 1, 2: 1}, products) == [0]


def test_fewer_than_two_inputs_are_no_merge() -> None:
    rule = MergeRule(weights=(1, 1, 1), robust=True)
    with pytest.raises(CallerError, match=r"only 1 of 3 inputs would remain \(a weight beyond"):
        Combination.robust(rule, [[1] * 3] * 3, {0: "a weight beyond ±128", 2: "a weight beyond ±128"})


@pytest.mark.parametrize(
    ("words", "weights"),
    [("", (1, 1)), ("2,2", (1, 1)), ("0.5, 0.25", (2, 1)), ("0.1,0.3", (1, 3))],
)
def test_weights_become_coprime_whole_numbers(words: str, weights: tuple[int, ...]) -> None:
    assert MergeRule.parse(2, weights=words).weights == weights


@pytest.mark.parametrize(
    ("count", "words", "says"),
    [
        (1, {}, "2 to 16 inputs, not 1"),
        (17, {}, "2 to 16 inputs, not 17"),
        (2, {"robust": True}, "--robust needs at least 3"),
        (2, {"weights": "1"}, "--weights has 1 numbers for 2 inputs"),
        (2, {"weights": "1,0"}, "--weights has a 0"),
        (2, {"weights": "1,-1"}, "--weights: '-1' is not a decimal number"),
        (2, {"weights": "1,1e9"}, "is not a decimal number"),
        (2, {"weights": "0.333333,0.666667"}, "too finely graded"),
        (2, {"scale": "0"}, "--scale must be above 0"),
        (2, {"scale": "4.5"}, "--scale must be above 0 and at most 4"),
        (2, {"scale": "0.0001"}, "at most three decimals"),
        (2, {"scale": "3.001953125"}, "at most three decimals"),  # 1537 / 512: a small denominator, long as text
        (2, {"scale": "nan"}, "--scale: 'nan' is not a decimal number"),
    ],
)
def test_wrong_rule_is_refused(count: int, words: dict[str, str], says: str) -> None:
    with pytest.raises(CallerError, match=says):
        MergeRule.parse(count, **words)  # type: ignore[arg-type]
