"""The command `randygpt`: run in the test's process, in a process of its own, or in the background."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

from randygpt.cli.main import run
from support.output import killed_on_error, read_line
from support.process import restored_handlers

TIMEOUT_S = 180  # seconds until a command counts as hanging, on a slow and busy machine


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"RANDYGPT_HOME": str(home)}


def invoke(home: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, with `home` as current folder and RANDYGPT_HOME, and stdin at its end.

    Call it from the main thread, which handles signals, and outside of any event loop.
    """
    return invoke_with_input(home, b"", *words, **variables)


def invoke_with_input(home: Path, stdin: bytes, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command as `invoke` does, with these bytes on stdin."""
    arguments = [*map(str, words)]
    out, err = _captured(), _captured()
    with _current_process(home, variables), _standard_streams(out, err, stdin):
        try:
            code = run(arguments)
        except SystemExit as ended:  # as completion ends
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(arguments, code, _text(out), _text(err))


def invoke_until_terminated(
    home: Path, *words: object, client: Callable[[io.TextIOWrapper], None], **variables: str
) -> None:
    """Run a command that keeps running in this process, as `invoke` does, and `client` with its output on a thread.

    The command is terminated when `client` returns, and must have started by then.
    """
    descriptors = os.pipe()
    failures: list[BaseException] = []

    def use(output: io.TextIOWrapper) -> None:
        try:
            client(output)
        except BaseException as error:  # noqa: BLE001 (raised below)
            failures.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    err = _captured()
    with os.fdopen(descriptors[0], encoding="utf-8") as output, _current_process(home, variables):
        thread = threading.Thread(target=use, args=[output])
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        thread.start()
        with os.fdopen(descriptors[1], "w", encoding="utf-8", buffering=1) as out, _standard_streams(out, err):
            code = run([*map(str, words)])
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        thread.join(TIMEOUT_S)
    for failure in failures:
        raise failure
    assert code == 128 + signal.SIGTERM, _text(err)


def randygpt(
    home: Path, *words: object, cwd: Path | None = None, start_new_session: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own; in a new session it has no terminal."""
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
def background(
    home: Path, *words: object, stderr: int = subprocess.DEVNULL
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a command that keeps running; yield its process and first line of output, and terminate it in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "randygpt", *map(str, words)],
        cwd=home,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    with killed_on_error(process):
        assert process.stdout is not None
        yield process, read_line(process.stdout.fileno())
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=TIMEOUT_S)


def only_line(text: str) -> str:
    """Return the message, which must be one line without a traceback."""
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text.strip()


def loads_torch(*lines: str, folder: Path | None = None, home: Path | None = None) -> bool:
    """Return whether any of these command lines, given in a folder, imports torch; run them in one process."""
    code = (
        "import sys; from randygpt.cli.main import run\n"
        "for line in sys.argv[1:]: run(line.split())\n"
        "sys.stderr.write('torch' if 'torch' in sys.modules else 'none')"
    )
    command = [sys.executable, "-c", code, *lines]
    variables = environment(home) if home else None
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    return done.stderr.endswith("torch")


@contextlib.contextmanager
def _current_process(home: Path, variables: Mapping[str, str]) -> Iterator[None]:
    changed = {"RANDYGPT_HOME": str(home), **variables}
    with mock.patch.dict(os.environ, changed), contextlib.chdir(home), restored_handlers():
        yield


@contextlib.contextmanager
def _standard_streams(out: io.TextIOWrapper, err: io.TextIOWrapper, stdin: bytes = b"") -> Iterator[None]:
    """Redirect output, with these bytes on stdin."""
    with (
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        yield


def _captured() -> io.TextIOWrapper:
    """Return a stream like that of a process whose output is piped."""
    return io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()
