"""Commands of a user without `$HOME` and without an entry in the password database, as in many containers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import TIMEOUT_S, only_line
from support.models import TEXT, write_tiny

_PROGRAM = """
import pwd, sys
def missing(key): raise KeyError(key)
pwd.getpwuid = pwd.getpwnam = missing
from randygpt.__main__ import main
main()
"""


def without_home(folder: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "RANDYGPT_", "HOME"))}
    for name in ("USER", "LOGNAME"):
        kept.pop(name, None)
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, words)],
        cwd=folder,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_commands_that_need_no_home_run_without_one(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.bin")
    for words in (("--version",), ("show", "m.bin"), ("config", "example")):
        done = without_home(tmp_path, *words)
        assert (done.returncode, done.stderr) == (0, ""), words


def test_randygpt_home_is_enough(tmp_path: Path) -> None:
    done = without_home(tmp_path, "keys", "new", "--json", RANDYGPT_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["file"] == str(tmp_path / "home" / "keys" / "nsec")


def test_home_in_settings_is_enough(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"home = {json.dumps(str(tmp_path / 'home'))}\n")
    done = without_home(tmp_path, "relays", "list", RANDYGPT_CONFIG=str(file))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("variables", [{}, {"RANDYGPT_HOME": "~/x"}, {"RANDYGPT_HOME": "~nobody/x"}])
def test_missing_home_is_one_line(tmp_path: Path, variables: dict[str, str]) -> None:
    done = without_home(tmp_path, "list", **variables)
    assert done.returncode == 2
    assert "no home folder" in only_line(done.stderr)


@pytest.mark.full
def test_training_needs_no_home(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEXT)
    words = ("train", "--train-file", "t.txt", "--iters", "1", "--dim", "16", "--heads", "2", "--layers", "1")
    done = without_home(tmp_path, *words, "--block", "64", "--batch", "2", "--recipe", "fast")
    assert done.returncode == 0, done.stderr
