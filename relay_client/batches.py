"""Batches of items, for requests that take only so many. No I/O."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Yield the items in tuples of `size`, the last of which may be shorter; like Python 3.12's `itertools.batched`."""
    remaining = iter(items)
    while batch := tuple(islice(remaining, size)):
        yield batch
