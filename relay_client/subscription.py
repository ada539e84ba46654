"""A live subscription on several relays: what they store, and from then on whatever comes. Does network I/O.

Each relay is on its own: one that is down, silent or talks nonsense is tried again, later and later, and the rest do
not notice.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from relay_client.backoff import LONGEST_S, Backoff
from relay_client.connection import ANSWER_S, dial
from relay_client.errors import InvalidMessage, PeerError, TransportError
from relay_client.event import Signer
from relay_client.filter import Filter
from relay_client.messages import (
    AuthMessage,
    ClosedMessage,
    EoseMessage,
    EventMessage,
    OkMessage,
    encode_auth,
    encode_req,
    parse_relay_message,
    prefix,
)
from relay_client.session import auth_event

MAX_USELESS = 1_000  # frames in one connection that are of no use
_SUBSCRIPTION = "live"  # the only one on its connection

# Gets the relay's address and an unverified event; says whether it was one that was asked for.
OnEvent = Callable[[str, Mapping[str, object]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionStatus:
    """How it stands with one relay."""

    connected: bool = False  # it has sent what it stores, and tells what is new
    reason: str = ""  # why not


class Subscription:
    """Subscribes at every relay and stays; `links` says how it stands with each.

    A relay that insists on knowing who is there is told, if there is a `signer`.

    `on_event` gets whatever comes, unverified and with repeats; `on_change` gets a link that has changed.
    """

    def __init__(
        self,
        urls: Sequence[str],
        wanted: Filter,
        on_event: OnEvent,
        *,
        signer: Signer | None = None,
        on_change: Callable[[SubscriptionStatus], None] = lambda _link: None,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self.statuses = dict.fromkeys(urls, SubscriptionStatus())
        self._wanted = wanted
        self._on_event = on_event
        self._signer = signer
        self._on_change = on_change
        self._backoff = backoff

    async def run(self) -> None:
        """Subscription until cancelled."""
        async with asyncio.TaskGroup() as group:
            for url in self.statuses:
                group.create_task(self._keep(url), name=f"watch {url}")

    async def _keep(self, url: str) -> None:
        backoff, clock = self._backoff(), asyncio.get_running_loop().time
        while True:
            began = clock()
            try:
                await self._connect(url)
            except (TransportError, PeerError) as error:
                self._set(url, SubscriptionStatus(reason=str(error)))
            if clock() - began > LONGEST_S:  # it worked for a while; one that closes at once is not hurried
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _connect(self, url: str) -> None:
        """One connection, to its end; always raises TransportError or PeerError."""
        socket = await dial(url)
        try:
            await socket.send(encode_req(_SUBSCRIPTION, self._wanted), text=True)
            await self._listen(url, socket)
        except ConnectionClosed as error:
            raise TransportError(f"{url}: {error}") from None
        except TimeoutError:
            raise TransportError(f"{url}: no answer for {ANSWER_S:.0f} s") from None
        except PeerError as error:
            raise type(error)(f"{url}: {error}") from None
        finally:
            await socket.close()

    async def _listen(self, url: str, socket: ClientConnection) -> None:
        useless, heard, challenge, identity = 0, set[str](), "", b""
        while True:
            waits_for_stored = not self.statuses[url].connected
            async with asyncio.timeout(ANSWER_S if waits_for_stored else None):  # then pings tell whether it lives
                frame = await socket.recv(decode=False)
            match parse_relay_message(frame):
                case EventMessage(subscription=name, raw_event=raw_event) if name == _SUBSCRIPTION:
                    event_id = str(raw_event.get("id"))
                    useless += event_id in heard or not self._on_event(url, raw_event)
                    heard.add(event_id)
                case EoseMessage(subscription=name) if name == _SUBSCRIPTION and waits_for_stored:
                    self._set(url, SubscriptionStatus(connected=True))
                case AuthMessage(challenge=challenge):
                    useless += 1
                case ClosedMessage(subscription=name, text=text) if name == _SUBSCRIPTION and (
                    prefix(text) == "auth-required" and challenge and self._signer and not identity
                ):
                    event = auth_event(self._signer, challenge=challenge, url=url, now=int(time.time()))
                    identity = event.id
                    await socket.send(encode_auth(event), text=True)
                case OkMessage(event_id=event_id, accepted=accepted, text=text) if event_id == identity:
                    if not accepted:
                        raise TransportError(f"{url}: does not accept this key: {text}")
                    await socket.send(encode_req(_SUBSCRIPTION, self._wanted), text=True)
                case ClosedMessage(subscription=name, text=text) if name == _SUBSCRIPTION:
                    raise TransportError(f"{url}: ended the subscription{': ' if text else ''}{text}")
                case _:
                    useless += 1
            if useless > MAX_USELESS:
                raise InvalidMessage(f"over {MAX_USELESS} messages of no use")

    def _set(self, url: str, link: SubscriptionStatus) -> None:
        if link != self.statuses[url]:
            self.statuses[url] = link
            self._on_change(link)
