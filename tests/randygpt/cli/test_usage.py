"""Help pages and usage errors, as typer's parser raises them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from support.command import only_line

from randygpt.cli.main import app, run
from randygpt.model.config import PRESETS

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
        assert not {"<", ">", "{", "}"} & set(page)


def pages() -> Iterator[tuple[list[str], typer.core.TyperCommand | typer.core.TyperGroup]]:
    """Yield the words and the command of every help page."""
    program = typer.main.get_command(app)
    assert isinstance(program, typer.core.TyperGroup)
    waiting: list[tuple[list[str], Any]] = [([], program)]
    for words, command in waiting:
        yield words, command
        waiting += [([*words, name], inner) for name, inner in getattr(command, "commands", {}).items()]


def test_every_help_page_fits_80_columns(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = 0
    for words, command in pages():
        assert run([*words, "--help"]) == 0
        page = capsys.readouterr().out
        plain = " ".join(page.split())
        assert max(map(len, page.splitlines())) <= 80, words
        assert not re.search(
            r"[<>{}]|\blist\[|int range|\.\.\.(?!$)",
            re.sub(r"\[?[A-Z]+\]?\.\.\.", "", page).replace("> config.toml", ""),
            re.MULTILINE,
        ), words
        for inner in getattr(command, "commands", {}).values():
            assert inner.help.partition("\n")[0] in plain
        for parameter in command.params:
            kind = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
            choices = get_args(kind) if get_origin(kind) is Literal else ()
            assert all(str(choice) in plain for choice in choices), (words, parameter.name)
            found += bool(choices)
    assert found >= 4


@pytest.mark.parametrize(
    ("words", "option", "incomplete", "names"),
    [
        ("train", "preset", "", [*PRESETS]),
        ("generate", "preset", "d", ["ds", "deep"]),
        ("train", "recipe", "f", ["fast"]),
        ("train", "device", "c", ["cpu", "cuda"]),
        ("serve", "log", "", ["console", "json"]),
        ("help", "command", "gen", ["generate"]),
    ],
)
def test_choices_are_completed(words: str, option: str, incomplete: str, names: list[str]) -> None:
    program = typer.main.get_command(app)
    root = program.context_class(program)
    command = next(command for path, command in pages() if path == [words])
    parameter = next(parameter for parameter in command.params if parameter.name == option)
    found = parameter.shell_complete(command.context_class(command, parent=root), incomplete)
    assert [each.value for each in found] == names


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("trian", "randygpt: no such command: trian; did you mean train?"),
        ("LIST", "randygpt: no such command: LIST; did you mean list?"),
        ("upload x", "randygpt: no such command: upload; did you mean publish?"),
        ("whoami", "randygpt: no such command: whoami; did you mean keys show?"),
        ("version", "randygpt: no such command: version; did you mean --version?"),
        ("help trian", "randygpt: no such command: trian; did you mean train?"),
        ("keys nwe", "randygpt keys: no such command: nwe; did you mean new?"),
        ("keys version", "randygpt keys: no such command: version"),
        ("xyzzy", "randygpt: no such command: xyzzy"),
        ("generate --modle x", "randygpt generate: no such option: --modle; did you mean --model?"),
        ("--vesrion", "randygpt train: no such option: --vesrion; did you mean --version?"),
        ("show --xyzzy", "randygpt show: no such option: --xyzzy"),
    ],
)
def test_mistyped_word_gets_a_suggestion(capsys: Capture, line: str, says: str) -> None:
    assert run(line.split()) == 2
    assert only_line(capsys.readouterr().err).partition(" (see")[0] == says


@pytest.mark.parametrize("words", ["", "fetch", "keys", "keys import", "pull"])
def test_help_command_shows_the_page(capsys: Capture, words: str) -> None:
    assert run(["help", *words.split()]) == 0
    page = capsys.readouterr().out
    assert run([*words.split(), "--help"]) == 0
    assert page == capsys.readouterr().out.replace("randygpt pull", "randygpt fetch")


def test_alias_uses_the_settings_of_its_command(
    at_home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (at_home / "c.toml").write_text('[fetch]\nmax-size = "1 mile"\n', encoding="utf-8")
    monkeypatch.setenv("RANDYGPT_CONFIG", str(at_home / "c.toml"))
    assert run(["pull", "x"]) == 2
    assert "c.toml:2: fetch.max-size" in only_line(capsys.readouterr().err)
    monkeypatch.delenv("RANDYGPT_CONFIG")
    monkeypatch.setenv("RANDYGPT_FETCH_MAX_SIZE", "2 miles")
    assert run(["pull", "x"]) == 2
    assert "randygpt fetch: RANDYGPT_FETCH_MAX_SIZE" in only_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("generate --top-p 0", "randygpt: --top-p must be above 0 and at most 1, not 0.0"),
        ("generate --temperature nan", "randygpt generate: Invalid value for '--temperature': nan is not a number"),
        ("trust add nonsense alice", "randygpt: not a public key: expected an npub or 64 hex digits"),
        ("fetch alice/mymodel", "randygpt: no file 'alice/mymodel', and no author 'alice' on your trust list"),
    ],
)
def test_error_is_in_the_users_terms(capsys: Capture, line: str, says: str) -> None:
    assert run(line.split()) == 2
    assert only_line(capsys.readouterr().err).partition(" (")[0] == says
