"""The real command `randygpt`, in processes of its own."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

TIMEOUT_S = 600  # of a command that hangs; a slow machine under load needs a good part of it


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"RANDYGPT_HOME": str(home), "OMP_NUM_THREADS": "1"}


def randygpt(
    home: Path, *words: object, cwd: Path | None = None, start_new_session: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; in a new session it has no terminal."""
    return subprocess.run(
        [sys.executable, "-m", "randygpt", *map(str, words)],
        cwd=cwd or home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        start_new_session=start_new_session,
    )


@contextlib.contextmanager
def background(home: Path, *words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command that keeps running: (process, first line it prints); terminated afterwards if it still runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "randygpt", *map(str, words)],
        cwd=home,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=TIMEOUT_S)


def only_line(text: str) -> str:
    """The one line of a message that must have just one, without a traceback."""
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text.strip()


def loads_torch(*words: str, folder: Path | None = None) -> bool:
    """Whether a command line, given in a folder, imports torch."""
    code = (
        "import sys; from randygpt.cli.main import run\n"
        f"run({list(words)!r})\n"
        "sys.stderr.write('torch' if 'torch' in sys.modules else 'none')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    return done.stderr.endswith("torch")
