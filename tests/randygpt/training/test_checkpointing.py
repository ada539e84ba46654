"""What training leaves on disk, when something comes between."""

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


def test_an_interrupt_waits_for_the_write_under_way_alone(tmp_path: Path) -> None:
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


def test_an_error_waits_for_every_write(tmp_path: Path) -> None:
    """They are good states: what was found to be the best before a run diverged."""

    def failing(writer: CheckpointWriter) -> None:
        with writer:
            for name in ("m.bin", "m_best.bin"):
                writer.submit(tmp_path / name, tiny_checkpoint(), Sidecar(config=CONFIG, tokenizer=TOKENIZER))
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        failing(CheckpointWriter())
    assert {path.name for path in tmp_path.glob("*.bin")} == {"m.bin", "m_best.bin"}


SAVES_AND_IS_KILLED = """
import os, signal, sys
from pathlib import Path
from support.models import write_tiny

replace, renames = Path.replace, int(sys.argv[2])

def counted(self, target):
    global renames
    if renames == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    renames -= 1
    return replace(self, target)

Path.replace = counted
write_tiny(Path(sys.argv[1]), seed=2)
"""


@pytest.mark.parametrize("renames", range(4))
def test_wherever_a_save_is_killed_the_checkpoint_and_what_stands_beside_it_are_of_one_time(
    tmp_path: Path, renames: int
) -> None:
    path = write_tiny(tmp_path / "m.bin", seed=1)
    command = [sys.executable, "-c", SAVES_AND_IS_KILLED, str(path), str(renames)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == (-signal.SIGKILL if renames < 3 else 0)
    found = inspect_checkpoint(path)
    assert found.sidecar is not None
    assert found.sidecar.iteration == found.header.iteration == (1 if renames < 2 else 2)
    assert bool(list(tmp_path.glob(".tmp-*"))) == (renames < 2)
    write_tiny(path, seed=3)
    assert inspect_checkpoint(path).header.iteration == 3
    assert {entry.name for entry in tmp_path.iterdir()} == {"m.bin", "m.json"}


@pytest.mark.parametrize("syncs", range(4))
def test_a_folder_that_cannot_be_synced_leaves_a_checkpoint_and_its_json(
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
