"""The built-in Blossom server in the test's process, on a free port, with open uploads."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from relay_client.blossom.blob_limits import BlobLimits
from relay_client.blossom.local_server import LocalBlobServer


@contextlib.asynccontextmanager
async def blob_server(
    folder: Path, *, limits: BlobLimits | None = None, may_upload: Callable[[bytes], bool] | None = None
) -> AsyncIterator[str]:
    """Run the server with its blobs below `folder`; yield its origin."""
    async with LocalBlobServer(folder=folder, limits=limits, may_upload=may_upload) as server:
        yield server.origin
