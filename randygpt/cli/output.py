"""What every command shares: results as text or JSON on stdout, words and progress on stderr, sizes for people."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from randygpt.errors import CallerError
from randygpt.model.config import ModelConfig
from relay_client.url import normalize_url

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no remarks.")]


def validator(check: Callable[[str], object]) -> Callable[[Any], Any]:
    """A callback with which click says which flag, or line of a settings file, has a value that `check` refuses."""

    def callback(value: Any) -> Any:  # noqa: ANN401 (click passes on whatever the parameter takes)
        for each in [value] if isinstance(value, str) else value or ():
            try:
                check(each)
            except CallerError as error:
                raise typer.BadParameter(str(error)) from None
        return value

    return callback


def emit(as_json: bool, result: Mapping[str, object], text: str) -> None:  # noqa: FBT001 (passed on from the flag)
    """Print a command's result, in the form the user asked for."""
    is_utf8 = sys.stdout.encoding.lower() in {"utf-8", "utf8"}
    write((json.dumps(result, ensure_ascii=not is_utf8) if as_json else text) + "\n")


def check_file_path(path: Path) -> Path:
    """A path that can name files, in a folder that exists; raises CallerError."""
    if path.name in {"", ".."} or not path.absolute().parent.is_dir():
        raise CallerError(f"{path}: not a name in a folder that exists")
    return path


def write(text: str) -> bool:
    """Write to stdout at once; False if whoever read it has had enough, and then the rest goes nowhere."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def is_flag_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter is on the command line, and not set by a file or the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def print_stderr(text: str) -> None:
    """A line for the person, not part of the result."""
    sys.stderr.write(text + "\n")


def parse_size(text: str) -> int:
    """Bytes as a person writes them: 1000000, 500M, 2G (of 1024); raises CallerError."""
    found = re.fullmatch("([1-9][0-9]{0,15})([KMGT]?)B?", text.strip().upper())
    if not found:
        raise CallerError(f"not a number of bytes: {text!r} (500M and 2G are)")
    return int(found[1]) << 10 * " KMGT".index(found[2] or " ")


Relays = Annotated[
    list[str] | None,
    typer.Option(
        "--relay",
        metavar="URL",
        help="A relay; repeat for more. Overrides your list.",
        callback=validator(normalize_url),
    ),
]
MaxSize = Annotated[
    str, typer.Option(metavar="BYTES", help="Refuse to fetch more, like 500M or 2G.", callback=validator(parse_size))
]
validate_preset = validator(lambda name: ModelConfig.from_preset(name, vocab_size=1))


def format_size(count: float) -> str:
    """Bytes in a unit for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":  # noqa: PLR2004 (SI)
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """A time in a unit for people, as an estimate."""
    for unit, length in (("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"about {seconds / length:.0f} {unit}"
    return f"about {max(1, round(seconds))} s"


@contextlib.contextmanager
def byte_progress(words: str, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes on a terminal, nothing elsewhere; gives `update(done, total)`, and never goes backwards."""
    if not shown or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(words, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
