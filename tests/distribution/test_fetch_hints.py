"""Relays that names and events mention, followed where the user's own lack something: over TLS, at a public address.

The public network is replaced below the code under test: its names and addresses lead to a relay on this machine.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.public_network import PRIVATE, PUBLIC, lead_to, server_context
from support.releases import checkpoint_bytes, clock, publish, tiny_sources, visible
from support.scripted_relay import ScriptedRelay
from websockets.asyncio.server import serve

from distribution.errors import NotFound
from distribution.events import HEAD_KIND, head_draft
from distribution.fetch import Fetched, Fetcher
from distribution.publish import Published
from distribution.store import Store
from distribution.trust import TrustPolicy
from relay_client.errors import TransportError
from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference, EventReference
from relay_client.nip65 import RELAY_LIST_KIND
from relay_client.pool import Pool

NAME, INSIDE = "relay.example", "inside.example"
HINT = f"wss://{NAME}"
GIVE_UP_S = 60  # a test that waits this long has failed


@pytest.fixture
async def hinted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedRelay]:
    """A relay that answers at HINT, on the default port."""
    context = server_context(tmp_path, [NAME, INSIDE], monkeypatch)
    relay = ScriptedRelay(url=HINT)
    async with serve(relay.handle, "127.0.0.1", 0, ssl=context, compression=None) as server:
        lead_to(monkeypatch, {NAME: PUBLIC, INSIDE: PRIVATE}, next(iter(server.sockets)).getsockname())
        yield relay


@pytest.fixture
async def published(scripted: ScriptedRelay, hinted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> Published:
    """A release that only the hinted relay has; nothing in it mentions a public relay."""
    done = await publish([scripted.url], tmp_path / "author", key, tiny_sources())
    hinted.events, scripted.events = scripted.events, {}
    return done


async def fetch(
    urls: list[str], home: Path, reference: EventReference | AddressReference, *, signer: SecretKey | None = None
) -> Fetched:
    async with asyncio.timeout(GIVE_UP_S), Pool(urls, signer=signer, hints=reference.relays) as pool:
        fetcher = Fetcher(pool=pool, store=Store(home), policy=TrustPolicy(), now=clock)
        return await fetcher.fetch(reference)


async def test_missing_chunks_are_fetched_from_hinted_relay(
    scripted: ScriptedRelay, hinted: ScriptedRelay, tmp_path: Path, published: Published
) -> None:
    fetched = await fetch([scripted.url], tmp_path, EventReference(id=published.release.id, relays=(HINT,)))
    assert fetched.release.file("checkpoint").local_path.read_bytes() == checkpoint_bytes()
    assert fetched.chunks.relays == {HINT: 5}
    assert (hinted.connections, scripted.requests != []) == (1, True)


async def test_fetch_without_relays_uses_the_hints(
    hinted: ScriptedRelay, tmp_path: Path, published: Published, key: SecretKey
) -> None:
    address = AddressReference(author=key.pubkey, name="demo", kind=HEAD_KIND, relays=(HINT,))
    assert (await fetch([], tmp_path, address)).release.id == published.release.id
    assert hinted.connections == 1


async def test_hints_are_unused_if_the_relays_have_everything(
    scripted: ScriptedRelay, hinted: ScriptedRelay, tmp_path: Path, published: Published
) -> None:
    scripted.events = dict(hinted.events)
    await fetch([scripted.url], tmp_path, EventReference(id=published.release.id, relays=(HINT,)))
    assert hinted.connections == 0


async def test_hinted_relay_is_not_authenticated_to(
    scripted: ScriptedRelay, hinted: ScriptedRelay, tmp_path: Path, published: Published, key: SecretKey
) -> None:
    hinted.members = [key.pubkey.hex()]
    hinted.refuse = lambda _wanted: "auth-required: who are you?"
    reference = EventReference(id=published.release.id, relays=(HINT,))
    with pytest.raises(NotFound, match="auth-required"):
        await fetch([scripted.url], tmp_path, reference, signer=key)
    assert (hinted.connections, hinted.identities) == (1, [])
    assert visible(tmp_path) == {}


async def test_hint_in_the_head_leads_to_its_release(
    scripted: ScriptedRelay, hinted: ScriptedRelay, tmp_path: Path, published: Published, key: SecretKey
) -> None:
    head = head_draft(published.release, hint=HINT, created_at=clock()).sign(key)
    scripted.events = {head.id.hex(): dict(head.to_dict())}
    address = AddressReference(author=key.pubkey, name="demo")
    assert (await fetch([scripted.url], tmp_path, address)).release.id == published.release.id
    assert hinted.connections == 1


async def test_name_is_found_at_write_relays_of_its_author(
    scripted: ScriptedRelay, hinted: ScriptedRelay, tmp_path: Path, published: Published, key: SecretKey
) -> None:
    def listing(signer: SecretKey, url: str, created_at: int) -> None:
        tags = (("r", url), ("r", "wss://read.example", "read"))
        event = EventDraft(kind=RELAY_LIST_KIND, created_at=created_at, tags=tags).sign(signer)
        scripted.events[event.id.hex()] = event.to_dict()

    listing(key, "wss://old.example", 1)
    listing(key, HINT, 2)
    listing(SecretKey.generate(), "wss://127.0.0.1", 3)
    address = AddressReference(author=key.pubkey, name="demo")
    assert (await fetch([scripted.url], tmp_path, address)).release.id == published.release.id
    assert hinted.connections == 1
    scripted.events |= hinted.events
    scripted.requests.clear()
    await fetch([scripted.url], tmp_path, address)
    assert hinted.connections == 1
    assert not any(RELAY_LIST_KIND in wanted.get("kinds", ()) for wanted in scripted.requests)


@pytest.mark.parametrize(
    "hint", ["ws://relay.example", "wss://127.0.0.1:{port}", "wss://localhost:{port}", f"wss://{INSIDE}", "nonsense"]
)
async def test_hint_to_a_private_address_is_not_followed(
    scripted: ScriptedRelay, hinted: ScriptedRelay, tmp_path: Path, published: Published, hint: str
) -> None:
    port = scripted.url.rpartition(":")[2]
    before = scripted.connections
    reference = EventReference(id=published.release.id, relays=(hint.format(port=port),))
    with pytest.raises(TransportError, match="no relay can be reached"):
        await fetch([], tmp_path, reference)
    assert (hinted.connections, scripted.connections) == (0, before)
    with pytest.raises(NotFound):
        await fetch([scripted.url], tmp_path, reference)
    assert visible(tmp_path) == {}
    assert hinted.connections == 0
