"""Modules of the current folder named like our packages are not imported; a foreign package on the path is named."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support.command import TIMEOUT_S, environment, only_line

NAMES = ("relay_client", "distribution", "server")
SCRIPTS = Path(sysconfig.get_path("scripts"))
COMMAND = str(SCRIPTS / "randygpt")
TORCHRUN = (str(SCRIPTS / "torchrun"), "--nproc-per-node", "1", "--master-port", "0")
WAYS = {
    "python -m": (sys.executable, "-m", "randygpt"),
    "command": (COMMAND,),
    "torchrun -m": (*TORCHRUN, "-m", "randygpt"),
    "torchrun --no-python": (*TORCHRUN, "--no-python", COMMAND),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with modules named like ours, and like some that ours import; each writes to `ran` when imported."""
    for name in (*NAMES, "torch", "typing"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n")
    return tmp_path


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd=folder,
        env=environment(folder) | variables,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize(
    "way",
    [
        "python -m",
        "command",
        *(pytest.param(way, marks=pytest.mark.full) for way in ("torchrun -m", "torchrun --no-python")),
    ],
)
def test_modules_of_the_current_folder_are_not_imported(folder: Path, way: str) -> None:
    done = run(folder, *WAYS[way], "list", "--json")
    assert (done.returncode, done.stdout.strip()) == (0, '{"releases": []}'), done.stderr
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("way", ["python -m", "command"])
@pytest.mark.parametrize("name", NAMES)
def test_foreign_package_on_the_path_is_named(tmp_path: Path, name: str, way: str) -> None:
    foreign = tmp_path / "path" / name / "__init__.py"
    foreign.parent.mkdir(parents=True)
    foreign.write_text(f"open({str(tmp_path / 'ran')!r}, 'a')\n")
    done = run(tmp_path, *WAYS[way], "list", PYTHONPATH=str(tmp_path / "path"))
    assert done.returncode == 2
    assert only_line(done.stderr).startswith(f"randygpt: the package {name} belongs in ")
    assert str(foreign) in done.stderr
    assert not (tmp_path / "ran").exists()


def test_copy_runs_from_its_own_folder(tmp_path: Path) -> None:
    for name in ("randygpt", *NAMES):
        shutil.copytree(Path(__file__).parents[3] / name, tmp_path / name)
    done = run(tmp_path, *WAYS["python -m"], "list", "--json")
    assert (done.returncode, done.stdout.strip()) == (0, '{"releases": []}'), done.stderr
