"""Addresses for pairing with a remote signer (NIP-46): `bunker://` of a signer, `nostrconnect://` of a client. No I/O.

Errors never repeat an address: it has a secret in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl, quote, urlsplit

from relay_client.errors import CallerError
from relay_client.hexadecimal import parse_hex
from relay_client.keys import is_public_key
from relay_client.url import normalize_url

MAX_RELAYS = 8
_KEY_SIZE = 32  # bytes
_MAX_URI = 4_096  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class BunkerUri:
    """The address that a remote signer shows: where it listens, and a secret for the first connection."""

    signer: bytes  # x-only public key of the signer; the user's may be another
    relays: tuple[str, ...]  # canonical URLs
    secret: str = field(default="", repr=False)  # empty: none

    def __post_init__(self) -> None:
        if not is_public_key(self.signer) or not 0 < len(self.relays) <= MAX_RELAYS:
            raise CallerError(f"a signer's address needs its public key and 1 to {MAX_RELAYS} relays")

    @classmethod
    def parse(cls, raw_uri: str) -> Self:
        """Parse `bunker://<public key>?relay=…&secret=…`; raises CallerError."""
        text = raw_uri.strip()
        try:
            parts = urlsplit(text if len(text) <= _MAX_URI else "")
        except ValueError:
            parts = urlsplit("")
        signer = parse_hex(parts.netloc.lower(), _KEY_SIZE)
        if parts.scheme != "bunker" or signer is None:
            raise CallerError("expected bunker:// with the signer's public key in hex, as the signer shows it")
        query = parse_qsl(parts.query)
        relays = tuple(dict.fromkeys(normalize_url(value) for name, value in query if name == "relay"))
        secret = next((value for name, value in query if name == "secret"), "")
        return cls(signer=signer, relays=relays, secret=secret)


def connect_uri(client: bytes, relays: Sequence[str], *, secret: str, permissions: str, name: str) -> str:
    """Return the `nostrconnect://` address that a signer scans.

    Args:
        client: X-only public key of this client, 32 bytes.
        relays: URLs on which the client listens.
        secret: The signer has to repeat it.
        permissions: Comma-separated, such as `sign_event:1`.
        name: Name of this program, for the signer's user.
    """
    query = [*(f"relay={quote(url, safe='')}" for url in relays), f"secret={quote(secret)}"]
    query += [f"perms={quote(permissions, safe=':,')}", f"name={quote(name)}"]
    return f"nostrconnect://{client.hex()}?{'&'.join(query)}"
