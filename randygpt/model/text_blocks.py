"""Text in blocks: document boundaries, and how to cut it for training and encoding a tokenizer. No I/O, no torch.

Every function that takes blocks also takes a whole text as a str.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

EOS = "<|eos|>"  # ends a document in a training text for BPE
_CODE_POINTS = 0x110000
_MAX_LINE = 1 << 12  # characters; the cost of learning from a line grows with its square
_LINES_PER_PART = 1000  # merges never cross a newline, so a cut after one changes no id


def scan_characters(blocks: Iterable[str]) -> tuple[list[str], int]:
    """Return the distinct characters of a text, sorted, and its length."""
    present, length = np.zeros(_CODE_POINTS, dtype=np.bool_), 0
    for block in as_blocks(blocks):
        present[code_points(block)] = True
        length += len(block)
    return [chr(point) for point in np.flatnonzero(present)], length


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """Return the code points (T,) of a text, lone surrogates included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def known_points(chars: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Return a table over all code points that is True for some characters."""
    known = np.zeros(_CODE_POINTS, dtype=np.bool_)
    known[[ord(char) for char in chars]] = True
    return known


def as_blocks(text: Iterable[str]) -> Iterable[str]:
    """Return a str as one block, and blocks as they are."""
    return [text] if isinstance(text, str) else text


def rejoin_eos(blocks: Iterable[str]) -> Iterator[str]:
    """Yield the same text in blocks that no `<|eos|>` straddles."""
    rest = ""
    for block in as_blocks(blocks):
        text = rest + block
        prefixes = (size for size in range(len(EOS) - 1, 0, -1) if text.endswith(EOS[:size]))
        cut = len(text) - next(prefixes, 0)
        yield text[:cut]
        rest = text[cut:]
    yield rest


def strip_eos(blocks: Iterable[str]) -> Iterator[str]:
    """Yield the text of the documents without `<|eos|>`."""
    return (block.replace(EOS, "") for block in rejoin_eos(blocks))


def sample_evenly(blocks: Iterable[str], fraction: float) -> Iterator[str]:
    """Yield a fraction of the blocks, evenly spaced, starting with the first."""
    return (block for at, block in enumerate(blocks) if math.ceil((at + 1) * fraction) > math.ceil(at * fraction))


def training_lines(block: str) -> list[str]:
    """Return the lines of a block to learn BPE merges from, with long lines cut."""
    lines = block.replace(EOS, "\n").split("\n")
    return [line[at : at + _MAX_LINE] for line in lines for at in range(0, len(line), _MAX_LINE)]


def encoding_parts(document: str) -> list[str]:
    """Return a document in parts that can be encoded in parallel with the ids of the whole."""
    lines = document.encode("utf-8", "ignore").decode().split("\n")
    starts = range(0, len(lines), _LINES_PER_PART)
    parts = ["\n".join(lines[start : start + _LINES_PER_PART]) for start in starts]
    parts[:-1] = [f"{part}\n" for part in parts[:-1]]
    return parts
