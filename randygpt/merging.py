"""Merge of models and releases: their common base, the record of the merge, and its repetition. Reads the disk.

A merge is made again from its inputs, its base and its record: the rule, and the inputs that were left out. The record
is in the sidecar of the checkpoint and in the card of its release, where it is the author's claim.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from distribution.errors import StoreError
from distribution.installed import InstalledRelease
from distribution.store import Store
from randygpt.checkpoint.merge import Merged, MergeFile, OnProgress, merge_files
from randygpt.checkpoint.merge_record import LeftOut, MergeRecord
from randygpt.checkpoint.origin import Origin
from randygpt.checkpoint.sidecar import CheckpointInfo, Sidecar, inspect_checkpoint
from randygpt.errors import CallerError
from randygpt.model.merge import MergeRule
from randygpt.origins import origin_of

_MAX_DEPTH = 1_000  # ancestors of one model that are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSource:
    """A model that is merged, or the base of others: an installed release, or a checkpoint file."""

    id: bytes  # event id of a release, SHA-256 of a file; 32
    info: CheckpointInfo
    release: InstalledRelease | None = None  # None: a file

    @classmethod
    def read(cls, path: Path, release: InstalledRelease | None = None) -> Self:
        """Read what is known about a checkpoint; raise InvalidModelFile and OSError."""
        info = inspect_checkpoint(path)
        if release:
            return cls(id=release.id, info=info, release=release)
        with path.open("rb") as file:
            return cls(id=hashlib.file_digest(file, "sha256").digest(), info=info)

    @property
    def title(self) -> str:
        """The model, as messages name it."""
        return f"{self.release.title} ({self.release.short_id})" if self.release else str(self.info.path)

    @property
    def origin(self) -> Origin | None:
        """The release, as a sidecar names it; None for a file."""
        return origin_of(self.release) if self.release else None

    @property
    def base_id(self) -> bytes | None:
        """Id of the release that it was made from, as its author or its sidecar claims."""
        if self.release:
            base = self.release.lineage.base
            return base.release_id if base else None
        origin = self.info.sidecar.base if self.info.sidecar else None
        return origin.release if origin else None

    def file(self) -> MergeFile:
        """Return the file to merge; raise CallerError if it has no vocabulary."""
        if self.info.tokenizer is None:
            raise CallerError(f"{self.title} has no vocabulary next to it, so it cannot be merged")
        return MergeFile(title=self.title, path=self.info.path, config=self.info.config, tokenizer=self.info.tokenizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMerge:
    """A merge of models with a common base. The inputs are sorted by id, so that their order does not matter.

    Raises:
        CallerError: An input is named twice, or is the base.
    """

    base: MergeSource
    inputs: tuple[MergeSource, ...]
    rule: MergeRule  # with its weights in the order of the inputs

    def __post_init__(self) -> None:
        ids = [each.id for each in self.inputs]
        for index, each in enumerate(self.inputs):
            if each.id == self.base.id:
                raise CallerError(f"{each.title} is the base itself; to take smaller steps from it, use --scale")
            if each.id in ids[:index]:
                raise CallerError(f"{each.title} is named twice; to count it more, use --weights")
        if ids != sorted(ids):
            order = sorted(range(len(ids)), key=ids.__getitem__)
            weights = tuple(self.rule.weights[index] for index in order)
            object.__setattr__(self, "inputs", tuple(self.inputs[index] for index in order))
            object.__setattr__(self, "rule", replace(self.rule, weights=weights))

    @property
    def is_repeatable(self) -> bool:
        """Whether others can make it again: base and inputs are releases."""
        return all(each.release for each in (self.base, *self.inputs))

    def run(self, on_progress: OnProgress = lambda _done, _total: None) -> Merged:
        """Merge the files; raise what `merge_files` raises, and StoreError if a release was removed meanwhile."""
        for each in (self.base, *self.inputs):
            if each.release and not each.info.path.exists():
                raise StoreError(
                    f"{each.title} was removed from the store before it was merged: run this again; if base and inputs "
                    "do not fit into the quota, raise it (randygpt gc --quota)"
                )
        return merge_files(self.base.file(), [each.file() for each in self.inputs], self.rule, on_progress)

    def sidecar(self, merged: Merged) -> Sidecar:
        """Return the sidecar of the result. Its name is the base's, and its inputs are named if all are releases."""
        base = self.base.file()
        kept = [each.origin for each, reason in zip(self.inputs, merged.reasons, strict=True) if not reason]
        origins = tuple(origin for origin in kept if origin)
        return Sidecar(
            config=base.config,
            tokenizer=base.tokenizer,
            name=self._name(),
            iteration=merged.checkpoint.header.iteration,
            losses={"best_val": None},
            base=self.base.origin,
            merged=origins if self.is_repeatable else (),
            merge=self._record(merged) if self.is_repeatable else None,
        )

    def _name(self) -> str:
        if self.base.release:
            return self.base.release.name
        return self.base.info.sidecar.name if self.base.info.sidecar else ""

    def _record(self, merged: Merged) -> MergeRecord:
        rows = list(zip(self.inputs, self.rule.weights, merged.reasons, strict=True))
        return MergeRecord(
            weights=tuple(weight for _, weight, reason in rows if not reason),
            scale=self.rule.scale,
            robust=self.rule.robust,
            left_out=tuple(
                LeftOut(origin=each.origin, weight=weight, reason=reason)
                for each, weight, reason in rows
                if reason and each.origin
            ),
        )


def check_bases(store: Store, base: MergeSource, inputs: Sequence[MergeSource]) -> None:
    """Raise CallerError if an input names another base. One that names none is taken to have this one."""
    for each in inputs:
        line = _line(store, each)
        if line and base.id not in (each.id, *line):  # that an input is the base, `ModelMerge` refuses
            other = f"it was made from the release {line[-1].hex()}"
            raise CallerError(f"{each.title} has another base than {base.title}: {other}")


def find_base(store: Store, inputs: Sequence[MergeSource]) -> bytes:
    """Return the id of the nearest release that all inputs descend from, by the claims of installed releases.

    Raises:
        CallerError: An input names no base, or they have none in common.
        StoreError: The store is damaged.
    """
    lines = [_line(store, each) for each in inputs]
    for each, line in zip(inputs, lines, strict=True):
        if not line:
            raise CallerError(f"{each.title} names no release that it was made from: name the common one with --base")
    common = set(lines[0]).intersection(*lines[1:])
    for release_id in lines[0]:
        if release_id in common:
            return release_id
    known = "; ".join(f"{each.title} was made from {line[-1].hex()}" for each, line in zip(inputs, lines, strict=True))
    raise CallerError(f"the inputs have no common base: {known} (a base that is not installed may hide it: fetch it)")


def _line(store: Store, source: MergeSource) -> list[bytes]:
    """Return the ids of the releases that a model descends from, nearest first, as far as they are installed."""
    line, release_id = list[bytes](), source.base_id
    while release_id and release_id not in line and len(line) < _MAX_DEPTH:
        line.append(release_id)
        release = store.release(release_id)
        release_id = release.lineage.base.release_id if release and release.lineage.base else None
    return line
