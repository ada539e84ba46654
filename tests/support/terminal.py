"""A terminal whose user types: for a command in a process of its own, or in this one."""

import subprocess
import sys
from pathlib import Path

from support.command import TIMEOUT_S, environment
from support.output import killed_on_error, read_until

_AT_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


def typed(home: Path, *words: object, answers: dict[str, str]) -> tuple[int, str]:
    """Run a command and answer its questions in turn; gives (exit code, everything the terminal showed)."""
    process = subprocess.Popen(
        [sys.executable, "-c", _AT_A_TERMINAL, sys.executable, "-m", "randygpt", *map(str, words)],
        cwd=home,
        env=environment(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with killed_on_error(process):
        assert process.stdin is not None
        assert process.stdout is not None
        screen = b""
        for question, answer in answers.items():
            screen += read_until(process.stdout.fileno(), question.encode())
            process.stdin.write(f"{answer}\n".encode())
            process.stdin.flush()
        screen += read_until(process.stdout.fileno(), None)
        return process.wait(timeout=TIMEOUT_S), screen.decode()


class Typist:
    """A stdin at a terminal, for a command in this process: gives the answers in turn."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.asked = 0

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        self.asked += 1
        return f"{self._answers.pop(0)}\n"
