"""A person's remote signer: pairing with it, and signatures from it, each verified. Does network I/O."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Self

import orjson

from relay_client.errors import InvalidEvent, InvalidSigned
from relay_client.event import Event, EventDraft, EventSigner
from relay_client.hexadecimal import parse_hex
from relay_client.keys import SecretKey, is_public_key
from relay_client.nip19 import encode_npub
from relay_client.nip46.client import OnAuthUrl, OnFailure, OnWaiting, SignerClient
from relay_client.nip46.messages import Method, Request, sign_request
from relay_client.nip46.pairing import Pairing
from relay_client.nip46.uri import BunkerUri
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts

_KEY_SIZE = 32  # bytes
_ACK = "ack"


async def pair(
    uri: BunkerUri,
    *,
    permissions: str,
    on_waiting: OnWaiting,
    on_auth_url: OnAuthUrl,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> Pairing:
    """Connect to the signer of a `bunker://` address, and learn whose key it has.

    Args:
        uri: The address.
        permissions: What this client will ask for, comma-separated (NIP-46).
        on_waiting: Called with what the user may have to approve.
        on_auth_url: Called with an address at which the user has to approve.
        timeouts: How long to wait for relays and for the signer.

    Raises:
        SignerRefused: The signer refuses, or does not answer.
        InvalidSigned: Its answer makes no sense.
    """
    key = SecretKey.generate()
    params = (uri.signer.hex(), uri.secret, permissions)
    async with SignerClient(
        uri.relays, key, uri.signer, on_waiting=on_waiting, on_auth_url=on_auth_url, timeouts=timeouts
    ) as client:
        result = await client.ask(
            lambda request_id: Request(id=request_id, method=Method.CONNECT, params=params), what="the connection"
        )
        if not result or result not in {_ACK, uri.secret}:
            raise InvalidSigned("your signer did not acknowledge the connection")
        return await _finish(client, key, uri.signer, uri.relays)


async def accept_pairing(
    relays: Sequence[str],
    client_key: SecretKey,
    secret: str,
    *,
    on_waiting: OnWaiting,
    on_auth_url: OnAuthUrl,
    on_failure: OnFailure,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> Pairing:
    """Wait for a signer that was shown our `nostrconnect://` address, and learn whose key it has; raises as `pair`."""
    async with SignerClient(
        relays,
        client_key,
        None,
        on_waiting=on_waiting,
        on_auth_url=on_auth_url,
        on_failure=on_failure,
        timeouts=timeouts,
    ) as client:
        signer = await client.accept(secret, limit_s=timeouts.pair_s)
        return await _finish(client, client_key, signer, tuple(relays))


async def _finish(client: SignerClient, key: SecretKey, signer: bytes, relays: tuple[str, ...]) -> Pairing:
    """Ask the signer for the user's public key."""
    result = await client.ask(
        lambda request_id: Request(id=request_id, method=Method.GET_PUBLIC_KEY), what="to name your public key"
    )
    user = parse_hex(result, _KEY_SIZE)
    if user is None or not is_public_key(user):
        raise InvalidSigned("your signer did not name a public key")
    return Pairing(signer=signer, relays=relays, client_key=key, user=user)


class RemoteSigner:
    """Signer that asks a remote one for each event; an `EventSigner`.

    Connects for each event, or once while it is open as an async context manager.

    Args:
        pairing: The pairing.
        describe: Says in a few words what an event is, for the user.
        on_waiting: Called with these words if the signer takes longer than a program would.
        on_auth_url: Called with an address at which the user has to approve.
        timeouts: How long to wait for relays and for the signer.
    """

    def __init__(
        self,
        pairing: Pairing,
        *,
        describe: Callable[[EventDraft], str],
        on_waiting: OnWaiting,
        on_auth_url: OnAuthUrl,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self.pairing = pairing
        self._describe = describe
        self._on_waiting = on_waiting
        self._on_auth_url = on_auth_url
        self._timeouts = timeouts
        self._client: SignerClient | None = None

    async def __aenter__(self) -> Self:
        self._client = await self._new_client().__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        client, self._client = self._client, None
        if client:
            await client.__aexit__(*error)

    def __repr__(self) -> str:
        return f"RemoteSigner({encode_npub(self.pubkey)})"

    @property
    def pubkey(self) -> bytes:
        """X-only public key of the user, 32 bytes."""
        return self.pairing.user

    async def sign_event(self, draft: EventDraft) -> Event:
        """Have an event signed, and verify that it is the draft; see `EventSigner`."""
        if self._client:
            return await self._sign(self._client, draft)
        async with self._new_client() as client:
            return await self._sign(client, draft)

    async def _sign(self, client: SignerClient, draft: EventDraft) -> Event:
        result = await client.ask(lambda request_id: sign_request(request_id, draft), what=self._describe(draft))
        return check_signed(result, draft, self.pubkey)

    def _new_client(self) -> SignerClient:
        kept = self.pairing
        return SignerClient(
            kept.relays,
            kept.client_key,
            kept.signer,
            on_waiting=self._on_waiting,
            on_auth_url=self._on_auth_url,
            timeouts=self._timeouts,
        )


def check_signed(raw_result: str, draft: EventDraft, user: bytes) -> Event:
    """Return the event in a signer's result; raises InvalidSigned unless it is the draft, signed by `user`."""
    try:
        event = Event.parse(orjson.loads(raw_result))
    except orjson.JSONDecodeError:
        raise InvalidSigned("your signer returned something that is not an event") from None
    except InvalidEvent as error:
        raise InvalidSigned(f"your signer returned an invalid event: {error}") from None
    if event.pubkey != user:
        raise InvalidSigned(
            f"your signer signed as {encode_npub(event.pubkey)}, not as {encode_npub(user)}: choose that key in it"
        )
    if event.id != draft.id_for(user):
        raise InvalidSigned("your signer changed the event before it signed it")
    return event


def kept_open(signer: EventSigner) -> contextlib.AbstractAsyncContextManager[object]:
    """Return a context in which a remote signer stays connected; it changes nothing for a local key."""
    return signer if isinstance(signer, RemoteSigner) else contextlib.nullcontext()
