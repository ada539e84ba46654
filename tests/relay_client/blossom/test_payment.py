"""What servers ask to be paid, in words."""

import base64
import hashlib

import pytest

from relay_client.blossom.payment import describe_payment

# A map of i, a, u, s, m and t, the last with a transport, as NUT-18 has it.
MAP = bytes.fromhex("a6 6169 6462376139 6161 1903e8 6175 63736174 6173 f5 616d 81 6968747470733a2f2f6d")
MAP += bytes.fromhex("6174 81 a2 6174 646e6f7374 6167 81 82 616e 623137")


def cashu(request: bytes) -> dict[str, str]:
    return {"X-Cashu": "creqA" + base64.urlsafe_b64encode(request).decode()}


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"X-Lightning": "lnbc10u1p0x"}, " (Lightning, 1,000 sat)"),
        ({"X-Lightning": "LNTB25M1abc"}, " (Lightning, 2,500,000 sat)"),
        ({"X-Lightning": "free"}, " (Lightning)"),
        (cashu(MAP), " (Cashu, 1,000 sat)"),
        (cashu(bytes.fromhex("a2 6161 05 6175 61 1b")), " (Cashu, 5  )"),
        (cashu(bytes.fromhex("a1 6175 63736174")), " (Cashu)"),
        ({"X-Lightning": "lnbc10n1p", **cashu(MAP)}, " (Lightning, 1 sat or Cashu, 1,000 sat)"),
        ({}, ""),
    ],
)
def test_amount_is_told_in_words(headers: dict[str, str], words: str) -> None:
    assert describe_payment(headers) == words


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        MAP[:-1],
        b"\x81" * 1_000,
        b"\x9b" + b"\xff" * 8,
        b"\xbf",
        b"\x63\xff\xff\xff",
        hashlib.sha256(b"").digest() * 9,
    ],
    ids=["empty", "cut", "nested", "huge", "indefinite", "no text", "noise"],
)
def test_malformed_request_has_no_amount(request_: bytes) -> None:
    assert describe_payment(cashu(request_)) == " (Cashu)"
    assert describe_payment({"X-Cashu": "creqA!" + "A" * 5_000}) == " (Cashu)"
