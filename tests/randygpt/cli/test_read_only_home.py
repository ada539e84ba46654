"""Commands whose home folder is on a read-only disk: a bind mount in a mount namespace of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.command import TIMEOUT_S, environment, invoke, only_line
from support.models import write_tiny

_MOUNT = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'


def read_only(home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", _MOUNT, "sh", str(home), *map(str, words)]
    return subprocess.run(
        command, cwd="/", env=environment(home), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def randygpt(home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return read_only(home, sys.executable, "-m", "randygpt", *words)


@pytest.fixture
def friend(tmp_path: Path) -> Path:
    home = tmp_path / "friend"
    home.mkdir()
    if sys.platform != "linux" or read_only(home, "true").returncode:
        pytest.skip("mount namespaces are not available")
    return home


@pytest.fixture
def release(tmp_path: Path, friend: Path, relay: str) -> str:
    """A release in the friend's store, and its id."""
    author = tmp_path / "author"
    author.mkdir()
    write_tiny(author / "checkpoint_best.bin", name="demo")
    assert invoke(author, "keys", "new").returncode == 0
    assert invoke(author, "publish", "checkpoint_best.bin", "--relay", relay).returncode == 0
    npub = invoke(author, "keys", "show").stdout.strip()
    assert invoke(friend, "fetch", f"{npub}/demo", "--relay", relay).returncode == 0
    return f"{npub}/demo"


@pytest.mark.full
def test_installed_release_can_be_used_on_a_read_only_disk(friend: Path, release: str, relay: str) -> None:
    fetched = randygpt(friend, "fetch", release, "--relay", relay)
    assert fetched.returncode == 0, fetched.stderr
    for words in (("use", "current"), ("verify",), ("gc", "--dry-run")):
        done = randygpt(friend, *words)
        assert done.returncode == 0, done.stderr


def test_write_to_a_read_only_disk_is_one_line(friend: Path, release: str) -> None:
    assert release
    for words in (("pin", "demo"), ("keys", "new")):
        done = randygpt(friend, *words)
        assert done.returncode == 5
        assert "Read-only file system" in only_line(done.stderr)
