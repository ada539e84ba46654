"""Filters that select events on a relay (NIP-01, NIP-50). No I/O."""

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from relay_client.errors import CallerError, quote
from relay_client.event import MAX_KIND, MAX_TIMESTAMP

MAX_LIMIT = 2**31 - 1  # some relays keep it in 32 bits
_DIGEST_SIZE = 32  # bytes of an id or a public key


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Selection of events that match every given field; within a field, any of its values.

    Raises CallerError for values that no event can match.
    """

    ids: tuple[bytes, ...] = ()  # 32 bytes each
    authors: tuple[bytes, ...] = ()  # x-only public keys, 32 bytes each
    kinds: tuple[int, ...] = ()
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # one-letter name -> values
    since: int | None = None  # earliest `created_at`, in seconds since 1970
    until: int | None = None  # latest `created_at`, the same
    search: str = ""  # words to search for, on relays that offer it (NIP-50); the others refuse or ignore it
    limit: int  # always sent: some relays return at most 100 events without it

    def __post_init__(self) -> None:
        if not _is_integer(self.limit, 1, MAX_LIMIT):
            raise CallerError(f"a filter's limit must be at least 1, not {self.limit}")
        for name, time in (("since", self.since), ("until", self.until)):
            if not (time is None or _is_integer(time, 0, MAX_TIMESTAMP)):
                raise CallerError(f"a filter's {name} must be from 0 to {MAX_TIMESTAMP}, not {time}")
        if not all(map(_is_digest, (*self.ids, *self.authors))):
            raise CallerError("a filter's ids and authors must have 32 bytes each")
        if not all(_is_integer(kind, 0, MAX_KIND) for kind in self.kinds):
            raise CallerError(f"a filter's kinds must be from 0 to {MAX_KIND}, not {self.kinds}")
        for name, values in self.tags.items():
            if len(name) != 1 or name not in string.ascii_letters:
                raise CallerError(f"a filter's tag name must be one letter, not {quote(name)}")
            if not all(map(_is_text, values)):
                raise CallerError(f"a filter's values of tag {name} must be text")
        if not _is_text(self.search):
            raise CallerError("a filter's search must be text")
        object.__setattr__(self, "tags", MappingProxyType(dict(self.tags)))  # so that it stays valid

    def to_dict(self) -> dict[str, object]:
        """Return the filter as a JSON object (NIP-01). Empty fields are left out; relays disagree on their meaning."""
        fields: dict[str, object] = {
            "ids": [value.hex() for value in self.ids],
            "authors": [value.hex() for value in self.authors],
            "kinds": list(self.kinds),
            **{f"#{name}": list(values) for name, values in self.tags.items()},
        }
        times = {name: time for name, time in (("since", self.since), ("until", self.until)) if time is not None}
        words = {"search": self.search} if self.search else {}
        return {name: values for name, values in fields.items() if values} | times | words | {"limit": self.limit}


def _is_digest(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == _DIGEST_SIZE


def _is_integer(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most  # bool is a subclass of int


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)
