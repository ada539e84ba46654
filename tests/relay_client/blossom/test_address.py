"""Addresses of Blossom servers: origins only, and which of them a stranger may send us to."""

import pytest

from relay_client.blossom.address import (
    MAX_HINTED_SERVERS,
    blob_url,
    host_of,
    is_public_origin,
    normalize_server,
    redirect_target,
    usable_servers,
)
from relay_client.errors import CallerError, InvalidResponse

GOOD = "https://blobs.example"
HASH = bytes(range(32))
BLOB = HASH.hex()


@pytest.mark.parametrize(
    ("typed", "origin"),
    [
        ("https://Blobs.Example/", GOOD),
        ("https://blobs.example:443", GOOD),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://[0::1]:80/", "http://[::1]"),
    ],
)
def test_typed_server_becomes_an_origin(typed: str, origin: str) -> None:
    assert normalize_server(typed) == origin


@pytest.mark.parametrize(
    "typed", ["", "blobs.example", "wss://blobs.example", f"{GOOD}/path", f"{GOOD}?q", "https://user@blobs.example"]
)
def test_anything_else_is_no_server(typed: str) -> None:
    with pytest.raises(CallerError):
        normalize_server(typed)


@pytest.mark.parametrize(
    "raw_origin",
    [
        "http://blobs.example",
        f"{GOOD}/",
        "https://Blobs.example",
        "https://blobs.example:443",
        "https://localhost",
        "https://10.0.0.1",
        "https://[::ffff:127.0.0.1]",
        "https://nas.local",
        "https://user@blobs.example",
        "nonsense",
    ],
)
def test_origin_from_an_event_is_refused(raw_origin: str) -> None:
    assert not is_public_origin(raw_origin)


def test_hinted_servers_are_few_and_new() -> None:
    origins = [f"https://blobs{number}.example" for number in range(9)]
    found = usable_servers(["http://x.example", *origins, origins[1]], known={origins[0]})
    assert found == origins[1 : 1 + MAX_HINTED_SERVERS]


def test_blob_address_and_host() -> None:
    assert blob_url(GOOD, HASH) == f"{GOOD}/{BLOB}"
    assert host_of("https://blobs.example:8443") == "blobs.example"
    assert host_of("http://[::1]:3000") == "[::1]"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        (f"https://cdn.example/files/{BLOB}.bin?sig=1", f"https://cdn.example/files/{BLOB}.bin?sig=1"),
        (f"/files/{BLOB}", f"http://127.0.0.1:3000/files/{BLOB}"),
    ],
)
def test_redirect_to_the_same_blob_is_followed(location: str, target: str) -> None:
    assert redirect_target(location, url=f"http://127.0.0.1:3000/{BLOB}", sha256=HASH) == target


@pytest.mark.parametrize(
    "location",
    [
        f"https://cdn.example/{'00' * 32}",
        f"https://cdn.example/{BLOB}/{'00' * 32}",
        f"http://cdn.example/{BLOB}",
        f"https://127.0.0.1/{BLOB}",
        f"https://localhost/{BLOB}",
        f"http://127.0.0.1:9/{BLOB}",
        f"https://user@cdn.example/{BLOB}",
        "https://cdn.example/",
        "https://[::",
    ],
)
def test_other_redirects_are_refused(location: str) -> None:
    with pytest.raises(InvalidResponse):
        redirect_target(location, url=f"{GOOD}/{BLOB}", sha256=HASH)
