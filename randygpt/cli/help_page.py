"""`randygpt help`: the help page of a command."""

from typing import Annotated

import typer
from typer.core import TyperGroup

from randygpt.cli.output import write

EXAMPLE = "Example: randygpt help keys import"


def _complete(context: typer.Context, incomplete: str) -> list[str]:
    program = context.find_root().command
    assert isinstance(program, TyperGroup)  # noqa: S101 (the program is one)
    return [name for name in program.list_commands(context) if name.startswith(incomplete)]


def help_(
    context: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="Command to explain; default: list all.", autocompletion=_complete),
    ] = None,
) -> None:
    """Show the help page of a command."""
    page = context.find_root()
    for word in command or ():
        if isinstance(page.command, TyperGroup):
            name, found, _ = page.command.resolve_command(page, [word])
            assert found is not None  # noqa: S101 (else resolve_command raises)
            page = found.context_class(found, parent=page, info_name=name)
    write(page.get_help() + "\n")
