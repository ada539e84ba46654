"""A text in blocks: where a document ends, and how to share the work out. No I/O, no torch.

Wherever blocks are asked for, a str will do as one block.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

END = "<|eos|>"  # ends a document of a training text, where tokens are byte pairs
_CODE_POINTS = 0x110000
_LONGEST_LINE = 1 << 12  # characters to learn from in one piece: what a line costs grows with its square
_LINES_AT_ONCE = 1000  # of a text to encode; a newline stands alone, so cutting behind one changes no id


def survey(blocks: Iterable[str]) -> tuple[list[str], int]:
    """(The characters that a text has, sorted; how long it is)."""
    there, length = np.zeros(_CODE_POINTS, dtype=np.bool_), 0
    for block in as_blocks(blocks):
        there[code_points(block)] = True
        length += len(block)
    return [chr(point) for point in np.flatnonzero(there)], length


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """The numbers (T,) of a text's characters, half surrogate pairs among them."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def as_blocks(text: Iterable[str]) -> Iterable[str]:
    """A str as one block."""
    return [text] if isinstance(text, str) else text


def whole_ends(blocks: Iterable[str]) -> Iterator[str]:
    """The same text, with no `<|eos|>` cut in two by a block's border."""
    rest = ""
    for block in as_blocks(blocks):
        text = rest + block
        begun = (size for size in range(len(END) - 1, 0, -1) if text.endswith(END[:size]))
        cut = len(text) - next(begun, 0)
        yield text[:cut]
        rest = text[cut:]
    yield rest


def without_ends(blocks: Iterable[str]) -> Iterator[str]:
    """What the documents hold."""
    return (block.replace(END, "") for block in whole_ends(blocks))


def spread(blocks: Iterable[str], share: float) -> Iterator[str]:
    """A share of the blocks, evenly spread; the first is always among them."""
    return (block for at, block in enumerate(blocks) if math.ceil((at + 1) * share) > math.ceil(at * share))


def lines(block: str) -> list[str]:
    """What byte pairs are learned from: lines of documents, and long ones in pieces."""
    found = block.replace(END, "\n").split("\n")
    return [line[at : at + _LONGEST_LINE] for line in found for at in range(0, len(line), _LONGEST_LINE)]


def parts(document: str) -> list[str]:
    """A document in parts that can be encoded at the same time."""
    found = document.encode("utf-8", "ignore").decode().split("\n")
    starts = range(0, len(found), _LINES_AT_ONCE)
    joined = ["\n".join(found[start : start + _LINES_AT_ONCE]) for start in starts]
    joined[:-1] = [f"{part}\n" for part in joined[:-1]]
    return joined
