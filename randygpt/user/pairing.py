"""The remote signer that the user paired with: a file in the home that only its owner can read. Disk I/O.

`keys/bunker` is JSON: `signer` and `user` (public keys, hex), `relays`, and `client_key` (an nsec), with which this
machine asks. The secret of the signer's address is not kept.
"""

import json
import os
from typing import Any

from randygpt.errors import CallerError
from randygpt.user.home import Home
from randygpt.user.signing_key import MAX_SECRET, disable_core_dumps, prepare_keys_folder, read_secret, write_secret
from relay_client.errors import InvalidKey
from relay_client.hexadecimal import parse_hex
from relay_client.keys import SecretKey
from relay_client.nip46.pairing import Pairing
from relay_client.url import normalize_url

_KEY_SIZE = 32  # bytes


def read_pairing(home: Home) -> Pairing:
    """Return the pairing; raises CallerError if the file is damaged or others can read it, and OSError."""
    disable_core_dumps()
    path = home.pairing_path
    text = read_secret(path)
    try:
        raw: Any = json.loads(text)
        return Pairing(
            signer=parse_hex(raw["signer"], _KEY_SIZE) or b"",
            user=parse_hex(raw["user"], _KEY_SIZE) or b"",
            relays=tuple(map(normalize_url, raw["relays"])),
            client_key=SecretKey.from_nsec(raw["client_key"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidKey, CallerError):
        raise CallerError(
            f"{path}: damaged; delete the file, and pair your signer again with randygpt keys bunker"
        ) from None


def prepare_pairing(home: Home) -> None:
    """Prepare the home for a pairing, whose secret is valid once; raises CallerError if it has a key, and OSError."""
    disable_core_dumps()
    for path in (home.key_path, home.pairing_path):
        if os.path.lexists(path):
            raise CallerError(f"a key exists already: {path}")
    prepare_keys_folder(home)


def store_pairing(home: Home, pairing: Pairing) -> None:
    """Store a pairing as the user's key; raises CallerError if the home has a key, and OSError."""
    prepare_pairing(home)
    fields = {
        "signer": pairing.signer.hex(),
        "user": pairing.user.hex(),
        "relays": list(pairing.relays),
        "client_key": pairing.client_key.reveal_nsec(),
    }
    text = json.dumps(fields, indent=1)
    if len(text.encode()) >= MAX_SECRET:
        raise CallerError("the addresses of the signer's relays are too long")
    write_secret(home.pairing_path, text, "a key exists already")
