"""The settings files: which are read, their keys and values, and the line of each. Does disk I/O.

/etc/randygpt/config.toml       of the machine
~/.config/randygpt/config.toml  of the user; overrides the machine's
$RANDYGPT_CONFIG                files to read instead of these two, separated as in $PATH

Nothing is read from the current folder. This module does not know which settings exist: `randygpt.cli.settings` checks
keys and values.
"""

import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import platformdirs

from randygpt.errors import CallerError, InvalidSetting

T = TypeVar("T")
Key = tuple[str, ...]  # table and key, as in ("serve", "port")

_NAME = "config.toml"
_MACHINE = Path("/etc/randygpt") / _NAME
_MAX_INTEGER = 1 << 63  # TOML's integers have 64 bits
_SECRET = re.compile(r"n(crypt)?sec1[02-9ac-hj-np-z]{20,}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Setting:
    """A value, and the file that sets it."""

    value: object
    file: Path


def config_paths() -> list[Path]:
    """Return the paths of the settings files, existing or not; a later file overrides those before it."""
    chosen = os.environ.get("RANDYGPT_CONFIG")
    if chosen:
        return [Path(name) for name in chosen.split(os.pathsep) if name]
    try:
        return [_MACHINE, platformdirs.user_config_path("randygpt") / _NAME]
    except RuntimeError:  # no $HOME, and no entry in the password database
        return [_MACHINE]


def existing_paths() -> list[Path]:
    """Return the settings files that exist; raises CallerError if one named by `$RANDYGPT_CONFIG` does not."""
    found = [path for path in config_paths() if _is_there(path)]
    if os.environ.get("RANDYGPT_CONFIG") and len(found) < len(config_paths()):
        missing = next(path for path in config_paths() if path not in found)
        raise CallerError(f"RANDYGPT_CONFIG: {missing} does not exist")
    return found


def _is_there(path: Path) -> bool:
    """Return False also for an inaccessible file: a service may not read its user's home, nor a user /etc/randygpt."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def load_settings() -> dict[Key, Setting]:
    """Return the merged settings of all files; raises InvalidSetting, CallerError and OSError."""
    return {
        key: Setting(value, path) for path in existing_paths() for key, value in parse(path, read_text(path)).items()
    }


def convert_setting(settings: Mapping[Key, Setting], key: Key, convert: Callable[[object], T]) -> T | None:
    """Return a converted setting, None if it is not set; a CallerError of `convert` becomes an InvalidSetting."""
    if key not in settings:
        return None
    setting = settings[key]
    try:
        return convert(setting.value)
    except CallerError as error:
        line = line_number(read_text(setting.file), key)
        raise InvalidSetting(setting.file, line, ".".join(key), str(error)) from None


def expand_user(path: Path) -> Path:
    """Return a path with `~` and `~user` expanded; raises CallerError if the user is unknown."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise CallerError(f"no home folder for {path.parts[0]}") from None


def read_text(path: Path) -> str:
    """Return the text of a settings file.

    Raises:
        CallerError: Other users may write the file.
        InvalidSetting: The file is not UTF-8.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        if stat.S_ISREG(facts.st_mode) and (facts.st_mode & stat.S_IWOTH or facts.st_uid not in {0, os.geteuid()}):
            raise CallerError(f"{path}: other users may write this settings file; run chmod o-w or chown")
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InvalidSetting(path, line, "", "not UTF-8 text") from None


def parse(path: Path, text: str) -> dict[Key, object]:
    """Return keys and values of a settings file; raises InvalidSetting if it is not TOML or contains a secret key."""
    for number, line in enumerate(text.split("\n"), 1):
        if _SECRET.search(line):
            raise InvalidSetting(
                path, number, "", "secret keys are not allowed here; see `randygpt keys import --help`"
            )
    try:
        values = dict(_leaves(tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        words, _, where = str(error).removesuffix(")").rpartition(" (at ")
        found = re.match(r"line (\d+)", where)
        place = int(found[1]) if found else text.rstrip().count("\n") + 1  # tomllib says "end of document" otherwise
        raise InvalidSetting(path, place, "", f"not TOML: {words}") from None
    except RecursionError:
        raise InvalidSetting(path, 1, "", "nested too deeply") from None
    except ValueError:  # Python's limit on the digits of a number
        place = next(n for n, line in enumerate(text.split("\n"), 1) if re.search(r"\d[\d_]{4000}", line))
        raise InvalidSetting(path, place, "", "a number has too many digits") from None
    for key, value in values.items():
        scalars = [*_scalars(value)]
        if any("\0" in each for each in scalars if isinstance(each, str)):
            raise InvalidSetting(path, line_number(text, key), ".".join(key), "NUL characters are not allowed")
        if any(isinstance(each, int) and abs(each) >= _MAX_INTEGER for each in scalars):
            raise InvalidSetting(path, line_number(text, key), ".".join(key), "a number has at most 64 bits")
    return values


def _scalars(value: object) -> Iterator[object]:
    """Yield the values in nested arrays and tables."""
    if isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _scalars(each)
    else:
        yield value


def line_number(text: str, key: Key) -> int:
    """Return the number of the line in valid TOML that sets `key`, or the first part of it.

    A statement ends at the first line up to which it is valid TOML by itself.
    """
    table: Key = ()
    statement, start = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += f"{line}\n"
        try:
            said = [*dict(_leaves(tomllib.loads(statement)))]
        except tomllib.TOMLDecodeError:
            continue
        if statement.lstrip().startswith("["):
            table = said[0]
            said = [()]
        if any((*table, *each)[: len(key)] == key for each in said):
            return start
        statement, start = "", number + 1
    raise LookupError(key)


def _leaves(table: Mapping[str, object], *path: str) -> Iterator[tuple[Key, object]]:
    """Yield every value that is not a table, and every empty table, with its path of keys."""
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, *path, name)
        else:
            yield (*path, name), value
