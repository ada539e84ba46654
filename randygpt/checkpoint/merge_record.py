"""Record of a merge: what is needed besides its inputs and its base to make it again. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

from randygpt.checkpoint.origin import Origin
from randygpt.errors import CallerError, InvalidModelFile
from randygpt.model.merge import MergeRule, parse_scale

_MAX_REASON = 200  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An input that a robust merge left out; a wrong reason raises InvalidModelFile."""

    origin: Origin
    weight: int
    reason: str

    def __post_init__(self) -> None:
        if not 0 < len(self.reason) <= _MAX_REASON:
            raise InvalidModelFile("the reason why an input was left out is missing or too long")

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of the record."""
        return {**self.origin.to_json(), "weight": self.weight, "reason": self.reason}

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """Parse a decoded JSON object; raise InvalidModelFile if it is wrong."""
        origin = Origin.from_json(raw)
        assert isinstance(raw, Mapping)  # noqa: S101 (Origin refuses anything else)
        reason = raw.get("reason")
        return cls(origin=origin, weight=raw.get("weight", 0), reason=reason if isinstance(reason, str) else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRecord:
    """Rule of a merge, and the inputs that it left out; a rule that cannot be raises InvalidModelFile."""

    weights: tuple[int, ...]  # of the merged inputs, in the order of their ids
    scale: Fraction = Fraction(1)
    robust: bool = False
    left_out: tuple[LeftOut, ...] = ()

    def __post_init__(self) -> None:
        if self.left_out and not self.robust:
            raise InvalidModelFile("the record of a merge is wrong: only a robust merge leaves inputs out")
        try:
            MergeRule(weights=self._all_weights, scale=self.scale, robust=self.robust)
        except CallerError as error:
            raise InvalidModelFile(f"the record of a merge is wrong: {error}") from None

    @property
    def _all_weights(self) -> tuple[int, ...]:
        return (*self.weights, *(each.weight for each in self.left_out))

    def rule(self) -> MergeRule:
        """Return the rule for the merged inputs, followed by those that were left out."""
        return MergeRule(weights=self._all_weights, scale=self.scale, robust=self.robust)

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of sidecar and card; the scale is text, so that it is exact."""
        return {
            "weights": list(self.weights),
            "scale": f"{float(self.scale):g}",
            "robust": self.robust,
            "left_out": [each.to_json() for each in self.left_out],
        }

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """Parse a decoded JSON object, ignoring unknown keys; raise InvalidModelFile if it is wrong."""
        if not isinstance(raw, Mapping):
            raise InvalidModelFile("the record of a merge is not a JSON object")
        weights, left_out = _list(raw, "weights"), _list(raw, "left_out")
        scale = raw.get("scale")
        try:
            parsed = parse_scale(scale if isinstance(scale, str) else "")
        except CallerError as error:
            raise InvalidModelFile(f"the record of a merge is wrong: {error}") from None
        return cls(
            weights=tuple(weights),
            scale=parsed,
            robust=raw.get("robust") is True,
            left_out=tuple(map(LeftOut.from_json, left_out)),
        )


def _list(raw: Mapping[str, Any], name: str) -> list[Any]:
    value = raw.get(name, [])
    if not isinstance(value, list):
        raise InvalidModelFile(f"the record of a merge is wrong: {name} is not a list")
    return value
