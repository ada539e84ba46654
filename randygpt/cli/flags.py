"""Flags that several commands share, and the checks of their values. No I/O but `check_file_path`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from randygpt.errors import CallerError
from randygpt.model.config import PRESETS, ModelConfig
from randygpt.user.home import Home
from relay_client.blossom.address import normalize_server
from relay_client.errors import quote
from relay_client.url import normalize_url


def validator(check: Callable[[str], object]) -> Callable[[Any], Any]:
    """Return a typer callback that reports a CallerError of `check` with the name of the flag or setting."""

    def callback(value: Any) -> Any:  # noqa: ANN401 (typer passes whatever type the parameter has)
        for each in [value] if isinstance(value, str) else value or ():
            try:
                check(each)
            except CallerError as error:
                raise typer.BadParameter(str(error)) from None
        return value

    return callback


def parse_size(text: str) -> int:
    """Return the number of bytes in a text such as 1000000, 500M or 2G (powers of 1024).

    Raises:
        CallerError: The text is not a size.
    """
    found = re.fullmatch("([1-9][0-9]{0,15})([KMGT]?)B?", text.strip().upper())
    if not found:
        raise CallerError(f"{quote(text)} is not a size in bytes, such as 500M or 2G")
    return int(found[1]) << 10 * " KMGT".index(found[2] or " ")


_SECONDS = {"h": 3_600, "d": 86_400, "w": 7 * 86_400}
_COUNTS = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}


def parse_duration(text: str) -> int:
    """Return the seconds in a text such as 12h, 30d or 8w; raises CallerError."""
    found = re.fullmatch("([1-9][0-9]{0,4})([hdw])", text)
    if not found:
        raise CallerError(f"{quote(text)} is not a duration such as 12h, 30d or 8w")
    return int(found[1]) * _SECONDS[found[2]]


def parse_count(text: str) -> int:
    """Return the number in a text such as 500K, 1.5M or 2B (powers of 1000); raises CallerError."""
    found = re.fullmatch("([0-9]{1,15}(?:[.][0-9]{1,3})?)([KMB]?)", text.strip().upper())
    count = round(float(found[1]) * _COUNTS[found[2]]) if found else 0
    if not count:
        raise CallerError(f"{quote(text)} is not a number such as 500K or 20M")
    return count


def check_file_path(path: Path) -> Path:
    """Return a path if it can name a file in an existing folder.

    Raises:
        CallerError: It names no file, or the folder does not exist.
    """
    if path.name in {"", ".."}:
        raise CallerError(f"{path}: not a file name")
    if not path.absolute().parent.is_dir():
        raise CallerError(f"{path}: the folder {path.parent} does not exist")
    return path


def resolve_servers(home: Home, named: list[str] | None, *, none: bool) -> list[str]:
    """Return the Blossom servers to use: those of `--server`, else the user's list; none with `--no-servers`.

    Raises:
        CallerError: Both flags are given, or the list is damaged.
    """
    if none and named:
        raise CallerError("--no-servers excludes --server")
    return [] if none else home.resolve_servers(named)


def is_flag_given(context: typer.Context, name: str) -> bool:
    """Return whether a parameter was given on the command line, rather than by a settings file or the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, on one line.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no notes.")]
Relays = Annotated[
    list[str] | None,
    typer.Option(
        "--relay",
        metavar="URL",
        help="Relay to use instead of your list; repeat for more.",
        callback=validator(normalize_url),
    ),
]
Servers = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Blossom server to use instead of your list; repeat for more.",
        callback=validator(normalize_server),
    ),
]
NoServers = Annotated[bool, typer.Option("--no-servers", help="Use relays only, no Blossom servers.")]
MaxSize = Annotated[
    str,
    typer.Option(
        metavar="SIZE", help="Refuse a release larger than this, such as 500M or 2G.", callback=validator(parse_size)
    ),
]


def complete_preset(incomplete: str) -> list[str]:
    """Complete the names of presets."""
    return [name for name in PRESETS if name.startswith(incomplete)]


validate_preset = validator(lambda name: ModelConfig.from_preset(name, vocab_size=1))
ModelPreset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help=f"Preset of the checkpoint, if no JSON file next to it has its shape: {', '.join(PRESETS)}.",
        callback=validate_preset,
        autocompletion=complete_preset,
    ),
]
ModelVocab = Annotated[
    Path | None, typer.Option("--vocab", metavar="FILE", help="Vocabulary to use instead of the checkpoint's own.")
]
