"""The settings files: which are read, what they say, and on which line. Does disk I/O.

/etc/randygpt/config.toml       of the machine
~/.config/randygpt/config.toml  of the user; what it sets outweighs the machine's
$RANDYGPT_CONFIG                files to read in place of these two, separated as in $PATH

Nothing is read from the directory one happens to be in. Whether a setting exists, and its value will do, the command
line knows; here they are text.
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
_SECRET = re.compile(r"n(crypt)?sec1[02-9ac-hj-np-z]{20,}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Setting:
    """A value, and the file that has it."""

    value: object
    file: Path


def config_paths() -> list[Path]:
    """The settings files, existing or not; a later one outweighs those before."""
    chosen = os.environ.get("RANDYGPT_CONFIG")
    if chosen:
        return [Path(name) for name in chosen.split(os.pathsep) if name]
    return [_MACHINE, platformdirs.user_config_path("randygpt") / _NAME]


def existing_paths() -> list[Path]:
    """The settings files that are there; raises CallerError if one that was asked for is not."""
    found = [path for path in config_paths() if _is_there(path)]
    if os.environ.get("RANDYGPT_CONFIG") and len(found) < len(config_paths()):
        missing = next(path for path in config_paths() if path not in found)
        raise CallerError(f"RANDYGPT_CONFIG names {missing}, and there is no such file")
    return found


def _is_there(path: Path) -> bool:
    """Whether a file is within reach: a service may not look into its user's home, nor a user into /etc/randygpt."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def load_settings() -> dict[Key, Setting]:
    """What all settings files together say; raises InvalidSetting, CallerError and OSError."""
    return {
        key: Setting(value, path) for path in existing_paths() for key, value in parse(path, read_text(path)).items()
    }


def convert_setting(settings: Mapping[Key, Setting], key: Key, convert: Callable[[object], T]) -> T | None:
    """A setting as `convert` makes it, None if there is none; a CallerError of `convert` becomes an InvalidSetting."""
    if key not in settings:
        return None
    setting = settings[key]
    try:
        return convert(setting.value)
    except CallerError as error:
        line = line_number(read_text(setting.file), key)
        raise InvalidSetting(setting.file, line, ".".join(key), str(error)) from None


def expand_user(path: Path) -> Path:
    """A path whose `~` is the user's folder; raises CallerError if that user is not known."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise CallerError(f"no folder is known for {path.parts[0]}") from None


def read_text(path: Path) -> str:
    """What stands in a settings file; raises CallerError if others may write there, InvalidSetting and OSError."""
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        if stat.S_ISREG(facts.st_mode) and (facts.st_mode & stat.S_IWOTH or facts.st_uid not in {0, os.geteuid()}):
            raise CallerError(f"{path}: settings that others may write are not read; run: chmod o-w, or chown")
        data = file.read()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InvalidSetting(path, line, "", "not text in UTF-8") from None


def parse(path: Path, text: str) -> dict[Key, object]:
    """Keys and values of a settings file; raises InvalidSetting for what is not TOML, or holds a secret key."""
    for number, line in enumerate(text.split("\n"), 1):
        if _SECRET.search(line):
            raise InvalidSetting(path, number, "", "a secret key does not belong here; see `randygpt keys import`")
    try:
        values = dict(_leaves(tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        words, _, where = str(error).removesuffix(")").rpartition(" (at ")
        found = re.match(r"line (\d+)", where)
        place = int(found[1]) if found else text.rstrip().count("\n") + 1  # else it is "end of document"
        raise InvalidSetting(path, place, "", f"not TOML: {words}") from None
    except RecursionError:
        raise InvalidSetting(path, 1, "", "not TOML that anybody needs: nested too deeply") from None
    for key, value in values.items():
        texts = value if isinstance(value, list) else [value]
        if any("\0" in each for each in texts if isinstance(each, str)):
            raise InvalidSetting(path, line_number(text, key), ".".join(key), "nothing here can have a NUL in it")
    return values


def line_number(text: str, key: Key) -> int:
    """On which line a text that is TOML sets `key`; that of its first statement if it is set by parts.

    A statement ends on the first line up to which it is TOML by itself.
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
    """Every value that is no table, and every empty table, with the keys that lead there."""
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, *path, name)
        else:
            yield (*path, name), value
