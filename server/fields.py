"""Fields of a request's JSON: what is right, said once for the check and for the OpenAPI document. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from server.errors import InvalidRequest

Schema = dict[str, Any]


class Field(Protocol):
    """Something that a request may say."""

    @property
    def default(self) -> Any:  # noqa: ANN401 (JSON)
        """What it is where a request does not say."""

    @property
    def about(self) -> str:
        """What it means."""

    def read(self, name: str, raw: Any) -> Any:  # noqa: ANN401 (JSON)
        """The value; raises InvalidRequest."""

    def schema(self) -> Schema:
        """The same in words of JSON Schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number from `low` to `high`."""

    low: float
    high: float
    about: str
    default: float | None = None
    whole: bool = False
    above: bool = False  # over `low`, not equal to it

    def read(self, name: str, raw: Any) -> float:  # noqa: ANN401 (JSON)
        """The number; raises InvalidRequest."""
        if self.whole and (type(raw) is not int or not self.low <= raw <= self.high):
            raise InvalidRequest(f"{name} is a whole number from {self.low} to {self.high}", field=name)
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            raise InvalidRequest(f"{name} is a number", field=name)
        if not self.low <= raw <= self.high or (self.above and raw == self.low):
            way = f"over {self.low} and at most" if self.above else f"from {self.low} to"
            raise InvalidRequest(f"{name} is {way} {self.high}", field=name)
        return raw

    def schema(self) -> Schema:
        """The same in words of JSON Schema."""
        low = "exclusiveMinimum" if self.above else "minimum"
        return {"type": "integer" if self.whole else "number", low: self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """True or false."""

    about: str
    default: bool = False

    def read(self, name: str, raw: Any) -> bool:  # noqa: ANN401 (JSON)
        """The flag; raises InvalidRequest."""
        if not isinstance(raw, bool):
            raise InvalidRequest(f"{name} is true or false", field=name)
        return raw

    def schema(self) -> Schema:
        """The same in words of JSON Schema."""
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """One text, or several in a list."""

    about: str
    most: int  # in a list
    least: int = 0  # characters of each
    fewest: int = 1  # in a list
    default: tuple[str, ...] | None = None

    def read(self, name: str, raw: Any) -> tuple[str, ...]:  # noqa: ANN401 (JSON)
        """The texts; raises InvalidRequest."""
        found = [raw] if isinstance(raw, str) else raw
        if not isinstance(found, list) or not self.fewest <= len(found) <= self.most:
            raise InvalidRequest(f"{name} is a text, or a list of {self.fewest} to {self.most}", field=name)
        if not all(isinstance(text, str) and len(text) >= self.least for text in found):
            raise InvalidRequest(
                f"{name} holds something that is no text of at least {self.least} characters", field=name
            )
        return tuple(found)

    def schema(self) -> Schema:
        """The same in words of JSON Schema."""
        text = {"type": "string", "minLength": self.least}
        return {"anyOf": [text, {"type": "array", "items": text, "minItems": self.fewest, "maxItems": self.most}]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """An object with fields of its own; unknown ones are ignored."""

    about: str
    fields: Mapping[str, Field]
    default: Mapping[str, Any] | None = None

    def read(self, name: str, raw: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
        """All values; raises InvalidRequest."""
        if not isinstance(raw, dict):
            raise InvalidRequest(f"{name} is an object", field=name)
        return read(self.fields, raw)

    def schema(self) -> Schema:
        """The same in words of JSON Schema."""
        return object_schema(self.fields)


def parse_object(raw_body: bytes) -> dict[str, Any]:
    """The JSON object in a body; raises InvalidRequest."""
    try:
        raw = orjson.loads(raw_body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InvalidRequest("the body is not a JSON object")
    return raw


def read(fields: Mapping[str, Field], raw: Mapping[str, Any], *, nullable: bool = True) -> dict[str, Any]:
    """A value for each field, its default where it is not there (or null, if `nullable`); unknown ones are ignored.

    Raises InvalidRequest.
    """
    given = {name: value for name, value in raw.items() if not (nullable and value is None)}
    return {name: fields[name].read(name, given[name]) if name in given else fields[name].default for name in fields}


def object_schema(fields: Mapping[str, Field], required: tuple[str, ...] = ()) -> Schema:
    """An object with such fields, in words of JSON Schema."""
    properties = {}
    for name, field in fields.items():
        properties[name] = field.schema() | {"description": field.about}
        if field.default is not None and not isinstance(field.default, tuple):
            properties[name]["default"] = field.default
    return {"type": "object", "properties": properties, "required": list(required)}
