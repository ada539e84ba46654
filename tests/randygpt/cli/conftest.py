"""Fixtures of several tests of the command line."""

from pathlib import Path

import pytest
from support.command import invoke
from support.models import write_tiny
from support.scripted_relay import ScriptedRelay

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


@pytest.fixture
def friend(author: Path, threaded_relay: ScriptedRelay, tmp_path: Path) -> Path:
    """A home whose relay has the model `demo`."""
    words = ("publish", "checkpoint_best.bin", "--relay", threaded_relay.url)
    assert invoke(author, *words).returncode == 0
    home = tmp_path / "friend"
    home.mkdir()
    assert invoke(home, "relays", "add", threaded_relay.url).returncode == 0
    return home
