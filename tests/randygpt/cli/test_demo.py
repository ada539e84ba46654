"""The demo, as `make demo` runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full


def demo(folder: Path, *flags: str) -> str:
    """Run the demo with its files in a folder, which must be empty again at the end, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "randygpt", "demo", *flags],
        env=os.environ | {"TMPDIR": str(folder), "RANDYGPT_HOME": str(folder / "untouched")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(folder.iterdir()) == []
    return done.stdout


def test_demo_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    for _ in range(2):
        assert "0 requests failed" in demo(tmp_path)


def test_demo_together_merges_forks_without_the_liar(tmp_path: Path) -> None:
    result = json.loads(demo(tmp_path, "--together", "--json"))
    honest = {user: bits for user, bits in result["forks"].items() if user != "mallory"}
    assert len(honest) == 3
    assert result["merge"] < min(result["base"], *honest.values()) < result["forks"]["mallory"]
