"""Merge of checkpoint files, streamed block by block in file order. Reads the files; no torch.

`randygpt.model.merge` has the arithmetic. Memory: one vector of merged weights, and a block of each input.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path

import numpy as np

from randygpt.checkpoint.header import HEADER_SIZE, CheckpointHeader
from randygpt.checkpoint.rgpt import Checkpoint
from randygpt.errors import CallerError, InvalidCheckpoint
from randygpt.model.config import ModelConfig
from randygpt.model.layout import tensor_shapes
from randygpt.model.merge import (
    BLOCK,
    Combination,
    ExactProducts,
    Floats,
    Grid,
    MergeRule,
    find_fault,
    from_grid,
    to_grid,
)
from randygpt.model.tokenizer import Tokenizer

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeFile:
    """A checkpoint file that is merged, or the base of others."""

    title: str  # as messages name it
    path: Path
    config: ModelConfig
    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """A merged checkpoint, without optimizer state."""

    checkpoint: Checkpoint
    reasons: tuple[str, ...]  # by input, why it was left out; empty if it was merged


def check_mergeable(base: MergeFile, inputs: Sequence[MergeFile]) -> None:
    """Raise CallerError, with the reason, if an input has another shape or vocabulary than the base."""
    for each in inputs:
        shape = replace(each.config, vocab_size=base.config.vocab_size)
        if shape != base.config:
            raise CallerError(f"{each.title} has another shape than the base: {shape.shape}, not {base.config.shape}")
        if each.tokenizer.to_json() != base.tokenizer.to_json():
            raise CallerError(f"{each.title} has another vocabulary than the base")


def merge_files(
    base: MergeFile, inputs: Sequence[MergeFile], rule: MergeRule, on_progress: OnProgress = lambda _done, _total: None
) -> Merged:
    """Return the merge of checkpoint files with a common base.

    The result depends on the files' contents, the rule and, between inputs that a robust rule finds equal, on their
    order. Its iteration and step are the highest of the merged inputs, its best loss is infinite.

    Args:
        base: The checkpoint that all inputs were trained from.
        inputs: The checkpoints to merge, in the order of the rule's weights.
        rule: Weights, scale, and whether it is robust.
        on_progress: Called with the bytes read so far and the bytes of all passes.

    Raises:
        CallerError: Shapes or vocabularies differ, or too few inputs remain.
        InvalidCheckpoint: A file is wrong, or a weight cannot be merged; the message names the input.
        OSError: A file cannot be read.
    """
    check_mergeable(base, inputs)
    with contextlib.ExitStack() as stack:
        reader = _Reader(stack, base, inputs, on_progress, passes=1 + rule.robust)
        combination = _measure(reader, rule) if rule.robust else Combination.plain(rule)
        weights = _combine(reader, combination)
    kept = [header for header, factor in zip(reader.headers, combination.factors, strict=True) if factor]
    header = CheckpointHeader(
        magic="RGPT0002",
        vocab_size=base.config.vocab_size,
        iteration=max(each.iteration for each in kept),
        step=max(each.step for each in kept),
        best_loss=math.inf,
    )
    checkpoint = Checkpoint(header=header, config=base.config, weights=weights, optimizer_state=None)
    return Merged(checkpoint=checkpoint, reasons=combination.reasons)


def _measure(reader: "_Reader", rule: MergeRule) -> Combination:
    """Read all files once, and return what a robust rule does with them."""
    products, excluded = ExactProducts(len(rule.weights)), dict[int, str]()
    for tensor, base, blocks in reader.blocks(range(len(rule.weights))):
        changes = np.zeros((len(rule.weights), len(base)), np.int64)
        for index, block in blocks.items():
            fault = excluded.get(index) or find_fault(block)
            if not fault:
                changes[index] = to_grid(block) - base
            elif np.isfinite(block).all():
                excluded.setdefault(index, f"{fault} in {tensor}")
            else:
                raise InvalidCheckpoint(f"{reader.title(index)}: {find_fault(block)} in {tensor}")
        products.add(changes)
    return Combination.robust(rule, products.rows(), excluded)


def _combine(reader: "_Reader", combination: Combination) -> Floats:
    """Read the files that are merged, and return the merged weights (P,)."""
    weights, end = np.empty(reader.config.parameter_count, np.float32), 0
    for tensor, base, blocks in reader.blocks([index for index, factor in enumerate(combination.factors) if factor]):
        for index, block in blocks.items():
            if fault := find_fault(block):
                raise InvalidCheckpoint(f"{reader.title(index)}: {fault} in {tensor}, which cannot be merged")
        merged = from_grid(combination.apply(base, {index: to_grid(block) - base for index, block in blocks.items()}))
        if fault := find_fault(merged):
            raise CallerError(f"the merge has {fault} in {tensor}: use a smaller --scale")
        start, end = end, end + len(merged)
        weights[start:end] = merged
    return weights


class _Reader:
    """The open files of a merge."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        base: MergeFile,
        inputs: Sequence[MergeFile],
        on_progress: OnProgress,
        *,
        passes: int,
    ) -> None:
        self.config = base.config
        opened = [_open(stack, each, base.config) for each in (base, *inputs)]
        self._base, *self._files = (file for file, _ in opened)
        self.headers = [header for _, header in opened[1:]]
        self._titles = [each.title for each in (*inputs, base)]  # of the base: -1
        self._on_progress = on_progress
        self._done, self._total = 0, passes * len(opened) * 4 * base.config.parameter_count

    def title(self, index: int) -> str:
        """Return how messages name an input; -1: the base."""
        return self._titles[index]

    def blocks(self, indices: Sequence[int]) -> Iterator[tuple[str, Grid, dict[int, Floats]]]:
        """Yield tensor, base and the weights of these inputs, in blocks in file order."""
        for file in (self._base, *self._files):
            file.seek(HEADER_SIZE)
        for tensor, (rows, columns) in tensor_shapes(self.config).items():
            for start in range(0, rows * columns, BLOCK):
                count = min(BLOCK, rows * columns - start)
                base = self._read(-1, self._base, count)
                if fault := find_fault(base):
                    raise InvalidCheckpoint(f"{self.title(-1)}: {fault} in {tensor}, which cannot be merged")
                yield tensor, to_grid(base), {each: self._read(each, self._files[each], count) for each in indices}

    def _read(self, index: int, file: BufferedReader, count: int) -> Floats:
        data = bytearray(4 * count)
        if file.readinto(data) != len(data):
            raise InvalidCheckpoint(f"{self.title(index)}: the file was truncated while it was being read")
        self._done += len(data)
        self._on_progress(self._done, self._total)
        return np.frombuffer(data, "<f4").astype(np.float32, copy=False)


def _open(stack: contextlib.ExitStack, each: MergeFile, config: ModelConfig) -> tuple[BufferedReader, CheckpointHeader]:
    """Open a checkpoint after checking its header and size."""
    file = stack.enter_context(each.path.open("rb"))
    try:
        header = CheckpointHeader.parse(file.read(HEADER_SIZE))
        header.optimizer_layout(config, os.fstat(file.fileno()).st_size)
    except InvalidCheckpoint as error:
        raise InvalidCheckpoint(f"{each.title}: {error}") from None
    return file, header
