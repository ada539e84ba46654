"""README's five minutes, pasted line by line into a shell: in an empty home, from a clean clone, and between machines.

Substituted are the line for a friend, by the one that `publish` printed, and iterations, to spare time. The clone's
environment is made beforehand, so that no package index is needed.
"""

import contextlib
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machines import Machine, two_machines, why_not
from support.output import read_until

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(why_not() != "", reason=f"no network namespaces: {why_not()}"),
]

ROOT = Path(__file__).parents[2]
ITERATIONS, MORE = 24, 32
GIVE_UP_S = 600
PRINTED = re.compile(r"^fetch +(randygpt fetch .+)$", re.MULTILINE)


def blocks() -> list[list[str]]:
    """Return the lines of each shell block of the story."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    story = page.split("\n## Five minutes\n")[1].split("\n## ")[0]
    return [block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```$", story, re.DOTALL | re.MULTILINE)]


INSTALL, AUTHOR, FRIEND, ASK, BETTER = blocks()


class Shell:
    """A shell in which a user pastes lines, one after the other."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def paste(self, line: str) -> str:
        """Run a line, which must succeed, and return its output; a command in the background must say its address."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\necho '<'$?'>'\n".encode())
        self._process.stdin.flush()
        output = read_until(self._process.stdout.fileno(), b">\n", timeout_s=GIVE_UP_S)
        if line.endswith("&") and b"://" not in output:
            output += read_until(self._process.stdout.fileno(), b"://")
        text = output.decode()
        assert "<0>\n" in text, f"{line}\n{text}"
        return text

    def paste_all(self, lines: list[str]) -> str:
        return "".join(map(self.paste, lines))


@contextlib.contextmanager
def shell(machine: Machine, home: Path, folder: Path) -> Iterator[Shell]:
    """Open a shell on a machine, of a user with this home, in a folder; what it started ends with it."""
    home.mkdir()
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "RANDYGPT_CONFIG": os.devnull,
        "RANDYGPT_TRAIN_ITERS": str(ITERATIONS),
    }
    with subprocess.Popen(
        machine.command("bash", "--norc"),
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        opened = Shell(process)
        try:
            yield opened
        finally:
            assert process.stdin is not None
            process.stdin.write(b"kill $(jobs -p)\nexit\n")
            process.stdin.close()
            process.wait(timeout=GIVE_UP_S)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean clone, in which `make install` finds everything installed."""
    folder = tmp_path_factory.mktemp("clone") / "randygpt"
    python = folder / ".venv" / "bin" / "python"
    wheels = folder.parent / "wheels"
    for command in (
        ("git", "clone", "--quiet", str(ROOT), str(folder)),
        (sys.executable, "-m", "venv", "--without-pip", str(folder / ".venv")),
        (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels)),
    ):
        subprocess.run(command, cwd=folder if folder.exists() else ROOT, check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index")
    subprocess.run([*pip, str(wheel)], check=True)
    (site,) = folder.glob(".venv/lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (folder / ".venv" / ".installed").touch()
    return folder


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as made:
        yield made


@pytest.fixture(scope="module")
def author(machines: tuple[Machine, Machine], clone: Path) -> Iterator[Shell]:
    """The author's shell, after installation."""
    with shell(machines[0], clone.parent / "author", clone) as opened:
        opened.paste_all(INSTALL)
        yield opened


@pytest.fixture(scope="module")
def line(author: Shell) -> str:
    """The line for a friend that `publish` printed, at the end of the author's half."""
    found = PRINTED.search(author.paste_all(AUTHOR))
    assert found
    return found[1]


def friends_half(opened: Shell, line: str) -> None:
    """Paste the friend's lines."""
    opened.paste_all(INSTALL)
    fetch, *others = FRIEND
    assert fetch.startswith("randygpt fetch naddr1")
    assert "manual version 1, signed by npub1" in opened.paste(line)
    opened.paste_all(others)
    assert '"usage":{"prompt_tokens":4,' in opened.paste_all(ASK)


def test_friend_on_another_machine_needs_only_the_line(
    machines: tuple[Machine, Machine], clone: Path, line: str
) -> None:
    assert line.endswith(f"--relay ws://{machines[0].address}:7777")
    with shell(machines[1], clone.parent / "friend", clone.parent) as opened:
        opened.paste(f"cd {clone}")
        friends_half(opened, line)
        assert "no relays" not in opened.paste("randygpt relays list; echo none")


def test_story_works_line_by_line(machines: tuple[Machine, Machine], clone: Path, author: Shell, line: str) -> None:
    with shell(machines[0], clone.parent / "other home", clone) as friend:
        friends_half(friend, line)
        better = [re.sub("--iters [0-9]+", f"--iters {MORE}", each) for each in BETTER]
        assert "manual version 2" in author.paste_all(better)
        assert "manual version 2, signed by" in friend.paste(line)
        friend.paste("until curl -s http://127.0.0.1:8080/health | grep 'manual version 2'; do sleep 0.5; done")
