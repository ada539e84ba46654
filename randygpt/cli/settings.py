"""Flags as settings: the name of every flag in settings files and in the environment. Reads both.

The flag `serve --port` is the key `port` of the table `[serve]`, and the variable RANDYGPT_SERVE_PORT. Typer takes the
files as its `default_map` and the variable as its `envvar`, so that flags override both. Groups of commands (`keys`,
`relays`, `trust`, `config`) have no table: they store their data in files of their own.
"""

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from randygpt.cli.usage import invalid_value_reason, readable_range
from randygpt.errors import CallerError, InvalidSetting
from randygpt.user.config_files import Key, Setting, convert_setting, expand_user, load_settings, parse, read_text
from randygpt.user.home import GLOBAL_SETTINGS, RELAYS, environment_name

_KINDS: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("true or false", bool),
    ("a number", (int, float)),
    ("a quoted string", (str, Path, Enum)),
    ("a list", (list, tuple)),
)
_SAMPLES = (True, "xs", "float32", "30d", "20G", "https://blobs.example")  # for settings that accept only some values
_EXAMPLES: Mapping[Key, object] = {  # what applies if nothing is set, where the flag itself has no default
    ("train", "iters"): 1000,
    ("train", "preset"): "xs",
    ("train", "dim"): 116,  # of xs, as are heads and layers
    ("train", "heads"): 4,
    ("train", "layers"): 3,
    ("train", "block"): 256,
    ("train", "recipe"): "fast",
    ("train", "batch"): 8,
    ("train", "accumulate"): 1,
    ("train", "lr"): 0.03,
    ("train", "min-lr"): 0.0015,
    ("train", "bpe"): 2000,
    ("train", "precision"): "float32",
    ("train", "device"): "cpu",
    ("publish", "chunk-key"): "author",
    ("search", "max-params"): "20M",
    ("search", "max-size"): "50M",
    ("publish", "copies"): 2,
    ("relay", "blobs"): 3000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A flag or argument that can be set in a file or in the environment."""

    command: TyperCommand
    definition: TyperArgument | TyperOption
    key: Key

    @property
    def environment_name(self) -> str:
        """Name of the environment variable."""
        return environment_name(self.key)

    @property
    def default(self) -> object:
        """Value if nothing is set."""
        return self.definition.default

    @property
    def help(self) -> str:
        """Help text, with the default and the range."""
        record = self.definition.get_help_record(typer.Context(self.command))
        return readable_range(record[1]) if record else ""

    @property
    def is_secret(self) -> bool:
        """True for a secret, which is neither shown nor accepted in a settings file."""
        return bool(getattr(self.definition, "hide_input", False))

    @property
    def takes_many(self) -> bool:
        """True if the value is a list."""
        return self.definition.nargs == -1 or bool(getattr(self.definition, "multiple", False))

    def convert(self, value: object) -> object:
        """Return a value from a settings file as typer's default map takes it.

        Raises:
            CallerError: The value is wrong; the message does not repeat a secret.
        """
        if self.is_secret:
            raise CallerError(f"secrets are not allowed here; set {self.key[1]}-file instead")
        if self.takes_many and not isinstance(value, list):
            raise CallerError("expected a list")
        try:
            converted: object = self._process(value)
        except typer.BadParameter as error:
            if _kind(value) != _kind("") and self._parses(str(value)):
                raise CallerError(f"expected {_kind('')}") from None
            raise CallerError(_reason(error)) from None
        if _kind(converted) != _kind(value) and value != []:
            raise CallerError(f"expected {_kind(converted)}")
        if isinstance(value, list) and not all(isinstance(each, str) for each in value):
            raise CallerError("expected a list of quoted strings")
        return str(expand_user(converted)) if isinstance(converted, Path) else value

    def from_environment(self) -> object:
        """Return the value of the environment variable, None if it is not set; raises typer.BadParameter."""
        value = self.definition.value_from_envvar(typer.Context(self.command))
        return None if value is None else self._process(value)

    def example(self) -> object:
        """Return the default, or another valid value, such as a placeholder, if the default is to set nothing."""
        if self.default is not None:
            return str(self.default) if isinstance(self.default, Path) else self.default
        if self.key in _EXAMPLES:
            return _EXAMPLES[self.key]
        word = (self.definition.metavar or self.key[1].upper()).strip("[]")
        candidates = ([], [word]) if self.takes_many else (1, 1000, word, *_SAMPLES)
        return next(value for value in candidates if self._accepts(value))

    def _accepts(self, value: object) -> bool:
        try:
            self.convert(value)
        except CallerError:
            return False
        return True

    def _process(self, value: object) -> object:
        return self.definition.process_value(typer.Context(self.command), value)

    def _parses(self, value: object) -> bool:
        try:
            self._process(value)
        except typer.BadParameter:
            return False
        return True


def parameters(program: TyperGroup) -> dict[Key, Parameter]:
    """Return every parameter of every command by its key, and make typer read its environment variable."""
    found = {}
    commands = [(name, each) for name, each in program.commands.items() if isinstance(each, TyperCommand)]
    commands = [(name, each) for name, each in commands if name != "help"]
    for name, command in commands:
        for definition in command.params:
            assert isinstance(definition, TyperArgument | TyperOption)  # noqa: S101 (typer makes no others)
            parameter = Parameter(command=command, definition=definition, key=(name, _name(definition)))
            definition.envvar, definition.show_envvar = parameter.environment_name, False
            found[parameter.key] = parameter
    return found


def _name(definition: TyperArgument | TyperOption) -> str:
    """Return the long flag without dashes, or the name of an argument in `--help`."""
    flag = max(definition.opts, key=len)
    word = (definition.metavar or "").strip("[].").lower()
    return word if not flag.startswith("-") and word.isalpha() else flag.lstrip("-")


def default_map(known: Mapping[Key, Parameter]) -> dict[str, dict[str, object]]:
    """Return the settings files as typer's `default_map`; raises InvalidSetting for the first error."""
    found: dict[str, dict[str, object]] = {}
    settings = load_settings()
    for key in settings:
        value = convert_setting(settings, key, _converter(key, known))
        if key in known:
            found.setdefault(key[0], {})[known[key].definition.name] = value
    return found


def file_errors(path: Path, known: Mapping[Key, Parameter]) -> list[InvalidSetting]:
    """Return all errors of a settings file, by line; raises CallerError and OSError if it cannot be read."""
    try:
        settings = {key: Setting(value, path) for key, value in parse(path, read_text(path)).items()}
    except InvalidSetting as error:
        return [error]
    found = []
    for key in settings:
        try:
            convert_setting(settings, key, _converter(key, known))
        except InvalidSetting as error:
            found.append(error)
    return sorted(found, key=lambda error: error.line)


def environment_errors(known: Mapping[Key, Parameter]) -> Iterator[str]:
    """Yield the errors of the environment: invalid values, and misspelt names of settings."""
    names = {parameter.environment_name: parameter for parameter in known.values()}
    tables = tuple(f"{environment_name(key[:1])}_" for key in known)
    for name in sorted(os.environ):
        if name in names:
            try:
                names[name].from_environment()
            except typer.BadParameter as error:
                yield f"{name}: {_reason(error)}"
        elif name.startswith(tables):
            yield f"{name}: no such setting{_hint(difflib.get_close_matches(name, names))}"
    try:
        GLOBAL_SETTINGS[RELAYS].convert(os.environ.get(environment_name(RELAYS), "").split())
    except CallerError as error:
        yield f"{environment_name(RELAYS)}: {error}"


def _converter(key: Key, known: Mapping[Key, Parameter]) -> Callable[[object], object]:
    """Return the function that checks and converts the value of a key."""
    if key in GLOBAL_SETTINGS:
        return GLOBAL_SETTINGS[key].convert
    if key in known:
        return known[key].convert

    def refuse(value: object) -> None:
        if value != {} or key not in {each[:1] for each in known}:  # an empty table sets nothing
            raise CallerError(f"no such setting{_hint(_similar(key, known))}")

    return refuse


def _similar(key: Key, known: Mapping[Key, Parameter]) -> list[str]:
    names = [".".join(each) for each in (*GLOBAL_SETTINGS, *known)]
    close = difflib.get_close_matches(".".join(key), names)
    return close or [".".join(each) for each in known if each[-1] == key[-1]]


def _hint(names: list[str]) -> str:
    return f" (did you mean {' or '.join(names[:3])}?)" if names else ""


def _reason(error: typer.BadParameter) -> str:
    return invalid_value_reason(error) or "value required"


def _kind(value: object) -> str:
    return next((words for words, types in _KINDS if isinstance(value, types)), "something else")
