"""The real command `randygpt` at a terminal, with somebody who types."""

import io
import subprocess
import sys
from pathlib import Path

from support.command import TIMEOUT_S, environment

_AT_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


def typed(home: Path, *words: object, answers: dict[str, str]) -> tuple[int, str]:
    """Run a command and answer its questions in turn; gives (exit code, everything the terminal showed)."""
    with subprocess.Popen(
        [sys.executable, "-c", _AT_A_TERMINAL, sys.executable, "-m", "randygpt", *map(str, words)],
        cwd=home,
        env=environment(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert isinstance(process.stdout, io.BufferedReader)
        screen = b""
        for question, answer in answers.items():
            begin = len(screen)
            while question.encode() not in screen[begin:]:
                read = process.stdout.read1(4096)
                assert read, screen.decode()
                screen += read
            process.stdin.write(f"{answer}\n".encode())
            process.stdin.flush()
        screen += process.stdout.read()
        return process.wait(timeout=TIMEOUT_S), screen.decode()
