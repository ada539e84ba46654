"""Relay hints: which are safe to follow, and that the resolved address is checked before connecting."""

import asyncio
import socket
from urllib.parse import urlsplit

import pytest
from support.scripted_relay import ScriptedRelay

from relay_client.connection import Connection
from relay_client.errors import TransportError
from relay_client.hints import MAX_HINTS, is_public, usable_hints

GOOD = "wss://relay.example"


def test_public_hint_is_normalized_and_unique() -> None:
    assert usable_hints([GOOD, " WSS://Relay.Example/ ", "wss://8.8.8.8:7777/path"], known=[]) == [
        GOOD,
        "wss://8.8.8.8:7777/path",
    ]


def test_known_relay_is_no_hint() -> None:
    assert usable_hints([GOOD, "wss://other.example"], known={GOOD}) == ["wss://other.example"]


def test_hints_are_limited() -> None:
    hints = [f"wss://relay{number}.example" for number in range(100)]
    assert usable_hints(hints, known=[hints[0]]) == hints[1 : 1 + MAX_HINTS]


@pytest.mark.parametrize(
    "raw_hint",
    [
        "",
        "nonsense",
        "ws://relay.example",
        "https://relay.example",
        "wss://user:word@relay.example",
        "wss://[]@",
        "wss://localhost",
        "wss://router",
        "wss://router.local",
        "wss://db.internal.",
        "wss://x.onion",
        "wss://127.0.0.1",
        "wss://127.1",
        "wss://2130706433",
        "wss://10.1.2.3",
        "wss://192.168.0.1:443",
        "wss://169.254.169.254",
        "wss://100.64.0.1",
        "wss://0.0.0.0",
        "wss://224.0.0.1",
        "wss://[::1]",
        "wss://[::]",
        "wss://[fe80::1]",
        "wss://[fc00::1]",
        "wss://[fec0::1]",
        "wss://[ff02::1]",
        "wss://[::ffff:127.0.0.1]",
        "wss://[2002:7f00:1::]",
        "wss://[64:ff9b::7f00:1]",
    ],
)
def test_private_hint_is_not_followed(raw_hint: str) -> None:
    assert usable_hints([raw_hint, GOOD], known=[]) == [GOOD]


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2606:4700:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"],
)
def test_public_ip_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "64:ff9b:1::808:808",
        "64:ff9b:1:7f00:0:100::",
        "64:ff9b::a00:1",
        "::7f00:1",
        "::8.8.8.8",
        "::ffff:0:127.0.0.1",
        "::ffff:0:8.8.8.8",
        "5f00::1",
        "3fff::1",
        "3fff:fff:ffff::1",
        "2001:db8::1",
        "2001::1",
        "2001:0:808:808::1",
        "2001:20::1",
        "2002:a00:1::1",
        "100::1",
        "4000::1",
        "fd00::1",
        "192.88.99.1",
        "192.0.2.1",
        "198.18.0.1",
        "240.0.0.1",
        "255.255.255.255",
    ],
)
def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_host_name_is_no_ip_address() -> None:
    assert not is_public("relay.example")


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::1"], []], ids=str)
async def test_public_name_with_private_address_is_refused(
    scripted: ScriptedRelay, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    port = urlsplit(scripted.url).port
    asked = []

    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(TransportError, match="not a public address"):
        await Connection.open(f"wss://relay.example:{port}", only_public=True)
    assert asked == ["relay.example"]
    assert scripted.connections == 0


async def test_checked_address_is_the_connected_one(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["8.8.8.8", "127.0.0.1"])  # a second lookup would return another address
    connected = []

    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers) if "relay" in host else host, port))]

    async def connect(_loop: object, _socket: object, address: tuple[str, int]) -> None:
        connected.append(address)
        raise OSError("stop here")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(type(asyncio.get_running_loop()), "sock_connect", connect)
    with pytest.raises(TransportError, match="stop here"):
        await Connection.open("wss://relay.example", only_public=True)
    assert connected == [("8.8.8.8", 443)]


async def test_no_hint_is_followed_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    with pytest.raises(TransportError, match="proxy"):
        await Connection.open(GOOD, only_public=True)
