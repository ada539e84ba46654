"""Published releases that a checkpoint was made from, as its sidecar records them. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from randygpt.errors import InvalidModelFile
from relay_client.hexadecimal import parse_hex

_DIGEST_SIZE = 32  # bytes of an id or a public key


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A published release that a checkpoint was made from.

    Raises:
        InvalidModelFile: Release or author is not 32 bytes, or the relay is not text.
    """

    release: bytes  # event id, 32
    author: bytes  # x-only public key, 32
    relay: str = ""  # URL of a relay that may have it; empty: none known

    def __post_init__(self) -> None:
        if not all(type(value) is bytes and len(value) == _DIGEST_SIZE for value in (self.release, self.author)):
            raise InvalidModelFile("release and author of an origin are 32 bytes in lower-case hex")
        if type(self.relay) is not str:
            raise InvalidModelFile("the relay of an origin is not text")

    def to_json(self) -> dict[str, str]:
        """Return the JSON object of a sidecar."""
        return {"release": self.release.hex(), "author": self.author.hex(), "relay": self.relay}

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """Parse a decoded JSON object; raise InvalidModelFile if it is wrong."""
        if not isinstance(raw, Mapping):
            raise InvalidModelFile("an origin is not a JSON object")
        return cls(
            release=parse_hex(raw.get("release"), _DIGEST_SIZE) or b"",
            author=parse_hex(raw.get("author"), _DIGEST_SIZE) or b"",
            relay=raw.get("relay", ""),
        )
