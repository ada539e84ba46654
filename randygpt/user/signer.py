"""The user's signer: a local key, or the remote signer that the home is paired with. Disk I/O; no network, no prompts.

The sources are those of `randygpt.user.signing_key`; the pairing comes after `keys/nsec`, and before the environment.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from randygpt.errors import CallerError
from randygpt.user import signing_key
from randygpt.user.home import Home
from randygpt.user.pairing import read_pairing
from randygpt.user.signing_key import Password
from relay_client.event import EventSigner
from relay_client.nip46.pairing import Pairing


class KeyKind(StrEnum):
    """Where the secret key is, for the user."""

    LOCAL = "local"
    ENCRYPTED = "encrypted"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSigner:
    """A signer, and warnings for its owner."""

    signer: EventSigner
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundIdentity:
    """A public key, where its secret key is, and warnings for its owner."""

    pubkey: bytes  # 32, x-only
    kind: KeyKind
    origin: str
    relays: tuple[str, ...] = ()  # of a remote signer
    warnings: tuple[str, ...] = ()


def find_signer(
    home: Home, file: Path | None, password: Password, remote: Callable[[Pairing], EventSigner]
) -> FoundSigner:
    """Return what signs the user's events.

    Args:
        home: The user's home.
        file: A key file to use instead of the home's.
        password: Called with the key's origin if the key is encrypted.
        remote: Makes the signer of a pairing.

    Raises what `signing_key.find` raises.
    """
    if is_remote(home, file):
        return FoundSigner(signer=remote(read_pairing(home)), warnings=signing_key.unused_variable(home.pairing_path))
    found = signing_key.find(home, file, password)
    return FoundSigner(signer=found.key, warnings=found.warnings)


def find_identity(home: Home, file: Path | None, password: Password) -> FoundIdentity:
    """Return the public key of what `find_signer` returns, and raise what it raises; see `signing_key.find_pubkey`."""
    if is_remote(home, file):
        pairing = read_pairing(home)
        return FoundIdentity(
            pubkey=pairing.user,
            kind=KeyKind.REMOTE,
            origin=str(home.pairing_path),
            relays=pairing.relays,
            warnings=signing_key.unused_variable(home.pairing_path),
        )
    found = signing_key.find_pubkey(home, file, password)
    kind = KeyKind.ENCRYPTED if found.is_encrypted else KeyKind.LOCAL
    return FoundIdentity(pubkey=found.pubkey, kind=kind, origin=found.origin, warnings=found.warnings)


def known_pubkey(home: Home) -> bytes | None:
    """Return the user's public key if finding it needs no password, else None."""
    try:
        return find_identity(home, None, signing_key.refuse_password).pubkey
    except (CallerError, OSError):
        return None


def is_remote(home: Home, file: Path | None) -> bool:
    """Return whether the key to use is that of the remote signer."""
    if file or signing_key.has_local_key(home):
        return False
    with contextlib.suppress(OSError):
        return home.pairing_path.exists()
    return False
