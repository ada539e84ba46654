"""`randygpt keys`: create, import, show and export the signing key; finding the signer for other commands."""

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli.flags import Json, Quiet, check_file_path
from randygpt.cli.output import emit, print_stderr
from randygpt.cli.usage import Group
from randygpt.errors import CallerError
from randygpt.terminal import escape_controls
from randygpt.user import signing_key as key_sources
from randygpt.user.home import Home
from randygpt.user.signer import FoundIdentity, KeyKind, find_identity, find_signer
from relay_client.event import EventSigner
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

if TYPE_CHECKING:
    from relay_client.nip46.pairing import Pairing

app = typer.Typer(
    cls=Group,
    help="Manage the key you publish with.",
    epilog="Example: randygpt keys new",
    no_args_is_help=True,
    rich_markup_mode=None,
)

KeyFile = Annotated[
    Path | None, typer.Option("--key-file", metavar="FILE", help="File with the nsec or ncryptsec to use.")
]
PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", metavar="FILE", help="File with the password of an ncryptsec; default: ask."),
]
Encrypt = Annotated[bool, typer.Option("--encrypt", help="Encrypt with a password, as an ncryptsec (NIP-49).")]
NewPasswordFile = Annotated[
    Path | None,
    typer.Option("--new-password-file", metavar="FILE", help="Encrypt with the password in this file."),
]


@app.command("new", epilog="Example: randygpt keys new")
def new(
    encrypt: Encrypt = False,
    new_password_file: NewPasswordFile = None,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Create a key and print the public key (npub).

    The secret key is stored in a file that only you can read.
    """
    key_sources.disable_core_dumps()
    home, key = Home.from_environment(), SecretKey.generate()
    key_sources.store(home, _encode(key, new_password_file, encrypt=encrypt), key.pubkey)
    _show(key.pubkey, str(home.key_path), _stored_kind(home), as_json=as_json)


@app.command("import", epilog="Example: randygpt keys import old-key.txt")
def import_(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="File with an nsec, ncryptsec or 64 hex digits; default: ask, or read stdin."
        ),
    ] = None,
    encrypt: Encrypt = False,
    new_password_file: NewPasswordFile = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Import an existing secret key.

    On a terminal, the key is asked for and not shown. An ncryptsec is stored as it is; commands that use it ask for its
    password.
    """
    key_sources.disable_core_dumps()
    home = Home.from_environment()
    if file and key_sources.is_secret(file.name):
        raise CallerError("SECRET key on the command line refused: put it in a file, or type it when you are asked")
    if file:
        raw = key_sources.read_secret(file)
    else:
        raw = (
            ask_secret("Secret key (nsec, ncryptsec or 64 hex digits): ")
            if sys.stdin.isatty()
            else sys.stdin.readline(key_sources.MAX_SECRET)
        )
    raw = raw.removeprefix("\ufeff")  # a byte order mark
    hex_key = key_sources.decode_hex_key(raw)
    key = hex_key or key_sources.decrypt(raw, str(file or "stdin"), _password_source(password_file))
    is_locked = key_sources.is_encrypted(raw)
    key_sources.store(home, raw.strip() if is_locked else _encode(key, new_password_file, encrypt=encrypt), key.pubkey)
    if hex_key and not quiet:
        print_stderr("64 hex digits taken as a secret key: check that this is your npub")
    _show(key.pubkey, str(home.key_path), _stored_kind(home), as_json=as_json)


@app.command("show", epilog="Example: randygpt keys show")
def show(
    key_file: KeyFile = None, password_file: PasswordFile = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Print your public key (npub), and say where the secret key is.

    Asks for the password of an encrypted key at most once; then it remembers the public key.
    """
    found = _find_identity(Home.from_environment(), key_file, password_file)
    if sys.stdout.isatty() and not (as_json or quiet):  # a script wants the npub alone
        print_stderr(_describe(found))
    _show(found.pubkey, found.origin, found.kind, as_json=as_json)


@app.command("export", epilog="Example: randygpt keys export --encrypt key-backup.txt")
def export(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="New file, which only you can read.")] = None,
    stdout: Annotated[bool, typer.Option("--stdout", help="Print the SECRET key on stdout instead.")] = False,
    encrypt: Encrypt = False,
    new_password_file: NewPasswordFile = None,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Export the secret key, as a backup or for another program.

    Writes an nsec, or an ncryptsec if a password is given.
    """
    if bool(file) == stdout:
        raise CallerError("name a FILE for the secret key, or pass --stdout, but not both")
    file = check_file_path(file) if file else None
    found = _find(Home.from_environment(), key_file, password_file)
    secret = _encode(found.key, new_password_file, encrypt=encrypt)
    result = {"npub": encode_npub(found.key.pubkey), "file": str(file) if file else None}
    if file:
        key_sources.write_secret(file, secret, "the file already exists")
        emit(as_json, result, str(file))
    else:
        emit(as_json, result | {"secret": secret}, secret)


def find_pubkey(home: Home, key_file: Path | None, password_file: Path | None) -> bytes:
    """Find the public key of the user's signer, and print its warnings; raises what `signing_key` raises."""
    return _find_identity(home, key_file, password_file).pubkey


def signing_key(home: Home, key_file: Path | None, password_file: Path | None) -> EventSigner:
    """Find the user's signer, and print its warnings; raises what `randygpt.user.signer.find_signer` raises."""
    found = find_signer(home, key_file, _password_source(password_file), _remote)
    _warn(found.warnings)
    return found.signer


def _remote(pairing: "Pairing") -> EventSigner:
    from randygpt.remote_signing import remote_signer

    return remote_signer(pairing, print_stderr)


def _find(home: Home, key_file: Path | None, password_file: Path | None) -> key_sources.FoundKey:
    found = key_sources.find(home, key_file, _password_source(password_file))
    _warn(found.warnings)
    return found


def _find_identity(home: Home, key_file: Path | None, password_file: Path | None) -> FoundIdentity:
    found = find_identity(home, key_file, _password_source(password_file))
    _warn(found.warnings)
    return found


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        print_stderr(f"warning: {warning}")


def _show(pubkey: bytes, origin: str, kind: KeyKind, *, as_json: bool) -> None:
    npub = encode_npub(pubkey)
    emit(as_json, {"npub": npub, "pubkey": pubkey.hex(), "file": origin, "kind": str(kind)}, npub)


def _stored_kind(home: Home) -> KeyKind:
    is_encrypted = key_sources.is_encrypted(key_sources.read_secret(home.key_path))
    return KeyKind.ENCRYPTED if is_encrypted else KeyKind.LOCAL


def _describe(found: FoundIdentity) -> str:
    """Return in words where the secret key is."""
    match found.kind:
        case KeyKind.LOCAL:
            return f"the secret key is in {found.origin}, not encrypted"
        case KeyKind.ENCRYPTED:
            return f"the secret key is in {found.origin}, encrypted with a password"
        case KeyKind.REMOTE:
            return f"the secret key is in your remote signer, which listens at {', '.join(found.relays)}"


def _password_source(file: Path | None) -> key_sources.Password:
    """Return a function that reads the password from a file, or asks for it."""
    return lambda origin: _password_in(file) if file else ask_secret(f"Password of {origin}: ")


def _encode(key: SecretKey, new_password_file: Path | None, *, encrypt: bool) -> str:
    """Return the secret key as an nsec, or as an ncryptsec if a password is given."""
    if new_password_file:
        return key.reveal_ncryptsec(_password_in(new_password_file))
    if not encrypt:
        return key.reveal_nsec()
    password = ask_secret("New password: ")
    if ask_secret("Repeat the password: ") != password:
        raise CallerError("passwords do not match")
    return key.reveal_ncryptsec(password)


def _password_in(file: Path) -> str:
    password = key_sources.read_secret(file).rstrip("\r\n")
    if not password:
        raise CallerError(f"{file}: the file has no password")
    return password


def ask_secret(prompt: str) -> str:
    """Ask for a secret on the terminal without echo; raises CallerError if there is no terminal or no answer."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        answer = getpass.getpass(escape_controls(prompt))
    except OSError:
        raise CallerError(
            "no terminal to ask for a password; use --password-file, or --new-password-file for a new one"
        ) from None
    except EOFError:
        answer = ""
    if not answer:
        raise CallerError("nothing was entered")
    return answer
