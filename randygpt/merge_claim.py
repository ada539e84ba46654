"""What a release claims to be a merge of, and whether it is. Reads files of installed releases."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from distribution.ancestors import Ancestor
from distribution.errors import InvalidRelease
from distribution.installed import InstalledRelease
from randygpt.checkpoint.header import HEADER_SIZE, CheckpointHeader
from randygpt.checkpoint.merge import Merged, OnProgress
from randygpt.checkpoint.merge_record import MergeRecord
from randygpt.errors import CallerError, InvalidModelFile
from randygpt.merging import MergeSource, ModelMerge


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeClaim:
    """Base, inputs and rule of a merge, as the author of a release signed them."""

    release: InstalledRelease
    base: Ancestor
    inputs: tuple[Ancestor, ...]  # those in the result, then those that were left out
    record: MergeRecord

    @classmethod
    def read(cls, release: InstalledRelease) -> Self:
        """Return the claim of a release.

        Raises:
            CallerError: It does not claim to be a merge.
            InvalidRelease: Its card does not say how its inputs were merged.
        """
        base, merged = release.lineage.base, release.lineage.merged
        if base is None or not merged:
            raise CallerError(f"{release.title} is no merge: its author names no merged inputs")
        try:
            record = MergeRecord.from_json(release.card.get("merge"))
        except InvalidModelFile as error:
            raise InvalidRelease(f"{release.title} does not say how it was merged: {error}") from None
        if len(record.weights) != len(merged):
            fault = f"{len(record.weights)} weights for {len(merged)} inputs"
            raise InvalidRelease(f"{release.title} does not say how it was merged: {fault}")
        left_out = [
            Ancestor(release_id=each.origin.release, hint=each.origin.relay, author=each.origin.author)
            for each in record.left_out
        ]
        return cls(release=release, base=base, inputs=(*merged, *left_out), record=record)

    def repeat(self, base: MergeSource, inputs: Sequence[MergeSource], on_progress: OnProgress) -> str:
        """Make the merge again, and return how the release differs from it; empty if it does not.

        Args:
            base: The release that the claim names as base.
            inputs: The releases that it names as inputs, in its order.
            on_progress: Called with the bytes read so far and the bytes of all passes.

        Raises:
            InvalidRelease: The named releases cannot be merged, or are of other authors than it says.
            OSError: A file cannot be read.
        """
        for ancestor, source in zip((self.base, *self.inputs), (base, *inputs), strict=True):
            if source.release is None or source.release.author != ancestor.author:
                raise InvalidRelease(f"{self.release.title} names a wrong author of {source.title}")
        try:
            again = ModelMerge(base=base, inputs=tuple(inputs), rule=self.record.rule())
            merged = again.run(on_progress)
        except CallerError as error:
            raise InvalidRelease(f"{self.release.title} cannot be the merge that it claims to be: {error}") from None
        dropped = {each.id for each, reason in zip(again.inputs, merged.reasons, strict=True) if reason}
        if dropped != {each.origin.release for each in self.record.left_out}:
            return "the rule leaves out other inputs than it says"
        return _find_difference(self.release, merged)


def _find_difference(release: InstalledRelease, merged: Merged) -> str:
    expected = merged.checkpoint
    path = release.file("checkpoint").local_path
    if path.stat().st_size != HEADER_SIZE + expected.weights.nbytes:
        return f"its checkpoint has {path.stat().st_size:,} bytes, the merge {HEADER_SIZE + expected.weights.nbytes:,}"
    with path.open("rb") as file:
        header = file.read(HEADER_SIZE)
        weights = np.fromfile(file, "<f4")
    if different := np.flatnonzero(weights.view("<u4") != expected.weights.astype("<f4", copy=False).view("<u4")).size:
        return f"{different:,} of {weights.size:,} weights differ"
    if header != expected.header.encode():
        return f"the headers differ: {CheckpointHeader.parse(header)}, the merge has {expected.header}"
    return ""
