"""Check of a relay: what it says of itself, and whether it accepts an event of some size. Does network I/O."""

import secrets
from dataclasses import dataclass

import pybase64

from relay_client.errors import TransportError
from relay_client.event import EventDraft, Signer
from relay_client.nip11 import RelayInfo, fetch_relay_infos
from relay_client.pool import Pool
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts

_EPHEMERAL_KIND = 24181  # relays pass events of kinds 20000 to 29999 on, and do not store them (NIP-01)
_FRAME = len('["EVENT",]')  # bytes around an event


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayCheck:
    """Result of a check.

    `refusal` is None if nothing was sent, and empty if the event was accepted.
    """

    info: RelayInfo
    frame_size: int  # bytes of the message with the event
    refusal: str | None = None

    @property
    def fits(self) -> bool | None:
        """True if the relay says that it takes such messages, None if it does not say."""
        limit = self.info.max_message_length
        return None if limit is None else limit >= self.frame_size


async def check_relay(
    url: str, *, size: int, signer: Signer, now: int, send: bool, timeouts: Timeouts = DEFAULT_TIMEOUTS
) -> RelayCheck:
    """Check a relay: read its NIP-11 document and connect; with `send`, also send it one ephemeral event.

    Args:
        url: Address of the relay.
        size: Bytes of data in the event, encoded as base64.
        signer: Signs the event, and authenticates at the relay if it requires that.
        now: Seconds since 1970.
        send: Whether to send the event.
        timeouts: How long to wait.

    Raises:
        TransportError: The relay accepts no connection.
    """
    content = pybase64.b64encode_as_string(secrets.token_bytes(size))
    draft = EventDraft(kind=_EPHEMERAL_KIND, created_at=now, content=content)
    infos = await fetch_relay_infos([url], timeouts)
    info, refusal = infos[url], None
    async with Pool([url], signer=signer, timeouts=timeouts) as pool:
        if send:
            try:
                await pool.publish([(draft.sign(signer), [url])])
            except TransportError as error:
                refusal = str(error)
            report = pool.reports[url]
            refusal = refusal or ("" if report.accepted else report.reason or "no answer")
    return RelayCheck(info=info, frame_size=_FRAME + draft.signed_size, refusal=refusal)
