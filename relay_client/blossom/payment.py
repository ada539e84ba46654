"""Amounts that a Blossom server asks for (BUD-07): Lightning invoices and Cashu payment requests. No I/O.

They are shown, and never paid.
"""

import base64
import re
from collections.abc import Mapping

from relay_client.messages import sanitize

_LIGHTNING = re.compile("ln(?:bc|tb|tbs|bcrt)([0-9]{1,12})([munp]?)1", re.IGNORECASE)  # of an invoice (BOLT-11)
_MILLISATOSHI = {"": 10**11, "m": 10**8, "u": 10**5, "n": 10**2, "p": 0.1}  # per unit of its amount
_CASHU = "creqA"  # of a payment request in CBOR (NUT-18)
_MAX_REQUEST = 4_096  # characters
_MAX_DEPTH = 8
_LONGEST_UNIT = 16


def describe_payment(headers: Mapping[str, str]) -> str:
    """Return the amounts and methods that a server asks for, in brackets; empty if it names none."""
    methods = []
    if "X-Lightning" in headers:
        found = _LIGHTNING.match(headers["X-Lightning"])
        satoshi = int(found[1]) * _MILLISATOSHI[found[2].lower()] / 1_000 if found else 0
        methods.append(f"Lightning, {satoshi:,.0f} sat" if found else "Lightning")
    if "X-Cashu" in headers:
        methods.append(f"Cashu{_cashu_amount(headers['X-Cashu'])}")
    return f" ({' or '.join(methods)})" if methods else ""


def _cashu_amount(text: str) -> str:
    """Return the amount and unit of a payment request (NUT-18, NUT-24) after a comma; empty if it has none."""
    if not text.startswith(_CASHU) or len(text) > _MAX_REQUEST:
        return ""
    encoded = text.removeprefix(_CASHU).rstrip("=")
    try:
        request = _CborReader(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))).read()
    except (ValueError, IndexError):
        return ""
    match request:
        case {"a": int(amount), "u": str(unit)} if not isinstance(amount, bool):
            return f", {amount:,} {sanitize(unit[:_LONGEST_UNIT])}"
    return ""


class _CborReader:
    """Reader of the few types that payment requests use (RFC 8949), without indefinite lengths.

    Args:
        data: CBOR.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self, depth: int = 0) -> object:
        """Return the next value; raises ValueError or IndexError if it is malformed or of another type."""
        if depth > _MAX_DEPTH:
            raise ValueError("too deep")
        major, argument = self._head()
        if major in {0, 1}:
            return argument if major == 0 else -1 - argument
        if major in {2, 3}:
            data = self._take(argument)
            return data if major == 2 else data.decode()  # noqa: PLR2004 (byte string)
        if major == 4:  # noqa: PLR2004 (array)
            return [self.read(depth + 1) for _ in range(argument)]
        if major == 5:  # noqa: PLR2004 (map)
            pairs = [(self.read(depth + 1), self.read(depth + 1)) for _ in range(argument)]
            return {key: value for key, value in pairs if isinstance(key, str)}
        return None  # a tag or a simple value

    def _head(self) -> tuple[int, int]:
        (first,) = self._take(1)
        major, short = first >> 5, first & 31
        if short < 24:  # noqa: PLR2004 (the argument itself)
            return major, short
        if short > 27:  # noqa: PLR2004 (of indefinite length)
            raise ValueError("indefinite length")
        return major, int.from_bytes(self._take(1 << (short - 24)), "big")

    def _take(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        if len(data) != size:
            raise ValueError("ends too early")
        self._at += size
        return data
