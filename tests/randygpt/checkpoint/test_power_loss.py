"""Power cuts during a save, by enumerating every state that the disk may be in.

The disk model keeps only what POSIX promises: a rename is atomic; a file's content is durable after `fsync` of the
file, and the names in a folder after `fsync` of the folder. Until then any subset of the changes may be on the disk.
"""

import contextlib
import functools
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models import CONFIG, TOKENIZER, tiny_checkpoint

from randygpt.checkpoint.rgpt import Checkpoint, read_weights
from randygpt.checkpoint.save import save_checkpoint
from randygpt.checkpoint.sidecar import Sidecar, inspect_checkpoint

Files = dict[str, bytes]
Pace = tuple[float, float]  # change of iteration and best loss from one save to the next
PACES = pytest.mark.parametrize("pace", [(1, 0), (0, 1)], ids=["one run", "equal iterations"])
CHANGES = ("open", "replace", "rename", "link", "unlink")  # system calls that change a folder


class Killed(BaseException):
    """The process was killed; the power stays on."""


class Disk:
    """A folder and the states that a power cut may leave it in."""

    def __init__(self, folder: Path, kept: Path) -> None:
        self._folder = folder
        self._kept = kept  # a link to every file, so that no inode is reused
        self._link = os.link
        self._pending: list[dict[str, int | None]] = []  # changes of names since the folder was synced
        self._names: dict[str, int] = {}
        self._look()
        self._synced = {inode: self._content(inode) for inode in self._names.values()}
        self._safe = self._names
        self._pending.clear()
        self.left: list[Files] = []  # possible states after each call so far
        self.calls_to_kill = -1  # never

    def remains(self) -> Iterator[Files]:
        """Yield the states that a power cut may leave now, without temporary files."""
        for made in itertools.product([False, True], repeat=len(self._pending)):
            names: dict[str, int | None] = dict(self._safe)
            for change in itertools.compress(self._pending, made):
                names |= change
            files = {name: inode for name, inode in names.items() if inode and not name.startswith(".tmp-")}
            contents = [{self._synced.get(inode, b""), self._content(inode)} for inode in files.values()]
            for chosen in itertools.product(*contents):
                yield dict(zip(files, chosen, strict=True))

    def after(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a system call so that the states after it are recorded."""

        def seen(*args: Any, **options: Any) -> Any:  # noqa: ANN401 (passed on)
            result = call(*args, **options)
            self._look()
            self.left += self.remains()
            self.calls_to_kill -= 1
            if self.calls_to_kill == 0:
                raise Killed
            return result

        return seen

    def sync(self, descriptor: int) -> None:
        """Replace `fsync`."""
        facts = os.fstat(descriptor)
        if stat.S_ISDIR(facts.st_mode):
            self._safe = self._names
            self._pending.clear()
        else:
            self._synced[facts.st_ino] = self._content(facts.st_ino)

    def _look(self) -> None:
        names = {entry.name: entry.inode() for entry in os.scandir(self._folder)}
        for name, inode in names.items():
            if not (self._kept / str(inode)).exists():
                self._link(self._folder / name, self._kept / str(inode))
        changed = {name for name, _ in names.items() ^ self._names.items()}
        if changed:
            self._pending.append({name: names.get(name) for name in changed})
        self._names = names

    def _content(self, inode: int) -> bytes:
        return (self._kept / str(inode)).read_bytes()


class Machine:
    """A machine whose power is cut repeatedly, each time with other files in the folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folders = (folder / str(count) for count in itertools.count())
        self._monkeypatch = monkeypatch

    def save(
        self, before: Files, numbers: Iterable[int], pace: Pace, *, calls_to_kill: int = -1
    ) -> Iterator[tuple[list[Files], list[Files]]]:
        """Save over some files and yield, for each save, the states it may leave when cut off and when complete.

        The first save is killed after `calls_to_kill` system calls, if that is positive.
        """
        path, kept = self._put(before), next(self._folders)
        kept.mkdir()
        disk = Disk(path.parent, kept)
        disk.calls_to_kill = calls_to_kill
        for number in numbers:
            with self._monkeypatch.context() as patch, contextlib.suppress(Killed):
                for name in CHANGES:
                    patch.setattr(os, name, disk.after(getattr(os, name)))
                patch.setattr(os, "fsync", disk.sync)
                save_tiny(path, number, pace)
            yield distinct(disk.left), distinct(disk.remains())
            disk.left.clear()
            disk.calls_to_kill = -1

    def numbers_in(self, many: Iterable[Files]) -> set[int]:
        """Return the numbers of the checkpoints, 0 for none; fail if one has another's sidecar."""
        return {self.number_in(files) for files in many}

    def number_in(self, files: Files) -> int:
        """Return the number of the checkpoint in these files, 0 for none."""
        path = self._put(files)
        if not path.exists():
            return 0
        sidecar = inspect_checkpoint(path).sidecar
        assert sidecar is not None
        assert np.array_equal(read_weights(path, CONFIG), tiny(int(sidecar.name)).weights)
        return int(sidecar.name)

    def _put(self, files: Files) -> Path:
        folder = next(self._folders)
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return folder / "m.bin"


def distinct(many: Iterable[Files]) -> list[Files]:
    return list({tuple(sorted(files.items())): files for files in many}.values())


@functools.cache
def tiny(number: int) -> Checkpoint:
    return tiny_checkpoint(seed=number)


def save_tiny(path: Path, number: int, pace: Pace) -> None:
    """Save a checkpoint and a sidecar that both contain the number."""
    iteration, best = int(100 + number * pace[0]), 9 - number * pace[1]
    checkpoint = tiny(number)
    checkpoint = replace(checkpoint, header=replace(checkpoint.header, iteration=iteration, best_loss=best))
    losses = {"best_val": best}
    sidecar = Sidecar(config=CONFIG, tokenizer=TOKENIZER, name=str(number), iteration=iteration, losses=losses)
    save_checkpoint(path, checkpoint, sidecar)


@PACES
def test_power_cut_leaves_a_matching_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pace: Pace) -> None:
    """Either the old pair or the new pair is left, also when a save starts from an interrupted one."""
    machine, states = Machine(tmp_path, monkeypatch), [Files()]
    for numbers in ((1, 2), (3, 4), (5, 6)):  # the power stays on between the two
        following: list[Files] = []
        for before in states:
            old = machine.number_in(before)
            for number, (cut_off, over) in zip(numbers, machine.save(before, numbers, pace), strict=True):
                assert machine.numbers_in(cut_off) == {old, number}
                assert machine.numbers_in(over) == {number}
                following, old = following + cut_off, number
        states = distinct(following)
    assert len(states) > 10


@PACES
def test_kill_then_power_cut_leaves_a_matching_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pace: Pace
) -> None:
    """A killed process may leave changes that are not on the disk when the next save builds on them."""
    machine = Machine(tmp_path, monkeypatch)
    ((_, (first,)),) = machine.save({}, [1], pace)
    seen = set()
    for calls in range(1, 12):
        (_, killed), (cut_off, over) = machine.save(first, (2, 3), pace, calls_to_kill=calls)
        assert machine.numbers_in(cut_off) <= {1, 2, 3}
        assert machine.numbers_in(over) == {3}
        seen.add(frozenset(machine.numbers_in(killed)))
    assert seen == {frozenset({1}), frozenset({1, 2}), frozenset({2})}
