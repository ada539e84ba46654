"""Wanted events, shared out among relays: each is asked of one relay at a time. Does network I/O."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from relay_client.connection import Connection
from relay_client.errors import PeerError, TransportError
from relay_client.filter import Filter

IDS_PER_REQUEST = 50  # under the smallest result limit seen on a relay (100), and 3 MB of chunk events

# Gets the relay's address and an unverified event; says whether the event is the one wanted, verified and kept.
Offer = Callable[[str, Mapping[str, object]], bool]


async def collect(
    connections: Sequence[Connection],
    ids: Iterable[bytes],
    offer: Offer,
    on_failure: Callable[[str, TransportError | PeerError], None],
) -> None:
    """Ask for events by id, all relays at once, until each was taken or every relay has been asked for it.

    `on_failure` gets the address of a relay that failed, and why. Raises what `offer` raises.
    """
    hunt = _Hunt(ids, offer)

    async def ask(connection: Connection) -> None:
        try:
            await hunt.run(connection)
        except (TransportError, PeerError) as error:
            on_failure(connection.url, error)

    try:
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(ask(connection))
    except BaseExceptionGroup as group_error:  # what `offer` raised, as it raised it
        raise group_error.exceptions[0] from None


class _Hunt:
    """Shares a set of wanted event ids (in hex, in order) among relays."""

    def __init__(self, ids: Iterable[bytes], offer: Offer) -> None:
        self._free = dict.fromkeys(event_id.hex() for event_id in ids)
        self._claimed: set[str] = set()
        self._offer = offer
        self._changed = asyncio.Condition()

    async def run(self, connection: Connection) -> None:
        """Work until nothing is left that this relay has not been asked for; raises what its connection raises."""
        asked: set[str] = set()
        while True:
            async with self._changed:
                share = [event_id for event_id in self._free if event_id not in asked][:IDS_PER_REQUEST]
                if not share:
                    if not self._claimed - asked:
                        return
                    await self._changed.wait()  # another relay may give some of its share back
                    continue
                for event_id in share:
                    del self._free[event_id]
                self._claimed.update(share)
            asked.update(share)
            await self._ask(connection, share)

    async def _ask(self, connection: Connection, share: list[str]) -> None:
        left = dict.fromkeys(share)

        def on_event(raw_event: Mapping[str, object]) -> None:
            event_id = raw_event["id"]
            if event_id in left and self._offer(connection.url, raw_event):
                del left[str(event_id)]

        ids = tuple(bytes.fromhex(event_id) for event_id in share)
        try:
            await connection.query(Filter(ids=ids, limit=len(ids)), on_event)
        finally:
            async with self._changed:
                self._claimed.difference_update(share)
                self._free.update(left)
                self._changed.notify_all()
