"""What can be set, in a settings file or in the environment: every parameter of every command, by its name there.

A table is named like a command and a key like its long flag, `[serve] port`; the variable is RANDYGPT_SERVE_PORT.
Click takes what a file says as its `default_map` and the variable as its `envvar`: flags outweigh both. Groups of
commands (`keys`, `relays`, `trust`, `config`) have no table: what they are told is kept in files of its own.
"""

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from randygpt.errors import CallerError, InvalidSetting
from randygpt.user.config_files import Key, Setting, convert_setting, expand_user, load_settings, parse, read_text
from randygpt.user.home import GLOBAL_SETTINGS, RELAYS, environment_name

_KINDS: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("true or false", bool),
    ("a number", (int, float)),
    ("a text in quotes", (str, Path, Enum)),
    ("a list", (list, tuple)),
)
_SAMPLES = ("xs", "classic", "float32", "30d", "20G")  # for an example, where any word will not do


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """Something that can be set, and click's parameter behind it."""

    command: TyperCommand
    definition: TyperArgument | TyperOption
    key: Key

    @property
    def environment_name(self) -> str:
        """Its name in the environment."""
        return environment_name(self.key)

    @property
    def default(self) -> object:
        """What counts where nothing is set."""
        return self.definition.default

    @property
    def help(self) -> str:
        """What `--help` says of it, default and range included."""
        record = self.definition.get_help_record(typer.Context(self.command))
        return record[1] if record else ""

    @property
    def is_secret(self) -> bool:
        """Whether it is not to be shown, nor kept in a settings file."""
        return bool(getattr(self.definition, "hide_input", False))

    @property
    def takes_many(self) -> bool:
        """Whether a list belongs here."""
        return self.definition.nargs == -1 or bool(getattr(self.definition, "multiple", False))

    def convert(self, value: object) -> object:
        """A value from a settings file as the command line would take it; raises CallerError, without naming it."""
        if self.is_secret:
            raise CallerError("a secret does not belong in this file; there is a flag that names a file with it")
        if self.takes_many and not isinstance(value, list):
            raise CallerError("a list belongs here")
        try:
            converted: object = self._process(value)
        except typer.BadParameter as error:
            if _kind(value) != _kind("") and self._takes(str(value)):
                raise CallerError(f"{_kind('')} belongs here") from None
            raise CallerError(_words(error)) from None
        if _kind(converted) != _kind(value) and value != []:
            raise CallerError(f"{_kind(converted)} belongs here")
        if isinstance(value, list) and not all(isinstance(each, str) for each in value):
            raise CallerError("a list of texts in quotes belongs here")
        return str(expand_user(converted)) if isinstance(converted, Path) else value

    def from_environment(self) -> object:
        """What the environment says, None if nothing; raises click's BadParameter."""
        value = self.definition.value_from_envvar(typer.Context(self.command))
        return None if value is None else self._process(value)

    def example(self) -> object:
        """Its default, else something else that it may be."""
        if self.default is not None:
            return str(self.default) if isinstance(self.default, Path) else self.default
        word = (self.definition.metavar or self.key[1].upper()).strip("[]")
        return next(value for value in ([], [word], 1, 1000, word, *_SAMPLES) if self._suits(value))

    def _suits(self, value: object) -> bool:
        try:
            self.convert(value)
        except CallerError:
            return False
        return True

    def _process(self, value: object) -> object:
        return self.definition.process_value(typer.Context(self.command), value)

    def _takes(self, value: object) -> bool:
        try:
            self._process(value)
        except typer.BadParameter:
            return False
        return True


def parameters(program: TyperGroup) -> dict[Key, Parameter]:
    """Everything that can be set for some command; from then on the command looks into the environment as well."""
    found = {}
    commands = [(name, each) for name, each in program.commands.items() if isinstance(each, TyperCommand)]
    for name, command in commands:
        for definition in command.params:
            assert isinstance(definition, TyperArgument | TyperOption)  # noqa: S101 (typer makes no others)
            parameter = Parameter(command=command, definition=definition, key=(name, _name(definition)))
            definition.envvar, definition.show_envvar = parameter.environment_name, False
            found[parameter.key] = parameter
    return found


def _name(definition: TyperArgument | TyperOption) -> str:
    """Its long flag without dashes, or what `--help` calls an argument."""
    flag = max(definition.opts, key=len)
    word = (definition.metavar or "").strip("[].").lower()
    return word if not flag.startswith("-") and word.isalpha() else flag.lstrip("-")


def default_map(known: Mapping[Key, Parameter]) -> dict[str, dict[str, object]]:
    """What the settings files say, as click's `default_map`; raises InvalidSetting for the first mistake."""
    found: dict[str, dict[str, object]] = {}
    settings = load_settings()
    for key in settings:
        value = convert_setting(settings, key, _converter(key, known))
        if key in known:
            found.setdefault(key[0], {})[known[key].definition.name] = value
    return found


def file_errors(path: Path, known: Mapping[Key, Parameter]) -> list[InvalidSetting]:
    """Everything that is wrong in a settings file, by line; raises CallerError and OSError if it cannot be read."""
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
    """What is wrong in the environment: values that will not do, and names that only look like a setting's."""
    names = {parameter.environment_name: parameter for parameter in known.values()}
    tables = tuple(f"{environment_name(key[:1])}_" for key in known)
    for name in sorted(os.environ):
        if name in names:
            try:
                names[name].from_environment()
            except typer.BadParameter as error:
                yield f"{name}: {_words(error)}"
        elif name.startswith(tables):
            yield f"{name}: no such setting{_hint(difflib.get_close_matches(name, names))}"
    try:
        GLOBAL_SETTINGS[RELAYS].convert(os.environ.get(environment_name(RELAYS), "").split())
    except CallerError as error:
        yield f"{environment_name(RELAYS)}: {error}"


def _converter(key: Key, known: Mapping[Key, Parameter]) -> Callable[[object], object]:
    """What makes of a key's value what the program takes."""
    if key in GLOBAL_SETTINGS:
        return GLOBAL_SETTINGS[key].convert
    if key in known:
        return known[key].convert

    def refuse(value: object) -> None:
        if value != {} or key not in {each[:1] for each in known}:  # an empty table says nothing
            raise CallerError(f"no such setting{_hint(_alike(key, known))}")

    return refuse


def _alike(key: Key, known: Mapping[Key, Parameter]) -> list[str]:
    """Settings that may be meant."""
    names = [".".join(each) for each in (*GLOBAL_SETTINGS, *known)]
    close = difflib.get_close_matches(".".join(key), names)
    return close or [".".join(each) for each in known if each[-1] == key[-1]]


def _hint(names: list[str]) -> str:
    return f" (did you mean {' or '.join(names[:3])}?)" if names else ""


def _words(error: typer.BadParameter) -> str:
    return error.message.removeprefix("Value error, ") or "something belongs here"


def _kind(value: object) -> str:
    return next((words for words, types in _KINDS if isinstance(value, types)), "something else")
