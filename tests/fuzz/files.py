"""Inputs as files: a home folder that lasts as long as the process."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

HOME = Path(tempfile.mkdtemp(prefix="fuzz-"))
_OWNER = os.getpid()
_open: dict[str, int] = {}  # name -> file descriptor; replacing a file takes a hundred times as long


def put(name: str, data: bytes) -> Path:
    """Write an input to a file below HOME and return its path."""
    path = HOME / name
    if name not in _open:
        path.parent.mkdir(parents=True, exist_ok=True)
        _open[name] = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(_open[name], data, 0)
    os.ftruncate(_open[name], len(data))
    return path


@atexit.register
def _remove() -> None:
    if os.getpid() == _OWNER:  # not in a child process
        shutil.rmtree(HOME, ignore_errors=True)
