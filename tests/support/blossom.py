"""The built-in Blossom server in the test's process, and small pieces for the small files of tests."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from distribution.chunking import CHUNK_SIZE
from relay_client.blossom.blob_limits import BlobLimits
from relay_client.blossom.local_server import LocalBlobServer
from relay_client.timeouts import Timeouts

PIECE = 4 * CHUNK_SIZE
FAST = Timeouts(answer_s=0.5, request_s=2, rate_limit_first_s=0.01, retry_first_s=0.01, settle_s=0.1, endgame_s=0.05)


def cut_small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish small files in pieces and fetch them in ranges, as large ones are."""
    monkeypatch.setattr("distribution.publish.BLOB_SIZE", PIECE)
    monkeypatch.setattr("distribution.source.CUT_ABOVE", 2 * CHUNK_SIZE)
    monkeypatch.setattr("distribution.range_plan.RANGE_CHUNKS", 2)
    monkeypatch.setattr("distribution.range_plan._MIN_CHUNKS", 1)


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
