"""Save a checkpoint together with the JSON beside it. Disk I/O."""

from pathlib import Path

from randygpt.checkpoint.rgpt import Checkpoint, write_checkpoint
from randygpt.checkpoint.sidecar import Sidecar, settle, sidecar_path
from relay_client import durable


def save_checkpoint(path: Path, checkpoint: Checkpoint, sidecar: Sidecar) -> None:
    """Write a checkpoint and the JSON beside it, durably; raises OSError.

    Whatever comes between, an error, a crash or a power cut, `describe` finds the old two or the new two. What killed
    saves left is removed.
    """
    beside = sidecar_path(path)
    settle(path)
    durable.remove_leftovers(path)
    durable.remove_leftovers(durable.pending_path(beside))
    write_checkpoint(path, checkpoint, (beside, sidecar.encode()))
