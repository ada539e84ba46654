"""Installs of the programs that the benchmark compares with: what it says where they cannot be had."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "peer_installs.py"


@pytest.fixture
def installs() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the library is not looked for")
def test_missing_programs_are_named(installs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(installs["platform"], "machine", lambda: "x86_64")
    assert installs["llama_cpp"]() == "npm is not installed"
    assert installs["compiler"]() == "torch.compile needs a C++ compiler"


def test_failed_install_says_why_and_is_repeated(installs: dict[str, Any], tmp_path: Path) -> None:
    wanted = installs["PEERS"] / "requirements.txt"
    fails = [sys.executable, "-c", "raise SystemExit('no network')"]
    for _ in range(2):
        assert (
            installs["_install"](fails, wanted, tmp_path) == "peers/requirements.txt cannot be installed (no network)"
        )


def test_complete_install_is_not_repeated(installs: dict[str, Any], tmp_path: Path) -> None:
    wanted = installs["PEERS"] / "requirements.txt"
    assert installs["_install"]([sys.executable, "-c", ""], wanted, tmp_path) == ""
    assert installs["_install"](["a program that does not exist"], wanted, tmp_path) == ""
