"""Merge of models: the weighted average of their changes against a common base, exact on an integer grid. No I/O.

A weight on the grid is a whole number of units of 2**-24. All sums are whole numbers, and the result is rounded once
at the end, so it depends on the inputs and the rule only: not on their order, on threads, or on the processor.

The robust rule clips each change to the median norm, and leaves out changes that point away from the sum of the
others. It needs the dot products of all changes, which are exact too.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import numpy as np
import numpy.typing as npt

from randygpt.errors import CallerError
from relay_client.errors import quote

MIN_INPUTS, MAX_INPUTS = 2, 16
MIN_ROBUST = 3  # of two inputs that contradict each other, no rule can tell which one is wrong
LIMIT = 128  # largest magnitude of a weight that is merged
BLOCK = 1 << 16  # weights in a block, at most; more than 2**20 would make `ExactProducts` inexact
_UNITS = 1 << 24  # per 1.0
_HALF = 16  # bits of the lower half of a change, which has at most 33 with its sign
_FULL = 1 << 16  # clip factor of a change that is not clipped
_MAX_TOTAL = 1 << 16  # sum of all weights of inputs
_MAX_SCALE = 4
_SCALE_STEPS = 1000  # per 1 of the scale; with these limits no sum exceeds 63 bits
_DECIMAL = re.compile("[0-9]{1,9}([.][0-9]{1,9})?")

Floats = npt.NDArray[np.float32]
Grid = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRule:
    """How inputs are merged; impossible values raise CallerError."""

    weights: tuple[int, ...]  # share of each input; without a common divisor
    scale: Fraction = Fraction(1)  # factor of the averaged change
    robust: bool = False  # clip changes to the median norm, and leave out those that point away from the others

    def __post_init__(self) -> None:
        count = len(self.weights)
        if not MIN_INPUTS <= count <= MAX_INPUTS:
            raise CallerError(f"a merge has {MIN_INPUTS} to {MAX_INPUTS} inputs, not {count}")
        if self.robust and count < MIN_ROBUST:
            raise CallerError(f"--robust needs at least {MIN_ROBUST} inputs: of two, no rule can tell which is wrong")
        if any(type(weight) is not int or weight < 1 for weight in self.weights) or math.gcd(*self.weights) != 1:
            raise CallerError("the weights of a merge must be whole numbers above 0 without a common divisor")
        if sum(self.weights) > _MAX_TOTAL:
            raise CallerError("--weights are too finely graded: use small whole numbers, such as 3,1,1")
        if not 0 < self.scale <= _MAX_SCALE or _SCALE_STEPS % self.scale.denominator:
            raise CallerError(f"--scale must be above 0 and at most {_MAX_SCALE}, with at most three decimals")

    @classmethod
    def parse(cls, count: int, *, weights: str = "", scale: str = "1", robust: bool = False) -> Self:
        """Return the rule in the words of a command line.

        Args:
            count: Number of inputs.
            weights: Decimal numbers with commas between them, one for each input; empty: all equal.
            scale: A decimal number.
            robust: Clip and leave out.

        Raises:
            CallerError: A value is wrong; the message names its flag.
        """
        shares = [_decimal(word, "--weights") for word in weights.split(",")] if weights else [Fraction(1)] * count
        if len(shares) != count:
            raise CallerError(f"--weights has {len(shares)} numbers for {count} inputs")
        if not all(shares):
            raise CallerError("--weights has a 0: leave that input out")
        multiple = math.lcm(*(share.denominator for share in shares))
        whole = [int(share * multiple) for share in shares]
        divisor = math.gcd(*whole)
        return cls(weights=tuple(each // divisor for each in whole), scale=parse_scale(scale), robust=robust)


def parse_scale(text: str) -> Fraction:
    """Return the scale that a text spells; raise CallerError if it is not a decimal number."""
    return _decimal(text, "--scale")


def _decimal(text: str, flag: str) -> Fraction:
    if not _DECIMAL.fullmatch(text.strip()):
        raise CallerError(f"{flag}: {quote(text)} is not a decimal number such as 1 or 0.5")
    return Fraction(text.strip())


def find_fault(values: Floats) -> str:
    """Return why weights cannot be put on the grid, empty if they can."""
    if not np.isfinite(values).all():
        return "NaN or infinity"
    return f"a weight beyond ±{LIMIT}" if (np.abs(values) > LIMIT).any() else ""


def to_grid(values: Floats) -> Grid:
    """Return weights as whole numbers of units, rounded half to even; they must have no fault."""
    return np.rint(values.astype(np.float64) * _UNITS).astype(np.int64)


def from_grid(values: Grid) -> Floats:
    """Return the float32 that is nearest to each number of units."""
    return (values.astype(np.float64) / _UNITS).astype(np.float32)


class ExactProducts:
    """Sums the dot products of all pairs of changes, block by block, without rounding.

    A change is split into halves of at most 17 bits. Products of halves have at most 32, so the sum over a block of up
    to 2**20 is an integer below 2**53, which float64 represents: BLAS adds them in any order with the same result.
    """

    def __init__(self, count: int) -> None:
        self._sums = np.zeros((count, count), dtype=object)  # Python's integers, of any size

    def add(self, changes: Grid) -> None:
        """Add a block of changes (inputs, block)."""
        high, low = (half.astype(np.float64) for half in _halves(changes))
        cross = _whole(high @ low.T)
        self._sums += (_whole(high @ high.T) << 2 * _HALF) + ((cross + cross.T) << _HALF) + _whole(low @ low.T)

    def rows(self) -> list[list[int]]:
        """Return the dot products (inputs, inputs)."""
        return [[int(value) for value in row] for row in self._sums]


def _whole(products: Matrix) -> npt.NDArray[np.object_]:
    return products.astype(np.int64).astype(object)


def _halves(values: Grid) -> tuple[Grid, Grid]:
    """Return the upper part and the lower 16 bits of integers; the lower ones are never negative."""
    return values >> _HALF, values & ((1 << _HALF) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """Average of changes, as integers: `numerator` / `denominator` times the sum of factor times change."""

    factors: tuple[int, ...]  # by input; 0: left out
    numerator: int
    denominator: int
    reasons: tuple[str, ...]  # by input, why it is left out; empty if it is not

    @classmethod
    def plain(cls, rule: MergeRule) -> Self:
        """Return what a rule that is not robust does with its inputs."""
        return cls(
            factors=rule.weights,
            numerator=rule.scale.numerator,
            denominator=rule.scale.denominator * sum(rule.weights),
            reasons=("",) * len(rule.weights),
        )

    @classmethod
    def robust(cls, rule: MergeRule, products: Sequence[Sequence[int]], excluded: Mapping[int, str]) -> Self:
        """Return what a robust rule does with its inputs.

        Args:
            rule: The rule.
            products: Dot products of the changes of all inputs; rows of excluded ones do not matter.
            excluded: Inputs that are left out already, with the reason.

        Raises:
            CallerError: Fewer than two inputs remain.
        """
        present = [index for index in range(len(rule.weights)) if index not in excluded]
        clips = clip_factors({index: products[index][index] for index in present})
        reasons = dict(excluded) | {
            index: f"its change is more than {_FULL:,} times the median" for index, clip in clips.items() if not clip
        }
        factors = {index: rule.weights[index] * clip for index, clip in clips.items() if clip}
        for index in points_away(factors, products):
            reasons[index] = "points away from the sum of the others"
            del factors[index]
        if len(factors) < MIN_INPUTS:
            faults = "; ".join(sorted(set(reasons.values())))
            raise CallerError(f"only {len(factors)} of {len(rule.weights)} inputs would remain ({faults})")
        total = sum(rule.weights[index] for index in factors)
        return cls(
            factors=tuple(factors.get(index, 0) for index in range(len(rule.weights))),
            numerator=rule.scale.numerator,
            denominator=rule.scale.denominator * _FULL * total,
            reasons=tuple(reasons.get(index, "") for index in range(len(rule.weights))),
        )

    def apply(self, base: Grid, changes: Mapping[int, Grid]) -> Grid:
        """Return a block of the merged weights: base plus the average change, rounded half up.

        Args:
            base: Weights of the base.
            changes: Changes of the inputs that are not left out.
        """
        high, low = np.zeros_like(base), np.zeros_like(base)
        for index, change in changes.items():
            upper, lower = _halves(change)
            high += self.factors[index] * upper
            low += self.factors[index] * lower
        # Long division in two digits of 16 bits: no value exceeds 63 bits.
        quotient, rest = np.divmod(2 * self.numerator * high, 2 * self.denominator)
        rest = (rest << _HALF) + 2 * self.numerator * low + self.denominator
        merged: Grid = base + (quotient << _HALF) + rest // (2 * self.denominator)
        return merged


def clip_factors(squares: Mapping[int, int]) -> dict[int, int]:
    """Return the factor, in units of 2**-16 rounded down, that clips each change to the median norm.

    The median of an even number is the lower of the middle two, so that half of the inputs cannot raise it.

    Args:
        squares: Squared norms of the changes by input.
    """
    if not squares:
        return {}
    median = sorted(squares.values())[(len(squares) - 1) // 2]
    return {
        index: _FULL if square <= median else math.isqrt((median << 32) // square) for index, square in squares.items()
    }


def points_away(factors: Mapping[int, int], products: Sequence[Sequence[int]]) -> list[int]:
    """Return the inputs whose change points away from the sum of the others, each change times its factor.

    The one that points away furthest is left out first, and the rest are compared again; two always remain.

    Args:
        factors: Factors by input, in the order that decides between equals.
        products: Dot products of the changes.
    """
    kept, dropped = list(factors), list[int]()
    while len(kept) >= MIN_ROBUST:
        agreement = {
            index: factors[index] * sum(factors[other] * products[index][other] for other in kept if other != index)
            for index in kept
        }
        furthest = min(kept, key=agreement.__getitem__)
        if agreement[furthest] >= 0:
            break
        kept.remove(furthest)
        dropped.append(furthest)
    return dropped
