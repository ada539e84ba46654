"""Checkpoint files: the RGPT format, the JSON beside it, and exports for other programs. Disk I/O."""
