"""Help pages and usage errors, as typer's parser raises them."""

import pytest
import typer
from support.command import only_line

from randygpt.cli.main import app, run

Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("at_home")

SEE = {command: f"(see randygpt {command} --help)" for command in ("serve", "train", "generate", "fetch")}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("serve --port x", "Invalid value for '--port': 'x' is not an integer"),
        ("serve --port 70000", "Invalid value for '--port': 70000 is greater than 65535"),
        ("train --iters 0", "Invalid value for '--iters': 0 is less than 1"),
        ("train --iters 1.5", "Invalid value for '--iters': '1.5' is not an integer"),
        ("train --lr x", "Invalid value for '--lr': 'x' is not a number"),
        ("train --recipe quick", "Invalid value for '--recipe': 'quick' is not one of 'classic', 'fast'"),
        ("train a.txt b.txt", "unexpected argument: b.txt"),
        ("fetch a b", "unexpected argument: b"),
        ("fetch", "Missing argument 'MODEL'."),
    ],
)
def test_usage_error_is_in_the_users_words(capsys: Capture, line: str, says: str) -> None:
    command = line.split(maxsplit=1)[0]
    assert run(line.split()) == 2
    assert only_line(capsys.readouterr().err) == f"randygpt {command}: {says} {SEE[command]}"


def test_help_page_shows_no_python_types(capsys: Capture) -> None:
    program = typer.main.get_command(app)
    names = [name for name in getattr(program, "commands", {}) if name not in {"keys", "relays", "trust", "config"}]
    assert len(names) > 15
    for name in [*names, "keys import", "trust policy", "config check"]:
        assert run([*name.split(), "--help"]) == 0
        page = capsys.readouterr().out
        assert not {"<", ">", "{", "}"} & set(page.replace("x>=", "").replace("<=x<=", ""))


def test_summary_of_every_command_fits_80_columns(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for group in ([], ["keys"], ["relays"], ["trust"], ["config"]):
        assert run([*group, "--help"]) == 0
        assert "..." not in capsys.readouterr().out.replace("[ARGS]...", "")
