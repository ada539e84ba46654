"""Blob descriptor (BUD-02): what a server says about a blob that it stores. No I/O."""

from dataclasses import dataclass
from typing import Self

import orjson

from relay_client.errors import InvalidResponse
from relay_client.hexadecimal import parse_hex

_DIGEST = 32  # bytes
_MAX_SIZE = 2**53 - 1  # the largest integer that every JSON reader keeps exact


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobDescriptor:
    """A blob stored on a server.

    Raises:
        InvalidResponse: The values cannot be those of a blob.
    """

    sha256: bytes
    size: int  # bytes
    url: str = ""  # where the server says it is; clients build the address themselves
    type: str = "application/octet-stream"
    uploaded: int = 0  # seconds since 1970

    def __post_init__(self) -> None:
        if len(self.sha256) != _DIGEST:
            raise InvalidResponse("the descriptor of a blob has no sha256")
        if type(self.size) is not int or not 0 <= self.size <= _MAX_SIZE:
            raise InvalidResponse("the descriptor of a blob has no size")

    @classmethod
    def parse(cls, raw_body: bytes) -> Self:
        """Parse the JSON of a descriptor; raises InvalidResponse. Only `sha256` and `size` have to be right."""
        try:
            raw = orjson.loads(raw_body)
        except orjson.JSONDecodeError:
            raw = None
        if not isinstance(raw, dict):
            raise InvalidResponse("the reply is not the descriptor of a blob")
        uploaded = raw.get("uploaded")
        return cls(
            sha256=parse_hex(raw.get("sha256"), _DIGEST) or b"",
            size=raw.get("size"),  # type: ignore[arg-type]  # checked on construction
            url=_text(raw.get("url")),
            type=_text(raw.get("type")),
            uploaded=uploaded if type(uploaded) is int else 0,
        )

    def to_dict(self) -> dict[str, object]:
        """Return the descriptor as a JSON object (BUD-02)."""
        return {
            "url": self.url,
            "sha256": self.sha256.hex(),
            "size": self.size,
            "type": self.type,
            "uploaded": self.uploaded,
        }


def _text(raw_value: object) -> str:
    return raw_value if isinstance(raw_value, str) else ""
