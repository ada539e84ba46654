"""Files of events that commands write: an atomic file, or standard output. Does disk I/O."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from randygpt.cli.flags import check_file_path
from randygpt.cli.output import emit, print_stderr
from randygpt.errors import CallerError, TransportError
from randygpt.terminal import discard_output
from relay_client import durable

_STANDARD_STREAM = Path("-")


def check_events_output(out: Path, *, as_json: bool, other: str = "") -> None:
    """Raise CallerError if events cannot be written to `out`, or not with another flag."""
    if other:
        raise CallerError(f"--out sends nothing: leave out {other}")
    if out != _STANDARD_STREAM:
        check_file_path(out)
        if out.exists() and not out.is_file():
            raise CallerError(f"{out}: not a regular file; write to standard output with -")
    elif as_json:
        raise CallerError("--json prints on standard output, as do the events: write them to a file")
    elif sys.stdout.isatty():
        raise CallerError("events are not for a terminal: name a file, or send standard output to one")


@contextlib.contextmanager
def open_events_output(out: Path) -> Iterator[BinaryIO]:
    """Open the file, which replaces an older one when it is complete, or standard output.

    Raises:
        TransportError: The reader of standard output closed it.
        OSError: The file cannot be written.
    """
    if out != _STANDARD_STREAM:
        with durable.atomic_file(out) as file:
            yield file
        return
    try:
        yield sys.stdout.buffer
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output(sys.stdout.fileno())
        raise TransportError("the reader of standard output closed it before the last event") from None


def report_events_output(out: Path, result: Mapping[str, object], text: str, *, as_json: bool, quiet: bool) -> None:
    """Print the result on stdout, or on stderr if the events are on stdout."""
    if out != _STANDARD_STREAM:
        emit(as_json, result, text)
    elif not quiet:
        print_stderr(text)
