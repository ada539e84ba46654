"""Fixtures of several tests of the command line."""

from pathlib import Path

import pytest
from support.models import write_tiny

from relay_client.keys import SecretKey


@pytest.fixture
def author(tmp_path: Path, key: SecretKey) -> Path:
    """A home with a key and a checkpoint to publish."""
    home = tmp_path / "author"
    (home / "keys").mkdir(parents=True)
    (home / "keys" / "nsec").write_text(key.reveal_nsec())
    (home / "keys" / "nsec").chmod(0o600)
    write_tiny(home / "checkpoint_best.bin", name="demo")
    return home
