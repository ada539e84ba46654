"""Secret keys, their encodings (NIP-19, NIP-49), and that the secret never leaks."""

import copy
import pickle

import coincurve
import nostr_sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynostr import bech32

from relay_client.errors import InvalidKey, InvalidReference
from relay_client.keys import SecretKey
from relay_client.nip19 import decode_pubkey, encode_npub, parse_reference

# Examples of NIP-19.
NPUB = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"
NPUB_HEX = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e"
NSEC = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5"
NSEC_HEX = "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa"

# Example of NIP-49; its password is "nostr".
NCRYPTSEC = (
    "ncryptsec1qgg9947rlpvqu76pj5ecreduf9jxhselq2nae2kghhvd5g7dgjtcxfqtd67p9m0w57lspw8gsq6yphnm8623nsl8xn9j4jdzz84z"
    "m3frztj3z7s35vpzmqf6ksu8r89qk5z2zxfmu5gv8th8wclt0h4p"
)
NCRYPTSEC_HEX = "3501454135014541350145413501453fefb02227e449e57cf4d3a3ce05378683"
# NIP-49's example of a password that needs NFKC normalization.
DECOMPOSED, COMPOSED = "\u212b\u2126\u1e9b\u0323", "\u00c5\u03a9\u1e69"

CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def name(prefix: str, data: bytes, encoding: bech32.Encoding = bech32.Encoding.BECH32) -> str:
    return str(bech32.bech32_encode(prefix, bech32.convertbits(data, 8, 5), encoding))


def test_npub_of_nip_19() -> None:
    assert encode_npub(bytes.fromhex(NPUB_HEX)) == NPUB
    assert decode_pubkey(NPUB) == bytes.fromhex(NPUB_HEX)


def test_nsec_of_nip_19() -> None:
    key = SecretKey.from_nsec(NSEC)
    assert key.reveal_nsec() == NSEC
    assert SecretKey(bytes.fromhex(NSEC_HEX)).reveal_nsec() == NSEC
    assert key.pubkey.hex() == nostr_sdk.Keys.parse(NSEC_HEX).public_key().to_hex()


def test_nsec_with_spaces_or_capitals_is_accepted() -> None:
    assert SecretKey.from_nsec(f" {NSEC}\n").reveal_nsec() == NSEC
    assert SecretKey.from_nsec(NSEC.upper()).reveal_nsec() == NSEC


def test_pubkey_in_hex_or_capitals_is_accepted() -> None:
    for text in (NPUB_HEX, NPUB_HEX.upper(), NPUB.upper()):
        assert decode_pubkey(text) == bytes.fromhex(NPUB_HEX)


@given(st.integers(1, CURVE_ORDER - 1))
@settings(max_examples=30)
def test_encodings_agree_with_nostr_sdk(number: int) -> None:
    key = SecretKey(number.to_bytes(32, "big"))
    theirs = nostr_sdk.Keys.parse(f"{number:064x}")
    assert key.reveal_nsec() == theirs.secret_key().to_bech32()
    assert encode_npub(key.pubkey) == theirs.public_key().to_bech32()
    assert SecretKey.from_nsec(key.reveal_nsec()).pubkey == key.pubkey == decode_pubkey(encode_npub(key.pubkey))


def test_ncryptsec_of_nip_49() -> None:
    key = SecretKey.from_ncryptsec(NCRYPTSEC, "nostr")
    assert key.reveal_nsec() == name("nsec", bytes.fromhex(NCRYPTSEC_HEX))


def test_encrypted_key_opens_with_its_password() -> None:
    locked = SecretKey.from_nsec(NSEC).reveal_ncryptsec(COMPOSED)
    assert locked.startswith("ncryptsec1")
    assert not shows_the_secret(locked)
    for password in (COMPOSED, DECOMPOSED):  # two encodings of one password
        assert SecretKey.from_ncryptsec(f" {locked}\n", password).reveal_nsec() == NSEC
    theirs = nostr_sdk.EncryptedSecretKey.from_bech32(locked).decrypt(COMPOSED)
    assert theirs.to_hex() == NSEC_HEX
    assert SecretKey.from_nsec(NSEC).reveal_ncryptsec(COMPOSED) != locked


def with_work(log_rounds: int) -> str:
    """Return the ncryptsec of NIP-49 with another scrypt log_n."""
    data = bytearray(bech32.convertbits(bech32.bech32_decode(NCRYPTSEC)[1], 5, 8, False) or b"")
    data[1] = log_rounds
    return name("ncryptsec", bytes(data))


@pytest.mark.parametrize(
    ("text", "password", "says"),
    [
        (NCRYPTSEC, "nostr ", "wrong password"),
        (NCRYPTSEC, "", "wrong password"),
        (NCRYPTSEC[:-1] + "q", "nostr", "not a valid ncryptsec"),
        (NCRYPTSEC[:-1] + "５", "nostr", "not a valid ncryptsec"),  # noqa: RUF001 (a full-width digit on purpose)
        (NCRYPTSEC[:-1] + "\udcff", "nostr", "not a valid ncryptsec"),
        (NSEC, "nostr", "not a valid ncryptsec"),
        ("", "nostr", "not a valid ncryptsec"),
        (with_work(19), "nostr", "more than 256 MiB"),
        (with_work(63), "nostr", "more than 256 MiB"),
        (with_work(255), "nostr", "more than 256 MiB"),
    ],
)
def test_invalid_ncryptsec_is_not_repeated(text: str, password: str, says: str) -> None:
    with pytest.raises(InvalidKey, match=says) as caught:
        SecretKey.from_ncryptsec(text, password)
    assert not text or text not in str(caught.value)
    assert caught.value.__cause__ is None


def test_generated_keys_differ() -> None:
    assert len({SecretKey.generate().reveal_nsec() for _ in range(8)}) == 8


def test_signature_verifies() -> None:
    key = SecretKey.from_nsec(NSEC)
    digest = bytes(range(32))
    assert coincurve.PublicKeyXOnly(key.pubkey).verify(key.sign(digest), digest)
    assert not coincurve.PublicKeyXOnly(key.pubkey).verify(key.sign(digest), bytes(32))


@pytest.mark.parametrize("number", [0, CURVE_ORDER, CURVE_ORDER + 1, 2**256 - 1])
def test_number_off_the_curve_is_no_key(number: int) -> None:
    secret = number.to_bytes(32, "big")
    with pytest.raises(InvalidKey, match="not a secp256k1"):
        SecretKey(secret)
    with pytest.raises(InvalidKey, match="not a secp256k1"):
        SecretKey.from_nsec(name("nsec", secret))


@pytest.mark.parametrize("secret", [b"", b"\1", b"\1" * 31, b"\1" * 33, bytes(32) + b"\1"])
def test_secret_key_has_32_bytes(secret: bytes) -> None:
    with pytest.raises(InvalidKey):
        SecretKey(secret)


BAD_NSECS = {
    "npub": NPUB,
    "note": name("note", bytes.fromhex(NSEC_HEX)),
    "npub of the secret": name("npub", bytes.fromhex(NSEC_HEX)),
    "hex": NSEC_HEX,
    "bech32m": name("nsec", bytes.fromhex(NSEC_HEX), bech32.Encoding.BECH32M),
    "31 bytes": name("nsec", bytes.fromhex(NSEC_HEX)[:31]),
    "33 bytes": name("nsec", bytes.fromhex(NSEC_HEX) + b"\1"),
    "no bytes": name("nsec", b""),
    "last character": NSEC[:-1] + "6",
    "first character": "nsec1w" + NSEC[6:],
    "two swapped": NSEC[:20] + NSEC[21] + NSEC[20] + NSEC[22:],
    "cut short": NSEC[:-1],
    "two cases": NSEC[:30] + NSEC[30:].upper(),
    "space inside": NSEC[:30] + " " + NSEC[30:],
    "not ASCII": NSEC[:-1] + "５",  # noqa: RUF001 (a full-width digit on purpose)
    "empty": "",
    "prefix only": "nsec1",
    "no separator": NSEC.replace("1", "", 1),
}


@pytest.mark.parametrize("text", BAD_NSECS.values(), ids=BAD_NSECS)
def test_invalid_nsec_is_not_repeated(text: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        SecretKey.from_nsec(text)
    assert str(caught.value) == "not a valid nsec"
    assert caught.value.__cause__ is None


BAD_PUBKEYS = {
    "nsec": NSEC,
    "note": name("note", bytes.fromhex(NPUB_HEX)),
    "nsec of the key": name("nsec", bytes.fromhex(NPUB_HEX)),
    "bech32m": name("npub", bytes.fromhex(NPUB_HEX), bech32.Encoding.BECH32M),
    "31 bytes": name("npub", bytes.fromhex(NPUB_HEX)[:31]),
    "33 bytes": name("npub", bytes.fromhex(NPUB_HEX) + b"\1"),
    "last character": NPUB[:-1] + "h",
    "63 digits": NPUB_HEX[:-1],
    "65 digits": NPUB_HEX + "0",
    "newline": NPUB_HEX + "\n",
    "not hex": NPUB_HEX[:-1] + "g",
    "compressed": "02" + NPUB_HEX,
    "empty": "",
    "off the curve": f"{5:064x}",
    "off the curve, as npub": name("npub", (5).to_bytes(32, "big")),
    "zero": "0" * 64,
}


@pytest.mark.parametrize("text", BAD_PUBKEYS.values(), ids=BAD_PUBKEYS)
def test_invalid_pubkey_is_refused(text: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        decode_pubkey(text)
    assert NSEC not in str(caught.value)


def shows_the_secret(text: str) -> bool:
    secret = bytes.fromhex(NSEC_HEX)
    return any(form in text for form in (NSEC, NSEC_HEX, NSEC_HEX.upper(), repr(secret)[2:-1], str(int(NSEC_HEX, 16))))


def test_printed_key_is_hidden() -> None:
    key = SecretKey.from_nsec(NSEC)
    for text in (str(key), repr(key), f"{key}", f"{key!r:>80}", "%s" % key, repr([key]), repr({"key": key})):  # noqa: UP031
        assert "SecretKey(***)" in text
        assert not shows_the_secret(text)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, *(lambda key, p=p: pickle.dumps(key, p) for p in range(6))])
def test_key_cannot_be_copied_or_pickled(way: object) -> None:
    key = SecretKey.from_nsec(NSEC)
    assert callable(way)
    with pytest.raises(TypeError, match="cannot be copied or pickled") as caught:
        way(key)
    assert not shows_the_secret(str(caught.value))


def test_key_has_no_dict() -> None:
    key = SecretKey.from_nsec(NSEC)
    assert not hasattr(key, "__dict__")
    with pytest.raises(TypeError):
        vars(key)


@pytest.mark.parametrize(
    "text",
    [
        NSEC,
        NSEC.upper(),
        f"nostr:{NSEC}",
        f" {NSEC} ",
        f"{NSEC}/demo",
        f"nostr: {NSEC}",
        f"'{NSEC}'",
        f"@{NSEC}",
        f"key={NSEC}",
    ],
)
def test_mistyped_nsec_is_not_repeated(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse_reference(text)
    assert NSEC not in str(caught.value).lower()


@pytest.mark.parametrize("text", [NSEC, NSEC.upper(), f"nostr:{NSEC}", f" {NSEC}\n"])
def test_nsec_as_reference_is_recognized(text: str) -> None:
    with pytest.raises(InvalidReference, match="SECRET"):
        parse_reference(text)
