"""Output that commands share: results on stdout as text or JSON; notes, errors and progress on stderr."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from randygpt.terminal import discard_output, escape_controls, escape_line

if TYPE_CHECKING:
    from rich.console import Console


def emit(as_json: bool, result: Mapping[str, object] | Sequence[object], text: str) -> None:  # noqa: FBT001 (passed on from the flag)
    """Print the result of a command on stdout: `result` as JSON, or `text`."""
    is_utf8 = sys.stdout.encoding.lower() in {"utf-8", "utf8"}
    write((json.dumps(result, ensure_ascii=not is_utf8) if as_json else text) + "\n")


def write(text: str) -> bool:
    """Write to stdout and flush; return False once the reader has closed the pipe, and discard all later output."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        discard_output(sys.stdout.fileno())  # else Python reports the same error again at the end
        if not isinstance(error, BrokenPipeError):
            raise
        return False
    return True


def print_stderr(text: str, *, end: str = "\n") -> None:
    """Print a line on stderr: a note or an error, not part of the result. Discard it if stderr cannot be written."""
    if os.isatty(2):  # a progress bar puts its own stream in place of sys.stderr
        text = escape_controls(text)
    try:
        sys.stderr.write(f"{text}{end}")
        sys.stderr.flush()
    except OSError:
        discard_output(sys.stderr.fileno())


def ask(question: str) -> str:
    """Ask a question on the terminal, and return the line that is entered."""
    print_stderr(question, end="")
    return sys.stdin.readline().strip()


def is_confirmed(question: str) -> bool:
    """Ask a question on the terminal, and return whether the answer is yes; no by default."""
    return ask(f"{question} [y/N] ").lower() in {"y", "yes"}


def progress_console() -> "Console":
    """Return the console for a progress bar, whose control sequences must reach the terminal."""
    from rich.console import Console

    return Console(file=sys.__stderr__)


def format_size(count: float) -> str:
    """Return a number of bytes in a readable unit (powers of 1000)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":  # noqa: PLR2004 (SI)
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """Return an estimated duration in a readable unit."""
    for unit, length in (("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"about {seconds / length:.0f} {unit}"
    return f"about {max(1, round(seconds))} s"


def format_elapsed(seconds: float) -> str:
    """Return a measured duration: 65 s, 2:05 min or 1:05:20 h."""
    if seconds < 2 * 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def format_date(timestamp: int, *, minutes: bool = False) -> str:
    """Return a time (seconds since 1970) as the local date, 2026-01-31; `minutes`: with the time, 14:05."""
    return time.strftime("%Y-%m-%d %H:%M" if minutes else "%Y-%m-%d", time.localtime(timestamp))


@contextlib.contextmanager
def byte_progress(label: str, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal, and nothing elsewhere; yields `update(done_bytes, total_bytes)`."""
    if not shown or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=progress_console(), transient=True) as progress:
        task = progress.add_task(escape_line(label), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
