"""Lower-case hex, the text form of ids, keys and hashes in nostr (NIP-01). No I/O."""

import re

_HEX = re.compile("[0-9a-f]*")


def parse_hex(raw_text: object, size: int) -> bytes | None:
    """Decode `size` bytes of lower-case hex; None for anything else."""
    if not isinstance(raw_text, str) or len(raw_text) != 2 * size or not _HEX.fullmatch(raw_text):
        return None
    return bytes.fromhex(raw_text)
