"""Canonical form of relay addresses."""

import pytest

from relay_client.errors import CallerError
from relay_client.url import normalize_url


@pytest.mark.parametrize(
    ("raw_url", "url"),
    [
        ("wss://relay.example", "wss://relay.example"),
        ("wss://relay.example/", "wss://relay.example"),
        ("wss://relay.example//", "wss://relay.example"),
        (" ws://127.0.0.1:4848\n", "ws://127.0.0.1:4848"),
        ("WSS://relay.example", "wss://relay.example"),
        ("wss://Relay.EXAMPLE/Path", "wss://relay.example/Path"),
        ("wss://relay.example/a/b/", "wss://relay.example/a/b"),
        ("ws://[::1]:7777/", "ws://[::1]:7777"),
        ("ws://localhost:1", "ws://localhost:1"),
        ("wss://relay.example:65535", "wss://relay.example:65535"),
    ],
)
def test_url_is_normalized(raw_url: str, url: str) -> None:
    assert normalize_url(raw_url) == url
    assert normalize_url(url) == url


@pytest.mark.parametrize(
    "raw_url",
    [
        "",
        " ",
        "relay.example",
        "//relay.example",
        "relay.example:443",
        "http://relay.example",
        "https://relay.example",
        "file:///etc/passwd",
        "wss:relay.example",
        "wss:/relay.example",
        "wss://",
        "wss:///path",
        "wss://:443",
        "wss://me@relay.example",
        "wss://me:word@relay.example",
        "wss://:word@relay.example",
        "wss://relay.example?x=1",
        "wss://relay.example/#x",
        "wss://relay.example:99999",
        "wss://relay.example:-1",
        "wss://relay.example:port",
        "wss://relay\x1b[2J.example",
        "wss://[::1",
        "wss://[relay.example]",
    ],
)
def test_invalid_relay_url_is_refused(raw_url: str) -> None:
    with pytest.raises(CallerError, match="not a relay's address"):
        normalize_url(raw_url)
