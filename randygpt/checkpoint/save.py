"""Save a checkpoint together with its sidecar JSON. Disk I/O."""

from pathlib import Path

from randygpt.checkpoint.rgpt import Checkpoint, write_checkpoint
from randygpt.checkpoint.sidecar import Sidecar, recover_pending, sidecar_path
from relay_client import durable


def save_checkpoint(path: Path, checkpoint: Checkpoint, sidecar: Sidecar) -> None:
    """Write a checkpoint and its sidecar durably, as one unit.

    After an error, a crash or a power cut `inspect_checkpoint` finds the old pair or the new pair, never a mixture.
    Temporary files of interrupted saves are removed first.

    Raises:
        OSError: The disk failed or is full.
    """
    sidecar_file = sidecar_path(path)
    recover_pending(path)
    durable.remove_leftovers(path)
    durable.remove_leftovers(durable.pending_path(sidecar_file))
    write_checkpoint(path, checkpoint, (sidecar_file, sidecar.encode()))
