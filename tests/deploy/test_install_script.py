"""install.sh and code that others put where root runs it. Nothing is changed: every call is a dry run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy/install.sh"
TIMEOUT_S = 60

pytestmark = pytest.mark.skipif(
    not shutil.which("systemctl", path="/usr/bin:/bin"), reason="install.sh needs systemd (apt-get install systemd)"
)


def dry_run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPT), "--dry-run", *words]
    env = os.environ | {"TMPDIR": "/tmp"} | variables  # noqa: S108 (the system's)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder of modules and commands that leave a mark when they run."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in ("ensurepip", "venv", "sitecustomize", "email", "zipfile"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n")
    for name in ("bash", "id", "readlink", "stat", "systemctl", "mktemp"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} >>{tmp_path}/ran\nPATH=/usr/bin:/bin exec {name} "$@"\n')
        (folder / name).chmod(0o755)
    (folder / "start").write_text(f"echo BASH_ENV >>{tmp_path}/ran\n")
    return folder


def test_nothing_of_the_current_folder_runs(hostile: Path, tmp_path: Path) -> None:
    done = dry_run(hostile)
    assert done.returncode == 0, done.stderr
    assert "+ systemctl enable" in done.stdout
    assert not (tmp_path / "ran").exists()


def test_nothing_of_the_environment_runs(hostile: Path, tmp_path: Path) -> None:
    path = f"{hostile}:{os.environ['PATH']}"
    done = dry_run(tmp_path, PATH=path, PYTHONPATH=str(hostile), PYTHONHOME="/nowhere", BASH_ENV=str(hostile / "start"))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


def test_temporary_folder_that_others_can_change_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "open" / "inner"
    place.mkdir(parents=True)
    assert dry_run(tmp_path, TMPDIR=str(place)).returncode == 0
    place.parent.chmod(0o777)
    done = dry_run(tmp_path, TMPDIR=str(place))
    assert done.returncode == 2
    assert f"other users can change {place.parent}; unset TMPDIR" in done.stderr
    place.parent.chmod(0o1777)
    assert dry_run(tmp_path, TMPDIR=str(place)).returncode == 0
    assert f"TMPDIR {tmp_path}/no: no such folder" in dry_run(tmp_path, TMPDIR=f"{tmp_path}/no").stderr


def test_relative_paths_are_the_callers(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "randygpt-9.9-py3-none-any.whl").touch()
    assert "randygpt 9.9" in dry_run(tmp_path, "--wheels", "wheels").stdout
    assert "--wheels no: no such folder" in dry_run(tmp_path, "--wheels", "no").stderr
    assert "--python no: no such file" in dry_run(tmp_path, "--python", "no").stderr
