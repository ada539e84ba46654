"""Help pages and usage errors, in the user's words rather than those of typer and pydantic. No I/O."""

from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand

# Base class of all errors of the command-line parser; typer does not export it.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

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
                arguments.append((record[0].partition(" ")[0], record[1]))
            elif record:
                options.append(record)
        for title, rows in (("Arguments", arguments), ("Options", options)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def describe_usage_error(error: Exception) -> str:
    """Return one line for a usage error: the command, what is wrong, and where to read more; or the help page."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        return message
    if isinstance(error, typer.BadParameter) and error.message:
        message = message.removesuffix(error.message) + invalid_value_reason(error)
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
        if first["type"] in _REASONS:
            return _REASONS[first["type"]].format(value=first["input"], **first.get("ctx", {}))
    return error.message.removeprefix("Value error, ").removesuffix(".")
