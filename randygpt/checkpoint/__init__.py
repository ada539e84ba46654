"""Checkpoint files: the RGPT format, its sidecar JSON, and exports for other programs. Disk I/O."""
