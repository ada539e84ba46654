"""`randygpt keys`: make, take in, show and give out the key you publish with; and how every command gets at it."""

import getpass
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from randygpt.cli.output import Json, Quiet, check_file_path, emit, print_stderr
from randygpt.errors import CallerError
from randygpt.user import signing_key as key_sources
from randygpt.user.home import Home
from relay_client.keys import SecretKey, encode_npub

app = typer.Typer(
    help="The key you publish with.",
    epilog="Example: randygpt keys new",
    no_args_is_help=True,
    rich_markup_mode=None,
)

KeyFile = Annotated[
    Path | None, typer.Option("--key-file", metavar="FILE", help="Use the nsec or ncryptsec in this file.")
]
PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", metavar="FILE", help="What opens an ncryptsec; else the terminal is asked."),
]
Encrypt = Annotated[bool, typer.Option("--encrypt", help="Lock it with a password, as an ncryptsec (NIP-49).")]
NewPasswordFile = Annotated[
    Path | None, typer.Option("--new-password-file", metavar="FILE", help="Lock it with the password in this file.")
]


@app.command("new", epilog="Example: randygpt keys new")
def new(
    encrypt: Encrypt = False,
    new_password_file: NewPasswordFile = None,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Make a key, keep it where only you can read it, and print its public half (npub)."""
    key_sources.no_core_dumps()
    home, key = Home.from_environment(), SecretKey.generate()
    key_sources.keep(home, _written(key, new_password_file, encrypt=encrypt))
    _show(key, str(home.key_path), as_json=as_json)


@app.command("import", epilog="Example: randygpt keys import old-key.txt")
def import_(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="It holds an nsec or ncryptsec; by default stdin is read.")
    ] = None,
    encrypt: Encrypt = False,
    new_password_file: NewPasswordFile = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Make a key that you have the one you publish with. On a terminal it is asked for, and not shown.

    An ncryptsec stays as it is, and asks for its password each time.
    """
    key_sources.no_core_dumps()
    home = Home.from_environment()
    if file:
        raw = key_sources.read_secret(file)
    else:
        raw = (
            _ask("Secret key (nsec or ncryptsec): ")
            if sys.stdin.isatty()
            else sys.stdin.readline(key_sources.MAX_SECRET)
        )
    key = key_sources.unlock(raw, str(file or "stdin"), _opener(password_file))
    is_locked = key_sources.is_locked(raw)
    key_sources.keep(home, raw.strip() if is_locked else _written(key, new_password_file, encrypt=encrypt))
    _show(key, str(home.key_path), as_json=as_json)


@app.command("show", epilog="Example: randygpt keys show")
def show(
    key_file: KeyFile = None, password_file: PasswordFile = None, as_json: Json = False, _quiet: Quiet = False
) -> None:
    """Print the public half (npub) of your key."""
    found = _find(Home.from_environment(), key_file, password_file)
    _show(found.key, found.origin, as_json=as_json)


@app.command("export", epilog="Example: randygpt keys export --encrypt key-backup.txt")
def export(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A new file, which only you can read.")] = None,
    stdout: Annotated[bool, typer.Option("--stdout", help="Print the SECRET, for whoever looks on.")] = False,
    encrypt: Encrypt = False,
    new_password_file: NewPasswordFile = None,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Give out the secret key, as a backup or for another program: as an nsec, or locked with a password."""
    if bool(file) == stdout:
        raise CallerError("name a file for the secret key, or say --stdout")
    file = check_file_path(file) if file else None
    found = _find(Home.from_environment(), key_file, password_file)
    secret = _written(found.key, new_password_file, encrypt=encrypt)
    result = {"npub": encode_npub(found.key.pubkey), "file": str(file) if file else None}
    if file:
        key_sources.write_secret(file, secret, "there is something already")
        emit(as_json, result, str(file))
    else:
        emit(as_json, result | {"secret": secret}, secret)


def signing_key(home: Home, key_file: Path | None, password_file: Path | None) -> SecretKey:
    """The key to sign with, after its owner was told what they should know; raises what `key_sources.find` does."""
    return _find(home, key_file, password_file).key


def _find(home: Home, key_file: Path | None, password_file: Path | None) -> key_sources.FoundKey:
    found = key_sources.find(home, key_file, _opener(password_file))
    for warning in found.warnings:
        print_stderr(f"warning: {warning}")
    return found


def _show(key: SecretKey, origin: str, *, as_json: bool) -> None:
    npub = encode_npub(key.pubkey)
    emit(as_json, {"npub": npub, "pubkey": key.pubkey.hex(), "file": origin}, npub)


def _opener(file: Path | None) -> key_sources.Password:
    """How the password of a locked key is got."""
    return lambda origin: _password_in(file) if file else _ask(f"Password of {origin}: ")


def _written(key: SecretKey, new_password_file: Path | None, *, encrypt: bool) -> str:
    """The secret as it is to be written down."""
    if new_password_file:
        return key.reveal_ncryptsec(_password_in(new_password_file))
    if not encrypt:
        return key.reveal_nsec()
    password = _ask("New password: ")
    if _ask("Again: ") != password:
        raise CallerError("these are two passwords")
    return key.reveal_ncryptsec(password)


def _password_in(file: Path) -> str:
    password = key_sources.read_secret(file).rstrip("\r\n")
    if not password:
        raise CallerError(f"{file}: no password in it")
    return password


def _ask(words: str) -> str:
    """A secret typed at the terminal, which does not show it; raises CallerError if there is none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        answer = getpass.getpass(words)
    except OSError:
        raise CallerError("a password is needed, and there is no terminal to ask for it: name a file with it") from None
    except EOFError:
        answer = ""
    if not answer:
        raise CallerError("nothing was typed")
    return answer
