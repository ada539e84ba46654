"""`randygpt keys bunker` and `randygpt keys connect`: pair with a remote signer (NIP-46), which keeps the key."""

import asyncio
import secrets
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli.flags import Json, Quiet, Relays
from randygpt.cli.keys import ask_secret
from randygpt.cli.output import emit, print_stderr
from randygpt.cli.qr import print_qr
from randygpt.user.home import Home
from randygpt.user.signing_key import MAX_SECRET

if TYPE_CHECKING:
    from relay_client.nip46.pairing import Pairing

BUNKER_EXAMPLE = "Example: randygpt keys bunker 'bunker://…'"
CONNECT_EXAMPLE = "Example: randygpt keys connect"

_RELAYS = 3  # with more, the QR code may not fit 80 columns


def bunker(
    address: Annotated[
        str | None,
        typer.Argument(metavar="ADDRESS", help="The bunker:// address of the signer; default: ask, or read stdin."),
    ] = None,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Use the key in a remote signer (NIP-46), which shows a bunker:// address.

    The address is used once. What is stored, in a file that only you can read, is a key of this machine's own, with
    which it asks the signer for each signature.
    """
    from randygpt.remote_signing import PERMISSIONS
    from randygpt.user.pairing import prepare_pairing
    from relay_client.nip46.remote_signer import pair
    from relay_client.nip46.uri import BunkerUri

    home = Home.from_environment()
    prepare_pairing(home)
    if address is None:
        is_typed = sys.stdin.isatty()
        address = ask_secret("Address (bunker://…): ") if is_typed else sys.stdin.readline(MAX_SECRET)
    uri = BunkerUri.parse(address)
    pairing = asyncio.run(pair(uri, permissions=PERMISSIONS, on_waiting=_print_wait, on_auth_url=_print_auth_url))
    _finish(home, pairing, as_json=as_json)


def connect(relay: Relays = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Use the key in a remote signer (NIP-46), which scans a code from this terminal.

    Shows a nostrconnect:// address, also as a QR code, and waits up to five minutes for the signer at your relays.
    """
    from randygpt.remote_signing import CLIENT_NAME, PERMISSIONS
    from randygpt.user.pairing import prepare_pairing
    from relay_client.keys import SecretKey
    from relay_client.nip46.remote_signer import accept_pairing
    from relay_client.nip46.uri import connect_uri

    home = Home.from_environment()
    prepare_pairing(home)
    relays, key, secret = home.resolve_relays(relay)[:_RELAYS], SecretKey.generate(), secrets.token_hex(8)
    uri = connect_uri(key.pubkey, relays, secret=secret, permissions=PERMISSIONS, name=CLIENT_NAME)
    if not print_qr(uri) and sys.stderr.isatty() and not quiet:
        print_stderr("the QR code does not fit this terminal")
    print_stderr(f"Scan or paste this in your signer, and leave this running:\n{uri}")
    pairing = asyncio.run(
        accept_pairing(
            relays,
            key,
            secret,
            on_waiting=_print_wait,
            on_auth_url=_print_auth_url,
            on_failure=lambda reason: None if quiet else print_stderr(f"{reason}; trying again"),
        )
    )
    _finish(home, pairing, as_json=as_json)


def _print_wait(what: str) -> None:
    from randygpt.remote_signing import describe_wait

    print_stderr(describe_wait(what))


def _print_auth_url(url: str) -> None:
    from randygpt.remote_signing import describe_auth_url

    print_stderr(describe_auth_url(url))


def _finish(home: Home, pairing: "Pairing", *, as_json: bool) -> None:
    """Store a pairing, and print whose key it is."""
    from randygpt.user.pairing import store_pairing
    from relay_client.nip19 import encode_npub

    store_pairing(home, pairing)
    npub = encode_npub(pairing.user)
    result = {"npub": npub, "pubkey": pairing.user.hex(), "file": str(home.pairing_path), "kind": "remote"}
    emit(as_json, result | {"relays": list(pairing.relays)}, npub)
