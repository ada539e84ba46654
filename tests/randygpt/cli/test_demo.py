"""The demo, as `make demo` runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full


def test_demo_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "randygpt", "demo"],
            env=os.environ | {"TMPDIR": str(tmp_path), "RANDYGPT_HOME": str(tmp_path / "untouched")},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "0 requests failed" in done.stdout
        assert list(tmp_path.iterdir()) == []
