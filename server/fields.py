"""Typed fields of a JSON request: each validates a value and describes itself for the OpenAPI document. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from server.errors import InvalidRequest

Schema = dict[str, Any]


class Field(Protocol):
    """A field of a request."""

    @property
    def default(self) -> Any:  # noqa: ANN401 (JSON)
        """Value of a field that is absent."""

    @property
    def description(self) -> str:
        """Meaning, for the OpenAPI document."""

    def read(self, name: str, raw: Any) -> Any:  # noqa: ANN401 (JSON)
        """Return the value; raises InvalidRequest."""

    def schema(self) -> Schema:
        """Return the JSON Schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number from `minimum` to `maximum`."""

    minimum: float
    maximum: float
    description: str
    default: float | None = None
    is_integer: bool = False
    is_minimum_exclusive: bool = False

    def read(self, name: str, raw: Any) -> float:  # noqa: ANN401 (JSON)
        """Return the number; raises InvalidRequest."""
        if self.is_integer and (type(raw) is not int or not self.minimum <= raw <= self.maximum):
            raise InvalidRequest(f"{name} must be an integer from {self.minimum} to {self.maximum}", field=name)
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            raise InvalidRequest(f"{name} must be a number", field=name)
        if not self.minimum <= raw <= self.maximum or (self.is_minimum_exclusive and raw == self.minimum):
            start = (
                f"greater than {self.minimum} and at most" if self.is_minimum_exclusive else f"from {self.minimum} to"
            )
            raise InvalidRequest(f"{name} must be {start} {self.maximum}", field=name)
        return raw

    def schema(self) -> Schema:
        """Return the JSON Schema."""
        minimum = "exclusiveMinimum" if self.is_minimum_exclusive else "minimum"
        kind = "integer" if self.is_integer else "number"
        return {"type": kind, minimum: self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimit:
    """A number of tokens: more than `maximum` is capped, and -1 means the maximum."""

    minimum: int
    maximum: int
    description: str
    default: int | None = None
    is_null_maximum: bool = False  # null means the maximum too, instead of the default

    def read(self, name: str, raw: Any) -> int:  # noqa: ANN401 (JSON)
        """Return the number; raises InvalidRequest."""
        if raw is None or (type(raw) is int and raw == -1):
            return self.maximum
        if type(raw) is not int or raw < self.minimum:
            raise InvalidRequest(f"{name} must be an integer from {self.minimum}, or -1 for the limit", field=name)
        return min(raw, self.maximum)

    def schema(self) -> Schema:
        """Return the JSON Schema."""
        return {"type": ["integer", "null"] if self.is_null_maximum else "integer", "minimum": -1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A boolean."""

    description: str
    default: bool = False

    def read(self, name: str, raw: Any) -> bool:  # noqa: ANN401 (JSON)
        """Return the boolean; raises InvalidRequest."""
        if not isinstance(raw, bool):
            raise InvalidRequest(f"{name} must be true or false", field=name)
        return raw

    def schema(self) -> Schema:
        """Return the JSON Schema."""
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Strings:
    """A string, or a list of strings."""

    description: str
    max_items: int
    min_items: int = 1
    min_length: int = 0  # characters of each string
    max_total: int = 0  # characters of all strings together; 0: no limit but the body's
    default: tuple[str, ...] | None = None

    def read(self, name: str, raw: Any) -> tuple[str, ...]:  # noqa: ANN401 (JSON)
        """Return the strings; raises InvalidRequest."""
        if raw == "" and not self.min_items:
            return ()
        found = [raw] if isinstance(raw, str) else raw
        if not isinstance(found, list) or not self.min_items <= len(found) <= self.max_items:
            raise InvalidRequest(
                f"{name} must be a string, or a list of {self.min_items} to {self.max_items} strings", field=name
            )
        if not all(isinstance(text, str) and len(text) >= self.min_length for text in found):
            raise InvalidRequest(
                f"{name} must contain only strings of at least {self.min_length} characters", field=name
            )
        if self.max_total and (total := sum(map(len, found))) > self.max_total:
            raise InvalidRequest(f"{name} has {total} characters, but at most {self.max_total} are allowed", field=name)
        return tuple(found)

    def schema(self) -> Schema:
        """Return the JSON Schema."""
        text: Schema = {"type": "string", "minLength": self.min_length}
        if self.max_total:
            text["maxLength"] = self.max_total
        items = {"type": "array", "items": text, "minItems": self.min_items, "maxItems": self.max_items}
        return {"anyOf": [text, items]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """A prompt or a list of prompts, each a string or a list of token ids."""

    description: str
    max_items: int
    default: tuple[str, ...] = ("",)

    def read(self, name: str, raw: Any) -> tuple[str | tuple[int, ...], ...]:  # noqa: ANN401 (JSON)
        """Return the prompts; raises InvalidRequest."""
        found = [raw] if isinstance(raw, str) or _are_ids(raw) else raw
        if not isinstance(found, list) or not 1 <= len(found) <= self.max_items:
            raise InvalidRequest(
                f"{name} must be a string, a list of token ids, or a list of 1 to {self.max_items} of these", field=name
            )
        if not (all(isinstance(prompt, str) for prompt in found) or all(map(_are_ids, found))):
            raise InvalidRequest(f"{name} must contain only strings, or only lists of token ids", field=name)
        return tuple(prompt if isinstance(prompt, str) else tuple(prompt) for prompt in found)

    def schema(self) -> Schema:
        """Return the JSON Schema."""
        text: Schema = {"type": "string"}
        ids = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
        lists = [{"type": "array", "items": each, "minItems": 1, "maxItems": self.max_items} for each in (text, ids)]
        return {"anyOf": [text, ids, *lists]}


def _are_ids(raw: object) -> bool:
    """Return True for a list of token ids; the model knows which of them it has."""
    return isinstance(raw, list) and bool(raw) and all(type(token) is int and token >= 0 for token in raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """An object with fields of its own."""

    description: str
    fields: Mapping[str, Field]
    default: Mapping[str, Any] | None = None

    def read(self, name: str, raw: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
        """Return a value for each field; raises InvalidRequest."""
        if not isinstance(raw, dict):
            raise InvalidRequest(f"{name} must be an object", field=name)
        try:
            return read_fields(self.fields, raw)
        except InvalidRequest as error:
            raise InvalidRequest(f"{name}.{error}", field=f"{name}.{error.field}") from None

    def schema(self) -> Schema:
        """Return the JSON Schema."""
        return object_schema(self.fields)


def parse_object(raw_body: bytes) -> dict[str, Any]:
    """Return the JSON object in a request body; raises InvalidRequest."""
    try:
        raw = orjson.loads(raw_body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InvalidRequest("the body must be a JSON object")
    return raw


def read_fields(fields: Mapping[str, Field], raw: Mapping[str, Any], *, nullable: bool = True) -> dict[str, Any]:
    """Return a value for each field; unknown fields are ignored.

    Args:
        fields: The fields, by name.
        raw: The JSON object.
        nullable: Take null for an absent field.

    Raises:
        InvalidRequest: A value is not allowed.
    """
    given = {
        name: value
        for name, value in raw.items()
        if not (nullable and value is None) or getattr(fields.get(name), "is_null_maximum", False)
    }
    return {name: field.read(name, given[name]) if name in given else field.default for name, field in fields.items()}


def object_schema(fields: Mapping[str, Field], required: tuple[str, ...] = ()) -> Schema:
    """Return the JSON Schema of an object with these fields."""
    properties = {}
    for name, field in fields.items():
        properties[name] = field.schema() | {"description": field.description}
        if field.default is not None and not isinstance(field.default, tuple):
            properties[name]["default"] = field.default
    return {"type": "object", "properties": properties, "required": list(required)}
