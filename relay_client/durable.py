"""Writes that survive a crash: the one way this project puts a file where somebody will look for it. Does disk I/O.

Temporary file in the same directory → write → fsync → rename → fsync of the directory. A reader sees the old file or
the new one, also after a power loss. It lives in the lowest package because several write files.
"""

import contextlib
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PUBLIC = 0o644
READ_ONLY = 0o444
SECRET = 0o600

_TEMPORARY = ".tmp-"


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = PUBLIC) -> Iterator[BinaryIO]:
    """A file to write (and to map); on leaving, it is at `path` for good, or after an error nowhere. Raises OSError.

    After a kill, what was written stays until `remove_leftovers`.
    """
    temporary, descriptor = _create_locked(path, mode)
    try:
        with open(descriptor, "w+b") as file:  # noqa: PTH123 (a descriptor has no path)
            yield file
            sync(file)
            temporary.replace(path)  # while it is locked
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno and str(error.filename) in {"None", str(temporary)}:
            error.filename = str(path)  # a full disk does not say which file it was, and nobody knows the temporary one
        raise
    sync_directory(path.parent)


def _create_locked(path: Path, mode: int) -> tuple[Path, int]:
    """A new temporary file for `path`, and its descriptor; locked, unless the file system knows no locks."""
    while True:
        temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}-{path.name}"[:255])
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except OSError as error:
            error.filename = str(path)  # nobody knows the temporary one
            raise
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, descriptor
        os.close(descriptor)  # it was taken for a leftover before it was locked


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of writes to `path`; what one is writing is locked, and stays.

    Not for a file that `create` makes, which links what it wrote when that is no longer locked.
    """
    for temporary in path.parent.glob(f"{_TEMPORARY}{'[0-9a-f]' * 16}-{glob.escape(path.name)}"):
        with contextlib.suppress(OSError):  # locked, gone, or not to be opened
            descriptor = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.unlink()
            finally:
                os.close(descriptor)


def write(path: Path, data: bytes, *, mode: int = PUBLIC) -> None:
    """Put `data` at `path`, whole and for good; raises OSError."""
    with atomic_file(path, mode=mode) as file:
        file.write(data)


def pending_path(path: Path) -> Path:
    """Where a file that belongs to another one waits until that one is in place."""
    return path.with_name(f"{path.name}.next")


def create(path: Path, data: bytes, *, mode: int) -> None:
    """Put `data` at `path` only if nothing is there; raises FileExistsError."""
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}-{path.name}"[:255])
    write(temporary, data, mode=mode)
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink()
    sync_directory(path.parent)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A new directory for durable writes; on leaving, it is at `path` for good, or after an error nowhere.

    Only an empty directory is replaced. Raises OSError.
    """
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}-{path.name}"[:255])
    try:
        temporary.mkdir()
        yield temporary
        temporary.rename(path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and Path(str(error.filename)).is_relative_to(temporary):
            error.filename = str(path / Path(str(error.filename)).relative_to(temporary))
        raise
    sync_directory(path.parent)


def sync(file: BinaryIO) -> None:
    """Have what was written to an open file on the disk; raises OSError."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, *, mode: int = 0o755) -> Path:
    """The directory, made durably along with its missing parents; raises OSError."""
    if not path.is_dir():
        make_directory(path.parent, mode=mode)
        path.mkdir(mode=mode, exist_ok=True)
        sync_directory(path.parent)
    return path
