"""Nostr client: sign and verify events, and exchange them with many relays at once.

    from relay_client import EventDraft, Filter, Pool, SecretKey

    async with Pool(["wss://relay.example"]) as pool:
        event = EventDraft(kind=1, created_at=now, content="hello").sign(SecretKey.generate())
        await pool.publish([(event, pool.urls)])
        answers = await pool.query(Filter(ids=(event.id,), limit=1))  # pairs of relay and unverified event

`Event.parse` verifies what a relay sent. `Connection` is one relay, `Subscription` stays subscribed at several,
`LocalRelay` runs one on this machine. Everything that waits for the network is a coroutine, and has a time limit from
`Timeouts`. The package also owns what the layers above share: durable writes (`durable`) and the root of the error tree
(`errors`). It knows nothing of models.

Only the names in `__all__` are stable; they are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay_client.connection import Connection
    from relay_client.errors import (
        CallerError,
        InvalidEvent,
        InvalidKey,
        InvalidMessage,
        InvalidReference,
        PeerError,
        RandyGPTError,
        RelayRefused,
        RelayTimeout,
        StorageError,
        TransportError,
    )
    from relay_client.event import Event, EventDraft, EventSigner, HashedEvent, Signer
    from relay_client.filter import Filter
    from relay_client.keys import SecretKey
    from relay_client.local_relay import LocalRelay
    from relay_client.nip19 import (
        AddressReference,
        EventReference,
        decode_pubkey,
        encode_nevent,
        encode_npub,
        parse_reference,
    )
    from relay_client.pool import Pool
    from relay_client.relay_status import RelayReport, RelayStatus
    from relay_client.subscription import Subscription, SubscriptionStatus
    from relay_client.timeouts import Timeouts

__all__ = [
    "AddressReference",
    "CallerError",
    "Connection",
    "Event",
    "EventDraft",
    "EventReference",
    "EventSigner",
    "Filter",
    "HashedEvent",
    "InvalidEvent",
    "InvalidKey",
    "InvalidMessage",
    "InvalidReference",
    "LocalRelay",
    "PeerError",
    "Pool",
    "RandyGPTError",
    "RelayRefused",
    "RelayReport",
    "RelayStatus",
    "RelayTimeout",
    "SecretKey",
    "Signer",
    "StorageError",
    "Subscription",
    "SubscriptionStatus",
    "Timeouts",
    "TransportError",
    "decode_pubkey",
    "encode_nevent",
    "encode_npub",
    "parse_reference",
]

_MODULES = {
    "connection": ("Connection",),
    "event": ("Event", "EventDraft", "EventSigner", "HashedEvent", "Signer"),
    "filter": ("Filter",),
    "keys": ("SecretKey",),
    "local_relay": ("LocalRelay",),
    "nip19": (
        "AddressReference",
        "EventReference",
        "decode_pubkey",
        "encode_nevent",
        "encode_npub",
        "parse_reference",
    ),
    "pool": ("Pool",),
    "relay_status": ("RelayReport", "RelayStatus"),
    "subscription": ("Subscription", "SubscriptionStatus"),
    "timeouts": ("Timeouts",),
}
_OWNER = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # a type checker sees the imports above, and reports any other name

    def __getattr__(name: str) -> object:
        """Import a public name on first use."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_OWNER.get(name, 'errors')}"), name)
