"""The built-in Blossom server in the test's process, on a free port, with open uploads."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from relay_client.blossom.blob_limits import BlobLimits
from relay_client.blossom.local_server import LocalBlobServer


@contextlib.asynccontextmanager
async def blob_server(
    folder: Path,
    *,
    limits: BlobLimits | None = None,
    may_upload: Callable[[bytes], bool] | None = None,
    mirror_private: bool = True,
) -> AsyncIterator[str]:
    """Run the server with its blobs below `folder`; yield its origin. It mirrors from this machine too."""
    async with LocalBlobServer(
        folder=folder, limits=limits, may_upload=may_upload, mirror_private=mirror_private
    ) as server:
        yield server.origin
