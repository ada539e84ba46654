"""The wheel, installed into an environment of its own: what other programs and their type checker see of it."""

import asyncio
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from support.command import TIMEOUT_S, environment
from support.models import write_tiny

import randygpt
from randygpt.user import signing_key
from randygpt.user.home import Home
from relay_client.keys import SecretKey

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[1]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "packages"
]
TYPED = """\
import randygpt
from randygpt.errors import RandyGPTError

reveal_type(randygpt.load("m.bin").generate("x", max_tokens=5))
reveal_type(randygpt.publish("m.bin", name="demo", relays=["wss://relay.example"]))
reveal_type(randygpt.fetch("x").checkpoint)


async def main() -> None:
    reveal_type((await randygpt.aio.publish("m.bin", name="demo")).nevent)
    async for release in randygpt.aio.follow("x"):
        reveal_type(release)
    try:
        reveal_type((await randygpt.aio.fetch("x")).load())
    except RandyGPTError as error:
        reveal_type(error)
"""
TYPES = [
    "str",
    "randygpt.results.Published",
    "pathlib.Path",
    "str",
    "randygpt.results.Fetched",
    "randygpt.language_model.LanguageModel",
    "relay_client.errors.RandyGPTError",
]
WRONG = """\
import randygpt

randygpt.publish("m.bin")
randygpt.fetch("x", relays=[1])
randygpt.nothing
"""


def run(*words: object, cwd: Path, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment(home or cwd),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the wheel installed. It uses the dependencies of this one: no network is needed."""
    folder = tmp_path_factory.mktemp("environment")
    assert run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder).returncode == 0
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    done = run(*pip, cwd=folder)
    assert done.returncode == 0, done.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    listed = run("git", "ls-files", *PACKAGES, cwd=ROOT).stdout
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    built = {"randygpt/model/decode_step.so"} if shutil.which("cc") else set()
    assert found == set(listed.split()) | built
    assert {f"{package}/py.typed" for package in PACKAGES} <= found


def test_command_and_packages_come_from_the_wheel(python: Path, tmp_path: Path) -> None:
    done = run(python.parent / "randygpt", "--version", cwd=tmp_path)
    assert (done.stdout, done.stderr) == (f"randygpt {randygpt.__version__}\n", "")
    code = f"import {', '.join(PACKAGES)}; print(*(each.__file__ for each in ({', '.join(PACKAGES)})))"
    done = run(python, "-c", code, cwd=tmp_path)
    assert all(Path(file).is_relative_to(python.parents[1]) for file in done.stdout.split()), done


def test_mypy_sees_the_public_types(python: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(TYPED)
    done = mypy(python, tmp_path / "program.py")
    assert done.returncode == 0, done.stdout
    assert re.findall(r'Revealed type is "(?:builtins\.)?([^"]+)"', done.stdout) == TYPES


def test_mypy_refuses_wrong_calls(python: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(WRONG)
    done = mypy(python, tmp_path / "program.py")
    assert re.findall(r"program\.py:(\d+): error: .*\[([a-z-]+)\]", done.stdout) == [
        ("3", "call-arg"),
        ("4", "list-item"),
        ("5", "attr-defined"),
    ]


def mypy(python: Path, program: Path) -> subprocess.CompletedProcess[str]:
    """Check a program as its author does, who has none of our settings."""
    return run(
        *(sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--python-executable", python, program),
        cwd=program.parent,
    )


async def test_documented_example_runs(python: Path, relay: str, tmp_path: Path, key: SecretKey) -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    found = re.search(r"## Publish and fetch\n.*?```python\n(.*?)```", page, re.DOTALL)
    assert found
    signing_key.store(Home(tmp_path), key.reveal_nsec())
    write_tiny(tmp_path / "checkpoint_best.bin")
    code = found[1].replace("ws://127.0.0.1:7777", relay)
    done = await asyncio.to_thread(run, python, "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nevent1")
