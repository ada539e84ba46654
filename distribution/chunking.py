"""Cutting of files into chunks, and the base64 of chunk events. No I/O."""

import hashlib
from collections.abc import Iterator

import pybase64

from distribution.errors import InvalidChunk

# About 61,900 bytes as base64 in a signed event, below the 65,536 of common relays; a multiple of 3, so no padding.
CHUNK_SIZE = 46_080  # bytes


def count(length: int, chunk_size: int = CHUNK_SIZE) -> int:
    """Return the number of chunks in a segment of `length` bytes."""
    return -(-length // chunk_size)


def spans(lengths: list[int], chunk_size: int = CHUNK_SIZE) -> Iterator[tuple[int, int]]:
    """Yield (offset, size) of each chunk of a file with segments of these lengths; no chunk crosses a segment's end."""
    start = 0
    for length in lengths:
        for offset in range(0, length, chunk_size):
            yield start + offset, min(chunk_size, length - offset)
        start += length


def encoded_length(size: int) -> int:
    """Return the number of base64 characters of `size` bytes."""
    return 4 * -(-size // 3)


def encode(data: bytes) -> str:
    """Encode a chunk as the content of its event: base64, standard alphabet, padded."""
    return pybase64.b64encode_as_string(data)


def decode(content: str) -> bytes:
    """Decode the content of a chunk event.

    Raises:
        InvalidChunk: It is not base64, or more than 46,080 bytes.
    """
    if len(content) > encoded_length(CHUNK_SIZE):
        raise InvalidChunk(f"the chunk has more than {CHUNK_SIZE} bytes")
    try:
        return pybase64.b64decode(content, validate=True)
    except ValueError as error:
        raise InvalidChunk(f"the chunk is not base64: {error}") from None


def decode_exactly(content: str, *, size: int, sha256: bytes) -> bytes:
    """Decode the content of a chunk event, and verify its size and hash.

    Raises:
        InvalidChunk: It is not base64 of `size` bytes that hash to `sha256`.
    """
    if len(content) != encoded_length(size):
        raise InvalidChunk(f"the content has {len(content)} characters, which is not a chunk of {size} bytes")
    data = decode(content)
    if len(data) != size or hashlib.sha256(data).digest() != sha256:
        raise InvalidChunk("the bytes do not match the size and hash in the manifest")
    return data
