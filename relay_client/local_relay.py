"""Local relay on 127.0.0.1, embedded from nostr-sdk. Does network I/O, and disk I/O when given a folder."""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

import nostr_sdk

from relay_client import durable
from relay_client.errors import CallerError
from relay_client.websocket import open_websocket

HOST = "127.0.0.1"
# nostr-sdk's default (60 events a minute) is for public relays; this one listens on the loopback address only.
_EVENTS_PER_MINUTE = 60_000_000
_MAX_REQUESTS = 500
_SHUTDOWN_CHECKS = 200
_SHUTDOWN_CHECK_S = 0.01


class LocalRelay:
    """A relay for this machine; an async context manager. `url` is its address.

    Accepts events of up to 65,536 bytes. Entering raises CallerError if the port or the folder cannot be used.

    Args:
        port: Port to listen on.
        folder: Where to keep events (LMDB); in memory if None.
    """

    def __init__(self, *, port: int, folder: Path | None = None) -> None:
        self._port = port
        self._folder = folder
        self._relay: nostr_sdk.LocalRelay | None = None
        self.url = f"ws://{HOST}:{port}"

    async def __aenter__(self) -> Self:
        if error := await self._listening_error():
            raise CallerError(f"cannot listen on {HOST}:{self._port}: {error.strerror or error}")
        nostr_sdk.uniffi_set_event_loop(
            asyncio.get_running_loop()
        )  # else a database never answers; global, so set it always
        builder = nostr_sdk.LocalRelayBuilder().addr(HOST).port(self._port)
        limit = nostr_sdk.RateLimit(max_reqs=_MAX_REQUESTS, notes_per_minute=_EVENTS_PER_MINUTE)
        try:
            if self._folder is not None:
                durable.make_directory(self._folder)
                builder = builder.database(await nostr_sdk.NostrLmdb.open(str(self._folder)))
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
        self._relay.shutdown()
        for _ in range(_SHUTDOWN_CHECKS):  # nostr-sdk shuts down in the background
            if await self._listening_error() is None:
                return
            await asyncio.sleep(_SHUTDOWN_CHECK_S)

    async def check(self) -> None:
        """Connect to the relay once; raises TransportError if it accepts no connections."""
        await (await open_websocket(self.url)).close()

    async def _listening_error(self) -> OSError | None:
        """Return the error that listening on the port gives now, or None if the port is free."""
        try:
            server = await asyncio.start_server(lambda _reader, writer: writer.close(), HOST, self._port)
        except OSError as error:
            return error
        server.close()
        await server.wait_closed()
        return None
