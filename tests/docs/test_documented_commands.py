"""Command lines in README.md and docs/: their commands and flags exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from randygpt.cli.main import app
from randygpt.cli.rust_compat import normalise

ROOT = Path(__file__).parents[2]
COMMAND = typer.main.get_command(app)


def documented() -> dict[str, str]:
    """Return the command lines in the pages' shell blocks, with the name of their page."""
    found = {}
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("randygpt "):
                    found[line] = page.name
    return found


LINES = documented()


def test_pages_have_command_lines() -> None:
    assert {"README.md", "training.md"} <= set(LINES.values())


@pytest.mark.parametrize("line", LINES)
def test_documented_command_exists_with_its_flags(line: str) -> None:
    words = normalise(shlex.split(re.split(r"\s[|&>]", line)[0], comments=True)[1:])
    command: Any = COMMAND
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert command is not COMMAND
    assert not hasattr(command, "commands")
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    assert {word.split("=")[0] for word in words if re.match("--?[a-z]", word)} <= known
