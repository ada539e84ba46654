"""What to ask a relay for (NIP-01 filters). No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from relay_client.errors import CallerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Events must match every field that is given; within a field, any of its values."""

    ids: tuple[bytes, ...] = ()  # 32 each
    authors: tuple[bytes, ...] = ()  # 32 each
    kinds: tuple[int, ...] = ()
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # one-letter name -> values
    limit: int  # always sent: some relays answer 100 at most where it is missing

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise CallerError(f"a filter's limit is at least 1, not {self.limit}")

    def to_dict(self) -> dict[str, object]:
        """The filter as NIP-01 writes it, ready for JSON."""
        fields: dict[str, object] = {
            "ids": [value.hex() for value in self.ids],
            "authors": [value.hex() for value in self.authors],
            "kinds": list(self.kinds),
            **{f"#{name}": list(values) for name, values in self.tags.items()},
        }
        return {name: values for name, values in fields.items() if values} | {"limit": self.limit}
