"""Checkpoint writer: interrupts, errors, kills and failed syncs."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.models import CONFIG, TOKENIZER, tiny_checkpoint, write_tiny

from randygpt.checkpoint.sidecar import Sidecar, inspect_checkpoint
from randygpt.training.checkpointing import CheckpointWriter


def test_interrupt_waits_only_for_the_current_write(tmp_path: Path) -> None:
    under_way = threading.Event()

    def interrupted(writer: CheckpointWriter) -> None:
        with writer:
            writer._executor.submit(under_way.wait, 10)
            writer.submit(tmp_path / "m.bin", tiny_checkpoint(), Sidecar(config=CONFIG, tokenizer=TOKENIZER))
            writer._writes[0].add_done_callback(lambda _: under_way.set())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(CheckpointWriter())
    assert under_way.is_set()
    assert list(tmp_path.iterdir()) == []


def test_error_waits_for_every_write(tmp_path: Path) -> None:
    """The queued checkpoints are valid, for example the best before a run diverged."""

    def failing(writer: CheckpointWriter) -> None:
        with writer:
            for name in ("m.bin", "m_best.bin"):
                writer.submit(tmp_path / name, tiny_checkpoint(), Sidecar(config=CONFIG, tokenizer=TOKENIZER))
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        failing(CheckpointWriter())
    assert {path.name for path in tmp_path.glob("*.bin")} == {"m.bin", "m_best.bin"}


SAVE_AND_KILL = """
import os, signal, sys
from pathlib import Path
from randygpt.checkpoint.rgpt import read_checkpoint
from randygpt.checkpoint.save import save_checkpoint
from randygpt.checkpoint.sidecar import inspect_checkpoint

target, source = map(Path, sys.argv[1:3])
info = inspect_checkpoint(source)
checkpoint = read_checkpoint(source, info.config)
replace, renames = Path.replace, int(sys.argv[3])

def counted(self, target):
    global renames
    if renames == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    renames -= 1
    return replace(self, target)

Path.replace = counted
save_checkpoint(target, checkpoint, info.sidecar)
"""


@pytest.mark.parametrize("renames", range(4))
def test_killed_save_leaves_a_matching_pair(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, renames: int
) -> None:
    path, source = write_tiny(tmp_path / "m.bin", seed=1), write_tiny(tmp_path_factory.mktemp("new") / "m.bin", seed=2)
    command = [sys.executable, "-c", SAVE_AND_KILL, str(path), str(source), str(renames)]
    done = subprocess.run(command, check=False)
    assert done.returncode == (-signal.SIGKILL if renames < 3 else 0)
    found = inspect_checkpoint(path)
    assert found.sidecar is not None
    assert found.sidecar.iteration == found.header.iteration == (1 if renames < 2 else 2)
    assert bool(list(tmp_path.glob(".tmp-*"))) == (renames < 2)
    write_tiny(path, seed=3)
    assert inspect_checkpoint(path).header.iteration == 3
    assert {entry.name for entry in tmp_path.iterdir()} == {"m.bin", "m.json"}


@pytest.mark.parametrize("syncs", range(4))
def test_failed_directory_sync_leaves_a_matching_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syncs: int
) -> None:
    path, fsync, left = write_tiny(tmp_path / "m.bin", seed=1), os.fsync, [None] * syncs

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            if not left:
                raise OSError(errno.EIO, "Input/output error")
            left.pop()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output error"):
        write_tiny(path, seed=2)
    monkeypatch.undo()
    found = inspect_checkpoint(path)
    assert found.sidecar is not None
    assert found.sidecar.iteration == found.header.iteration == (1 if syncs < 2 else 2)
    write_tiny(path, seed=3)
    assert {entry.name for entry in tmp_path.iterdir()} == {"m.bin", "m.json"}
    found = inspect_checkpoint(path)
    assert found.sidecar is not None
    assert found.sidecar.iteration == 3
