"""Help pages and usage errors, in the user's words rather than those of typer and pydantic. No I/O."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# Base class of all errors of the command-line parser; typer does not export it.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

_FLAGS = 26  # columns for flags and their placeholders; longer ones get a line of their own
_RANGES: Mapping[str, str] = {r"(\S+)<=x<=(\S+)": r"\1 to \2", r"x>=(\S+)": r"at least \1", r"x<=(\S+)": r"at most \1"}
_NAMES = 16  # columns for the names of commands
_NEAR = 0.7  # similarity of an option that was mistyped
_REASONS: Mapping[str, str] = {  # by pydantic's type of error; filled in with the value and the limit
    "int_parsing": "{value!r} is not an integer",
    "int_parsing_size": "the number has too many digits",
    "finite_number": "{value} is not a finite number",
    "int_type": "{value!r} is not an integer",
    "int_from_float": "{value!r} is not an integer",
    "float_parsing": "{value!r} is not a number",
    "float_type": "{value!r} is not a number",
    "bool_parsing": "{value!r} is not true or false",
    "bool_type": "{value!r} is not true or false",
    "greater_than_equal": "{value} is less than {ge}",
    "less_than_equal": "{value} is greater than {le}",
}

ALIASES: Mapping[str, str] = {"rm": "remove", "pull": "fetch"}
_MEANT: Mapping[str, str] = {  # what other programs call it
    "chat": "generate --interactive",
    "convert": "export",
    "delete": "remove",
    "download": "fetch",
    "evaluate": "eval",
    "info": "show",
    "init": "keys new",
    "inspect": "show",
    "install": "fetch",
    "login": "keys new",
    "ls": "list",
    "ps": "list",
    "push": "publish",
    "resume": "train --resume",
    "run": "generate",
    "sample": "generate",
    "settings": "config",
    "start": "serve",
    "status": "list",
    "uninstall": "remove",
    "unpin": "pin --remove",
    "update": "fetch",
    "upload": "publish",
    "version": "--version",
    "whoami": "keys show",
}


class Group(TyperGroup):
    """A group of commands that has aliases, shows every summary in full, and suggests commands for a mistyped one."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 (typer does not export their types)
        """Return the command of a name or alias, None if there is none."""
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, ALIASES.get(cmd_name, ""))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 (typer does not export their types)
        """Return name, command and arguments; raise UsageError, with suggestions, for a command that does not exist."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            raise UsageError(f"no such command: {name}{self._suggestion(ctx, name)}", ctx)
        _, command, rest = super().resolve_command(ctx, args)
        return ALIASES.get(name, name), command, rest  # settings are under the command's own name

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 (typer does not export their types)
        """Write the table of commands, with summaries of any length."""
        names = {real: alias for alias, real in ALIASES.items() if real in self.commands}
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.commands[name]
            if not command.hidden:
                summary = (command.help or "").partition("\n")[0]
                panel = panels.setdefault(getattr(command, "rich_help_panel", None) or "Commands", [])
                panel.append((f"{name}, {names[name]}" if name in names else name, summary))
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl(rows, col_max=_NAMES)

    def _suggestion(self, ctx: Any, name: str) -> str:  # noqa: ANN401 (typer does not export its type)
        meant = _MEANT.get(name.lower()) if ctx.parent is None else None
        known = [*self.list_commands(ctx), *(alias for alias, real in ALIASES.items() if real in self.commands)]
        return did_you_mean([meant] if meant else difflib.get_close_matches(name.lower(), known))


def did_you_mean(names: Iterable[str]) -> str:
    """Return a question that ends an error about a mistyped word; empty without suggestions."""
    listed = list(names)[:3]
    return f"; did you mean {' or '.join(listed)}?" if listed else ""


class Command(TyperCommand):
    """A command whose help page shows placeholders such as FILE, without Python's types."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ANN401 (typer does not export its type)
        """Return the parts of the usage line: `FILE` if required, `[FILE]` if optional."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 (typer does not export their types)
        """Write the tables of arguments and options."""
        arguments, options = [], []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and parameter.param_type_name == "argument":
                arguments.append((record[0].partition(" ")[0], readable_range(record[1])))
            elif record:
                options.append((record[0], readable_range(record[1])))
        for title, rows in (("Arguments", arguments), ("Options", options)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=_FLAGS)


def readable_range(text: str) -> str:
    """Return a help text with the range at its end in words instead of inequalities."""
    for pattern, words in _RANGES.items():
        text = re.sub(rf"{pattern}(?=\]$)", words, text)
    return text


def describe_usage_error(error: Exception) -> str:
    """Return one line for a usage error: the command, what is wrong, and where to read more; or the help page."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        return message
    if isinstance(error, typer.BadParameter) and error.message:
        message = message.removesuffix(error.message) + invalid_value_reason(error)
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        near = [*(error.possibilities or ()), *difflib.get_close_matches(error.option_name, ["--version", "--help"])]
        message = f"no such option: {error.option_name}" + did_you_mean(
            difflib.get_close_matches(error.option_name, near, cutoff=_NEAR)
        )
    extra = message.removeprefix("Got unexpected extra argument(s) ")
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    path = context.command_path if context else "randygpt"
    if extra != message:
        message = f"unexpected argument: {extra[1:-1]}"
    source = context.get_parameter_source(parameter.name) if context and parameter else None
    variable = f" {parameter.envvar}:" if parameter and source and source.name == "ENVIRONMENT" else ""
    return f"{path}:{variable} {' '.join(message.split())} (see {path} --help)"


def invalid_value_reason(error: typer.BadParameter) -> str:
    """Return why a value is refused, without the name of the flag; empty if no value was given."""
    cause: Any = error.__cause__
    if hasattr(cause, "errors"):
        first = cause.errors()[0]
        if first["input"] != first["input"] or str(first["input"]).lower() == "nan":
            return "nan is not a number"
        if first["type"] in _REASONS:
            return _REASONS[first["type"]].format(value=first["input"], **first.get("ctx", {}))
    return error.message.removeprefix("Value error, ").removesuffix(".")
