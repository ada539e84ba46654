"""Durable writes: atomic replacement of files and directories that survives a power loss. Does disk I/O.

Temporary file in the same directory → write → fsync → rename → fsync of the directory. A reader sees the old file or
the new one. It is in the lowest package because all packages write files.
"""

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PUBLIC = 0o644
READ_ONLY = 0o444
SECRET = 0o600
DIRECTORY = 0o755  # a looser umask widens no mode here
PRIVATE_DIRECTORY = 0o700
_WRITABLE_BY_GROUP_OR_OTHERS = 0o022

_TEMPORARY = ".tmp-"


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = PUBLIC) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` on exit; after an error nothing changes. Raises OSError.

    The file can be read, written and mapped. After a kill it stays until `remove_leftovers`.
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
            error.filename = str(path)  # the user does not know the temporary one
        raise
    sync_directory(path.parent)


def _create_locked(path: Path, mode: int) -> tuple[Path, int]:
    """Create a temporary file for `path` and open it; it is locked if the file system supports locks."""
    while True:
        temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}-{path.name}"[:255])
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except OSError as error:
            error.filename = str(path)
            raise
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, descriptor
        os.close(descriptor)  # removed as a leftover before it was locked


def remove_leftovers(path: Path) -> None:
    """Remove temporary files left by killed writers of `path`; a file being written is locked and stays.

    Not for a path that `create` makes: it links its temporary file after unlocking it.
    """
    for temporary in path.parent.glob(f"{_TEMPORARY}{'[0-9a-f]' * 16}-{glob.escape(path.name)}"):
        with contextlib.suppress(OSError):  # locked, gone, or not readable
            descriptor = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.unlink()
            finally:
                os.close(descriptor)


def write(path: Path, data: bytes, *, mode: int = PUBLIC) -> None:
    """Write `data` to `path`, atomically and durably; raises OSError."""
    with atomic_file(path, mode=mode) as file:
        file.write(data)


def pending_path(path: Path) -> Path:
    """Return the staging path of a sidecar file, used until its main file is replaced."""
    return path.with_name(f"{path.name}.next")


def create(path: Path, data: bytes, *, mode: int) -> None:
    """Write `data` to `path`, atomically and durably, if nothing is there; raises FileExistsError."""
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}-{path.name}"[:255])
    write(temporary, data, mode=mode)
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def open_to_append(path: Path, *, mode: int = PUBLIC, buffering: int = -1) -> BinaryIO:
    """Open a file to append to, and create it if it is missing. Raises OSError; neither atomic nor durable."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode)
    return open(descriptor, "ab", buffering=buffering)  # noqa: PTH123 (a descriptor has no path)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Make a temporary directory that moves to `path` on exit; after an error it is removed. Raises OSError.

    Files inside must be written durably. Only an empty directory is replaced.
    """
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}-{path.name}"[:255])
    try:
        temporary.mkdir(DIRECTORY)
        yield temporary
        temporary.rename(path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and Path(str(error.filename)).is_relative_to(temporary):
            error.filename = str(path / Path(str(error.filename)).relative_to(temporary))
        raise
    sync_directory(path.parent)


def sync(file: BinaryIO) -> None:
    """Flush an open file to the disk (fsync); raises OSError."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Flush the names in a directory to the disk (fsync); raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, *, mode: int = DIRECTORY) -> Path:
    """Make a directory and its missing parents durably, and return it; raises OSError."""
    if not path.is_dir():
        make_directory(path.parent, mode=mode)
        path.mkdir(mode=mode, exist_ok=True)
        sync_directory(path.parent)
    return path


def make_private_directory(path: Path) -> None:
    """Make a directory that only its owner can read, and protect one that exists; raises OSError."""
    if path.is_dir():
        protect(path)
    else:
        make_directory(path.parent)
        make_directory(path, mode=PRIVATE_DIRECTORY)


def protect(path: Path, *, keep: int = ~_WRITABLE_BY_GROUP_OR_OTHERS) -> None:
    """Take rights to a file or directory from other users, which a looser umask once gave them.

    Does nothing if the path does not exist or the disk is read-only.

    Args:
        path: File or directory.
        keep: Permission bits that may stay.

    Raises:
        PermissionError: Others can change it, and it belongs to another user.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & keep == mode:
            return
        try:
            path.chmod(mode & keep)
        except OSError as error:
            if error.errno == errno.EROFS or not mode & stat.S_IWOTH:
                return
            problem = f"every user can change it; its owner should run chmod go-w {path}"
            raise PermissionError(error.errno, problem, str(path)) from None
