"""Limits of the built-in Blossom server: how large blobs may be, how many, and of which types. No I/O."""

from dataclasses import dataclass

from relay_client.errors import CallerError


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobLimits:
    """What a server accepts and stores."""

    max_blob_size: int = 512 << 20  # bytes
    max_total_size: int = 20 << 30  # bytes
    max_blobs: int = 100_000  # the server keeps a record of each in memory
    max_uploads: int = 16  # at once; more are answered with 503
    max_connections: int = 256  # open at once; more are answered with 503
    headers_s: float = 30.0  # for the headers of a request, and between two requests of a connection
    types: frozenset[str] = frozenset()  # media types to accept; empty: all

    def __post_init__(self) -> None:
        counts = (self.max_blob_size, self.max_total_size, self.max_blobs, self.max_uploads, self.max_connections)
        if min(counts) < 1 or self.headers_s <= 0:
            raise CallerError("limits of a Blossom server must be at least 1")
        if any("/" not in each or each != each.lower().strip() for each in self.types):
            raise CallerError("a media type looks like application/octet-stream, in lower case")
