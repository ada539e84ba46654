"""NIP-05 addresses of keys: what is a name, and the lookup at its domain, honest and hostile."""

import asyncio
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.public_network import PRIVATE, PUBLIC, WebServer, lead_to, server_context, web_server

from relay_client.errors import CallerError, InvalidResponse, PeerError, TransportError, quote
from relay_client.keys import SecretKey
from relay_client.nip05 import Nip05Address, Nip05Key, parse_answer
from relay_client.nip05_lookup import look_up

PUBKEY = SecretKey(bytes.fromhex("11" * 32)).pubkey
ALICE = Nip05Address(name="alice", domain="web.example")
ANSWER = {"names": {"alice": PUBKEY.hex()}, "relays": {PUBKEY.hex(): ["wss://relay.example", 7]}}


@pytest.mark.parametrize(
    ("text", "name", "domain"),
    [
        ("alice@example.com", "alice", "example.com"),
        ("Alice@Example.COM", "alice", "example.com"),
        ("_@example.com", "_", "example.com"),
        ("example.com", "_", "example.com"),
        ("a.b-c_9@sub.example.com", "a.b-c_9", "sub.example.com"),
        ("alice@bücher.example", "alice", "xn--bcher-kva.example"),
    ],
)
def test_address_is_parsed(text: str, name: str, domain: str) -> None:
    found = Nip05Address.parse(text)
    assert (found.name, found.domain) == (name, domain)
    assert str(found.url) == f"https://{domain}/.well-known/nostr.json?name={name}"


def test_root_name_is_written_as_the_domain() -> None:
    assert [str(Nip05Address.parse(text)) for text in ("_@example.com", "alice@example.com")] == [
        "example.com",
        "alice@example.com",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@example.com",
        "alice",
        "alice@",
        "alice@example",
        "alice@localhost",
        "alice@printer.local",
        "alice@10.0.0.1",
        "alice@8.8.8.8",
        "alice@[::1]",
        "alice@example.com:8443",
        "alice@example.com/x",
        "alice@user@example.com",
        "al ice@example.com",
        "älice@example.com",
        "alice@example.com?x",
        "alice@example.com#x",
        "a" * 65 + "@example.com",
        "alice@\x1b[2J.com",
        "alice@\udcff.com",
    ],
)
def test_other_text_is_no_address(text: str) -> None:
    with pytest.raises(CallerError, match=re.escape(f"not a name such as alice@example.com: {quote(text)}")):
        Nip05Address.parse(text)


@given(st.binary(max_size=60) | st.sampled_from([b'{"names":[]}', b'{"names":{"alice":[]}}', b"[" * 5_000, b"\xff"]))
def test_arbitrary_answer_is_parsed_or_refused(raw_answer: bytes) -> None:
    with contextlib.suppress(InvalidResponse):
        assert parse_answer(raw_answer, ALICE) is None


# --- lookups


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """The server of web.example, at a public address, and of inside.example, at a private one."""
    context = server_context(tmp_path, ["web.example", "inside.example"], monkeypatch)
    with web_server(context) as (server, local):
        lead_to(monkeypatch, {"web.example": PUBLIC, "inside.example": PRIVATE, "other.example": PUBLIC}, local)
        server.answer(ANSWER)
        yield server


async def test_key_is_looked_up(web: WebServer) -> None:
    assert await look_up(ALICE) == Nip05Key(pubkey=PUBKEY, relays=("wss://relay.example",))
    assert web.asked == ["web.example/.well-known/nostr.json?name=alice"]


async def test_name_without_a_key_is_not_found(web: WebServer) -> None:
    web.answer({"names": {"bob": PUBKEY.hex()}})
    assert await look_up(ALICE) is None
    web.answer(b"<html>", status="404 Not Found")
    assert await look_up(ALICE) is None


@pytest.mark.parametrize(
    ("body", "status", "headers", "says"),
    [
        (b"", "302 Found", "Location: https://web.example/other\r\n", "redirects, which NIP-05 forbids"),
        (b"", "308 Permanent Redirect", "Location: http://127.0.0.1/\r\n", "redirects, which NIP-05 forbids"),
        (b'{"names":{"alice":"' + b"0" * 70_000, "200 OK", "", "exceeds 65,536 bytes"),
        (b"\x1f\x8b\x08", "200 OK", "Content-Encoding: gzip\r\n", "is not JSON"),
        (b"<html>", "200 OK", "", "is not JSON"),
        (b"[]", "200 OK", "", "has no names"),
        (b'{"names":{"alice":"npub1x"}}', "200 OK", "", "is not a key in hex"),
        (b'{"names":{"alice":"%s"}}' % (b"F" * 64), "200 OK", "", "is not a key in hex"),
        (b'{"names":{"alice":"%s"}}' % (b"f" * 64), "200 OK", "", "no point on the curve"),
    ],
)
async def test_wrong_answer_is_refused(web: WebServer, body: bytes, status: str, headers: str, says: str) -> None:
    web.answer(body, status=status, headers=headers)
    with pytest.raises(PeerError, match=says):
        await look_up(ALICE)
    assert len(web.asked) == 1


async def test_domain_at_a_private_address_is_not_asked(web: WebServer) -> None:
    with pytest.raises(TransportError, match="not a public address"):
        await look_up(Nip05Address(name="alice", domain="inside.example"))
    assert web.asked == []


async def test_domain_without_a_valid_certificate_is_not_asked(web: WebServer) -> None:
    with pytest.raises(TransportError, match=r"other\.example"):
        await look_up(Nip05Address(name="alice", domain="other.example"))
    assert web.asked == []


async def test_slow_domain_is_given_up(web: WebServer) -> None:
    web.stalls = True
    with pytest.raises(TransportError, match="no answer in time"):
        await look_up(ALICE, timeout_s=0.2)
    await asyncio.sleep(0.1)  # the TLS connection is closed once the server has answered its end


async def test_failing_domain_is_reported(web: WebServer) -> None:
    web.answer(b"", status="503 Service Unavailable")
    with pytest.raises(TransportError, match="answers with status 503"):
        await look_up(ALICE)


async def test_lookup_does_not_go_through_a_proxy(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(TransportError, match="through a proxy"):
        await look_up(ALICE)
    assert web.asked == []
