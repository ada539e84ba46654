"""`randygpt config`: check, show and document the settings."""

import json
import os
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from randygpt.cli.flags import Json, Quiet
from randygpt.cli.output import emit, print_stderr
from randygpt.cli.settings import Parameter, default_map, environment_errors, file_errors, parameters
from randygpt.cli.usage import Group
from randygpt.user.config_files import Key, Setting, config_paths, existing_paths, line_number, load_settings, read_text
from randygpt.user.home import GLOBAL_SETTINGS, RELAYS, Home, environment_name

_COMMON_KEYS = {"json", "quiet"}  # keys that every table accepts

app = typer.Typer(
    cls=Group,
    help="Check and show settings from TOML files and the environment.",
    epilog="Example: randygpt config check",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("check", epilog="Example: randygpt config check /etc/randygpt/config.toml")
def check(
    context: typer.Context,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Settings files to check instead of those in use.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check the settings files and the environment.

    Prints file, line and key of each error; the exit code is 2 if there is any.
    """
    known = _known(context)
    checked = files or existing_paths()
    wrong = [error for path in checked for error in file_errors(path, known)]
    variables = [] if files else [*environment_errors(known)]
    result = {
        "files": [str(path) for path in checked],
        "mistakes": [{"file": each.file, "line": each.line, "key": each.key, "reason": each.reason} for each in wrong],
        "variables": variables,
    }
    if as_json or wrong or variables:
        emit(as_json, result, "\n".join([*map(str, wrong), *variables]))
    elif not quiet:
        where = ", ".join(map(str, checked)) or f"no settings file ({' or '.join(map(str, config_paths()))})"
        print_stderr(f"no errors: {where}")
    if wrong or variables:
        raise typer.Exit(2)


@app.command("show", epilog="Example: randygpt config show --all")
def show(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Include settings that have their default.")] = False,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Print the settings in effect and where each is set.

    Flags on the command line override all of them.
    """
    known, settings = _known(context), load_settings()
    default_map(known)  # reports an invalid setting instead of showing it
    entries = [*_general(settings), *(_entry(parameter, settings) for parameter in known.values())]
    if not everything:
        entries = [entry for entry in entries if entry["from"] != "default" or "." not in str(entry["key"])]
    width = max(len(str(entry["key"])) for entry in entries)
    lines = [f"{entry['key']:<{width}}  {_toml(entry['value'])}  ({entry['from']})" for entry in entries]
    emit(as_json, {"settings": entries}, "\n".join(lines))


@app.command("example", epilog="Example: randygpt config example > config.toml")
def example(context: typer.Context, as_json: Json = False, _quiet: Quiet = False) -> None:
    """Print a settings file with every setting, commented out."""
    text = "\n".join(_example(_known(context)))
    emit(as_json, {"example": text}, text)


def _known(context: typer.Context) -> dict[Key, Parameter]:
    program: Any = context.find_root().command
    return parameters(program)


def _general(settings: Mapping[Key, Setting]) -> Iterator[dict[str, object]]:
    """Yield the settings that belong to no command, with their effective values."""
    home = Home.from_environment()
    values: dict[Key, object] = {key: str(home.folder) for key in GLOBAL_SETTINGS} | {RELAYS: home.relays()}
    for key, value in values.items():
        sources = [_source(key, environment_name(key), settings)]
        if key == RELAYS and not home.overrides_list and home.added_relays():
            sources = [*(each for each in sources if each != "default"), str(home.relays_path)]
        yield {"key": ".".join(key), "value": value, "from": ", ".join(sources)}


def _entry(parameter: Parameter, settings: Mapping[Key, Setting]) -> dict[str, object]:
    value = parameter.from_environment()
    if value is None:
        value = settings[parameter.key].value if parameter.key in settings else parameter.default
    shown = "***" if parameter.is_secret and value is not None else value
    source = _source(parameter.key, parameter.environment_name, settings)
    return {"key": ".".join(parameter.key), "value": str(shown) if isinstance(shown, Path) else shown, "from": source}


def _source(key: Key, name: str, settings: Mapping[Key, Setting]) -> str:
    if os.environ.get(name):
        return name
    if key not in settings:
        return "default"
    file = settings[key].file
    return f"{file}:{line_number(read_text(file), key)}"


def _example(known: Mapping[Key, Parameter]) -> Iterator[str]:
    yield from _comment(
        "Settings of randygpt. Everything here is commented out: remove the # before a #name to set it. Read, in this "
        f"order: {', then '.join(map(str, config_paths()))}. An environment variable overrides the files (for [serve] "
        "port: RANDYGPT_SERVE_PORT), and a flag overrides both. Every table accepts `json = true` and `quiet = true`."
    )
    for key, general in GLOBAL_SETTINGS.items():
        yield from ("", *_comment(general.help), f"#{key[0]} = {_toml(general.default)}")
    table = ""
    for key, parameter in known.items():
        if key[1] in _COMMON_KEYS or parameter.is_secret:
            continue
        if key[0] != table:
            table = key[0]
            yield from ("", "", f"[{table}]")
        yield from ("", *_comment(parameter.help), f"#{key[1]} = {_toml(parameter.example())}")


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _toml(value: object) -> str:
    """Return a value as TOML; a JSON string, number, boolean or list of them is valid TOML."""
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
