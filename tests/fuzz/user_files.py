"""Files of the user: settings, lists of relays and servers, the pairing with a remote signer."""

from pathlib import Path

import typer.main
from fuzz.files import HOME, put
from fuzz.oracle import BrokenPromise, Target

from randygpt.cli.main import app
from randygpt.cli.settings import file_errors, parameters
from randygpt.user.config_files import line_number, parse, read_text
from randygpt.user.home import Home
from randygpt.user.pairing import read_pairing

_KNOWN = parameters(typer.main.get_group(app))


def _config(data: bytes) -> None:
    path = put("config.toml", data)
    errors = file_errors(path, _KNOWN)
    if any(error.line < 1 for error in errors):
        raise BrokenPromise(f"an error without a line: {errors}")
    text = read_text(path)
    for key in parse(path, text):
        line_number(text, key)


def _lists(data: bytes) -> None:
    put("relays.json", data)
    put("servers.json", data)
    home = Home(Path(HOME))
    try:
        home.relays()
    finally:
        home.servers()


def _pairing(data: bytes) -> None:
    put("keys/bunker", data)
    read_pairing(Home(Path(HOME)))


TARGETS: dict[str, Target] = {
    "config-toml": _config,
    "home-lists": _lists,
    "signer-pairing": _pairing,
}
