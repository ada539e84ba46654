"""File locks of the store and its state; without one where nothing can be written. Does disk I/O.

A process that may only read, as on a read-only disk, cannot create a lock file. It may still read: any write after that
fails by itself.
"""

import contextlib
import errno
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from filelock import AsyncFileLock, FileLock

from relay_client import durable


@contextlib.asynccontextmanager
async def hold(path: Path, *, timeout_s: float = -1) -> AsyncIterator[None]:
    """Hold a lock file, made with its folder, or none if its disk is read-only; raises TimeoutError and OSError.

    Args:
        path: The lock file.
        timeout_s: Seconds to wait for another holder; below 0, without limit.
    """
    async with AsyncExitStack() as held:
        try:
            durable.make_directory(path.parent)
            await held.enter_async_context(AsyncFileLock(path, timeout=timeout_s, mode=durable.PUBLIC))
        except OSError as error:
            if not _is_read_only(error, path):
                raise
        yield


def enter(locks: ExitStack, path: Path, *, timeout_s: float = -1) -> None:
    """Hold a lock file, as `hold` does, until the stack is closed."""
    try:
        durable.make_directory(path.parent)
        locks.enter_context(FileLock(path, timeout=timeout_s, mode=durable.PUBLIC))
    except OSError as error:
        if not _is_read_only(error, path):
            raise


def _is_read_only(error: OSError, path: Path) -> bool:
    """Return whether an error means that nothing at all may be written to the folder of a lock file."""
    if error.errno == errno.EROFS:
        return True
    folder = next(folder for folder in path.parents if folder.is_dir())
    return error.errno in {errno.EACCES, errno.EPERM} and not os.access(folder, os.W_OK)
