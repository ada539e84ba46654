"""How bytes are cut into chunks and chunks become text. No I/O."""

import hashlib
from collections.abc import Iterator

import pybase64

from distribution.errors import InvalidChunk

# As base64 in a signed event about 61,900 bytes: under the 65,536 that common relays take. Divides by 3: no padding.
CHUNK_SIZE = 46_080  # bytes


def count(length: int, chunk_size: int = CHUNK_SIZE) -> int:
    """How many chunks `length` bytes make."""
    return -(-length // chunk_size)


def spans(lengths: list[int], chunk_size: int = CHUNK_SIZE) -> Iterator[tuple[int, int]]:
    """(offset, size) of each chunk of a file whose segments have these lengths; no chunk crosses a segment's end."""
    start = 0
    for length in lengths:
        for offset in range(0, length, chunk_size):
            yield start + offset, min(chunk_size, length - offset)
        start += length


def encoded_length(size: int) -> int:
    """Characters that `size` bytes make."""
    return 4 * -(-size // 3)


def encode(data: bytes) -> str:
    """A chunk's bytes as an event's content: base64, standard alphabet, padded."""
    return pybase64.b64encode_as_string(data)


def decode(content: str) -> bytes:
    """The bytes in a chunk event's content; raises InvalidChunk if it is not base64 of at most 46,080 bytes."""
    if len(content) > encoded_length(CHUNK_SIZE):
        raise InvalidChunk(f"a chunk of over {CHUNK_SIZE} bytes")
    try:
        return pybase64.b64decode(content, validate=True)
    except ValueError as error:
        raise InvalidChunk(f"not base64: {error}") from None


def decode_exactly(content: str, *, size: int, sha256: bytes) -> bytes:
    """The bytes in a chunk event's content; raises InvalidChunk unless they are `size` bytes that hash to `sha256`."""
    if len(content) != encoded_length(size):
        raise InvalidChunk(f"a chunk of {size} bytes does not have {len(content)} characters")
    data = decode(content)
    if len(data) != size or hashlib.sha256(data).digest() != sha256:
        raise InvalidChunk("not the bytes that the manifest names")
    return data
