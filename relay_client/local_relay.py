"""Built-in relay, embedded from nostr-sdk. Does network I/O, and disk I/O when given a folder."""

import asyncio
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import nostr_sdk

from relay_client import durable
from relay_client.errors import CallerError
from relay_client.relay_limits import AddressRates, RelayLimits
from relay_client.websocket import open_websocket

HOST = "127.0.0.1"
_DATABASE = ("data.mdb", "lock.mdb")  # files of LMDB
# nostr-sdk's limit is for each connection; `RelayLimits` has one for each address.
_EVENTS_PER_MINUTE = 60_000_000
_MAX_REQUESTS = 500
_SHUTDOWN_CHECKS = 200
_SHUTDOWN_CHECK_S = 0.01
_OWN_ADDRESS = {"0.0.0.0": HOST, "::": "::1"}  # noqa: S104 (for connections to a relay that listens on all addresses)


class LocalRelay:
    """A relay of this machine; an async context manager. `url` is its address, seen from this machine.

    Accepts events of up to 65,536 bytes. Entering raises CallerError if the port or the folder cannot be used.

    Args:
        port: Port to listen on.
        folder: Where to keep events (LMDB); in memory if None.
        host: IP address to listen on.
        limits: What to accept; everything if None, which is for loopback addresses.
    """

    def __init__(
        self, *, port: int, folder: Path | None = None, host: str = HOST, limits: RelayLimits | None = None
    ) -> None:
        self._host = host
        self._port = port
        self._folder = folder
        self._limits = limits
        self._relay: nostr_sdk.LocalRelay | None = None
        own = _OWN_ADDRESS.get(host, host)
        self.url = f"ws://{f'[{own}]' if ':' in own else own}:{port}"

    async def __aenter__(self) -> Self:
        if error := await self._listening_error():
            raise CallerError(f"cannot listen on {self._host}:{self._port}: {error.strerror or error}")
        nostr_sdk.uniffi_set_event_loop(
            asyncio.get_running_loop()
        )  # else a database never answers; global, so set it always
        builder = nostr_sdk.LocalRelayBuilder().addr(self._host).port(self._port)
        limit = nostr_sdk.RateLimit(max_reqs=_MAX_REQUESTS, notes_per_minute=_EVENTS_PER_MINUTE)
        try:
            if self._folder is not None:
                durable.make_private_directory(self._folder)
                builder = builder.database(await nostr_sdk.NostrLmdb.open(str(self._folder)))
                for name in _DATABASE:
                    durable.protect(self._folder / name, keep=durable.SECRET)
            if self._limits:
                builder = builder.max_connections(self._limits.max_connections)
                builder = builder.write_policy(_WritePolicy(self._limits, self._folder))
            self._relay = builder.rate_limit(limit).build()
            await self._relay.run()
        except (nostr_sdk.NostrSdkError, OSError) as error:
            raise CallerError(f"cannot start the relay: {error}") from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._relay is None:
            return
        for _ in range(_SHUTDOWN_CHECKS):  # nostr-sdk shuts down in the background
            self._relay.shutdown()  # again: it misses the call while it accepts a connection
            if await self._listening_error() is None:
                return
            await asyncio.sleep(_SHUTDOWN_CHECK_S)

    async def check(self) -> None:
        """Connect to the relay once; raises TransportError if it accepts no connections."""
        await (await open_websocket(self.url)).close()

    async def _listening_error(self) -> OSError | None:
        """Return the error that listening on the port gives now, or None if the port is free."""
        try:
            server = await asyncio.start_server(lambda _reader, writer: writer.close(), self._host, self._port)
        except OSError as error:
            return error
        server.close()
        await server.wait_closed()
        return None


class _WritePolicy(nostr_sdk.WritePolicy):  # type: ignore[misc]  # nostr_sdk has no types
    """Applies `RelayLimits` to each event; nostr-sdk has verified its signature before."""

    def __init__(self, limits: RelayLimits, folder: Path | None) -> None:
        self._limits = limits
        self._rates = AddressRates(limits.events_per_minute)
        self._database = folder / "data.mdb" if folder else None
        self._accepted = 0  # bytes since the start, if the events are in memory

    async def admit_event(self, event: nostr_sdk.Event, socket_addr: str) -> nostr_sdk.WritePolicyResult:
        """Accept or refuse an event, after a delay if its address sends too fast."""
        address = socket_addr.rpartition(":")[0].strip("[]")
        await asyncio.sleep(self._rates.delay_s(address, time.monotonic()))
        size = len(event.as_json().encode())
        stored = self._database.stat().st_size if self._database else self._accepted
        if reason := self._limits.refusal(bytes.fromhex(event.author().to_hex()), size, stored):
            return nostr_sdk.WritePolicyResult.REJECT(reason)
        self._accepted += size
        return nostr_sdk.WritePolicyResult.ACCEPT()
