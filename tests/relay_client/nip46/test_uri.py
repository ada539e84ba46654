"""Addresses for pairing with a remote signer."""

from urllib.parse import parse_qs, urlsplit

import pytest

from relay_client.errors import CallerError
from relay_client.keys import SecretKey
from relay_client.nip46.uri import BunkerUri, connect_uri

KEY = SecretKey(bytes.fromhex("11" * 32)).pubkey
SECRET = "5ecret-of-the-signer"  # noqa: S105 (planted)


def test_bunker_address_is_parsed() -> None:
    text = f" bunker://{KEY.hex()}?relay=wss%3A%2F%2FA.example%2F&relay=wss://a.example&relay=wss://b.example&secret={SECRET}\n"
    uri = BunkerUri.parse(text)
    assert uri == BunkerUri(signer=KEY, relays=("wss://a.example", "wss://b.example"), secret=SECRET)
    assert SECRET not in repr(uri)


@pytest.mark.parametrize(
    "text",
    [
        "",
        SECRET,
        f"bunker://{KEY.hex()[2:]}?relay=wss://a.example&secret={SECRET}",
        f"bunker://{'ff' * 32}?relay=wss://a.example&secret={SECRET}",  # not on the curve
        f"bunker://{'zz' * 32}?relay=wss://a.example&secret={SECRET}",
        f"nostrconnect://{KEY.hex()}?relay=wss://a.example&secret={SECRET}",
        f"bunker://{KEY.hex()}?secret={SECRET}",
        f"bunker://{KEY.hex()}?relay=https://a.example&secret={SECRET}",
        f"bunker://{KEY.hex()}?{'&'.join(f'relay=wss://{n}.example' for n in range(9))}&secret={SECRET}",
        f"bunker://[{KEY.hex()}?relay=wss://a.example&secret={SECRET}",
        f"bunker://{KEY.hex()}?relay=wss://a.example&secret={SECRET}{'x' * 5_000}",
    ],
)
def test_refused_address_is_not_repeated(text: str) -> None:
    with pytest.raises(CallerError) as caught:
        BunkerUri.parse(text)
    assert SECRET not in str(caught.value)


def test_connect_address_names_what_is_asked_for() -> None:
    perms = "sign_event:1,sign_event:5"
    uri = connect_uri(KEY, ["wss://a.example/x?y=1&z"], secret=SECRET, permissions=perms, name="a b")
    parts = urlsplit(uri)
    assert (parts.scheme, parts.netloc) == ("nostrconnect", KEY.hex())
    assert parse_qs(parts.query) == {
        "relay": ["wss://a.example/x?y=1&z"],
        "secret": [SECRET],
        "perms": [perms],
        "name": ["a b"],
    }
