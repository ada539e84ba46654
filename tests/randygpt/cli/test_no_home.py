"""Commands of a user without `$HOME` and without an entry in the password database, as in many containers."""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import TIMEOUT_S, only_line
from support.models import TEXT, write_tiny

from randygpt.cli.main import run

_PROGRAM = """
import pwd, sys
def missing(key): raise KeyError(key)
pwd.getpwuid = pwd.getpwnam = missing
from randygpt.cli.main import run
sys.exit(max(run(line.split()) for line in sys.argv[1:]))
"""


@pytest.fixture
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of this process, which runs for such a user."""

    def missing(key: object) -> None:
        raise KeyError(key)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pwd, "getpwuid", missing)
    monkeypatch.setattr(pwd, "getpwnam", missing)
    for name in {*os.environ} - {*nameless()}:
        monkeypatch.delenv(name)
    return tmp_path


def nameless() -> dict[str, str]:
    """Return the environment without what names a user or a home."""
    dropped = ("XDG_", "RANDYGPT_", "HOME", "USER", "LOGNAME")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def without_home(folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, *lines],
        cwd=folder,
        env=nameless(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_commands_that_need_no_home_run_without_one(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.bin")
    done = without_home(tmp_path, "--version", "show m.bin", "config example")
    assert (done.returncode, done.stderr) == (0, "")


def test_randygpt_home_is_enough(
    no_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANDYGPT_HOME", str(no_home / "home"))
    assert run(["keys", "new", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(no_home / "home" / "keys" / "nsec")


def test_home_in_settings_is_enough(no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = no_home / "config.toml"
    file.write_text(f"home = {json.dumps(str(no_home / 'home'))}\n")
    monkeypatch.setenv("RANDYGPT_CONFIG", str(file))
    assert run(["relays", "list"]) == 0


@pytest.mark.usefixtures("no_home")
@pytest.mark.parametrize("home", ["", "~/x", "~nobody/x"])
def test_missing_home_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: str
) -> None:
    monkeypatch.setenv("RANDYGPT_HOME", home)
    assert run(["list"]) == 2
    assert "no home folder" in only_line(capsys.readouterr().err)


@pytest.mark.full
def test_training_needs_no_home(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEXT)
    shape = "--dim 16 --heads 2 --layers 1 --block 64 --batch 2"
    done = without_home(tmp_path, f"train --train-file t.txt --iters 1 --recipe fast {shape}")
    assert done.returncode == 0, done.stderr
