"""Bearer tokens; names of hosts and origins."""

import pytest

from relay_client.errors import CallerError
from server.auth import canonical_host, canonical_origin, find_key
from server.config import ServerConfig

KEY = "s3cret"


@pytest.mark.parametrize(
    ("api_key", "header", "allowed"),
    [
        (None, None, False),
        (None, "", False),
        (None, "Bearer ", False),
        (KEY, f"Bearer {KEY}", True),
        (KEY, f"bearer {KEY}", True),
        (KEY, f"BEARER {KEY}", True),
        (KEY, f"Bearer   {KEY} ", True),
        (KEY, None, False),
        (KEY, "", False),
        (KEY, "Bearer", False),
        (KEY, "Bearer ", False),
        (KEY, KEY, False),
        (KEY, f" {KEY}", False),
        (KEY, f"Bearer{KEY}", False),
        (KEY, f"Basic {KEY}", False),
        (KEY, f"Bearer: {KEY}", False),
        (KEY, f"Bearer {KEY.upper()}", False),
        (KEY, f"Bearer {KEY[:-1]}", False),
        (KEY, f"Bearer {KEY}x", False),
        (KEY, f"Bearer {KEY} {KEY}", False),
        (KEY, "Bearer \xfc", False),
        (KEY, "Bearer \udcff", False),
        (KEY, "Bearer \x00", False),
        ("schlüssel", "Bearer schlüssel", True),
        ("schlüssel", "Bearer schlussel", False),
        ("what?", "Bearer what?", True),
        ("what?", "Bearer what\udcff", False),
    ],
)
def test_bearer_token(*, api_key: str | None, header: str | None, allowed: bool) -> None:
    found = find_key([] if api_key is None else [api_key], header)
    assert (found is not None) is allowed
    assert found in {None, 0}


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("LocalHost", "localhost"),
        (" box.example. ", "box.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("[::1]", "::1"),
        ("0:0:0::1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("my_box", "my_box"),
    ],
)
def test_host_name_is_canonical(name: str, host: str) -> None:
    assert canonical_host(name) == host


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("box.example:443", "box.example"),
        ("https://Box.example", "box.example"),
        ("https://box.example:8443/", "box.example"),
        ("*.example", None),
        ("*", None),
        ("", None),
        ("two names", None),
        ("a..b", None),
        ("[::1]:80", "::1"),
        ("box.example/", None),
    ],
)
def test_host_name_that_never_matches_is_refused(name: str, hint: str | None) -> None:
    with pytest.raises(CallerError, match=r"--allow-host .*: expected a host name or IP address, no port") as refused:
        ServerConfig(hosts=[name])
    assert str(refused.value).partition("did you mean ")[2].rstrip("?") == (hint or "")


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://App.Example", "https://app.example"),
        ("HTTPS://app.example:443", "https://app.example"),
        ("http://app.example:80/", "http://app.example"),
        ("http://app.example:8080", "http://app.example:8080"),
        ("https://app.example.", "https://app.example"),
        (" https://bücher.example ", "https://xn--bcher-kva.example"),
        ("http://[0::1]:3000", "http://[::1]:3000"),
        ("tauri://localhost", "tauri://localhost"),
        ("*", "*"),
        ("null", "null"),
    ],
)
def test_origin_is_canonical(given: str, origin: str) -> None:
    assert canonical_origin(given) == origin


@pytest.mark.parametrize(
    "given",
    [
        "app.example",
        "app.example:443",
        "https://",
        "https://*.example",
        "https://app.example/page",
        "https://app.example?a",
        "https://me@app.example",
        "https://app.example:x",
        "https://app.example:99999",
        "https://a b",
        "",
        "https://one.example,https://two.example",
    ],
)
def test_origin_that_never_matches_is_refused(given: str) -> None:
    with pytest.raises(CallerError, match=r"--allow-origin .*: expected an origin such as https://app.example"):
        ServerConfig(origins=[given])
