"""What a remote signer sends (NIP-46): addresses, responses, signed events."""

from fuzz.oracle import Target, same, text_of
from fuzz.signed import KEY, NOW

from relay_client.event import EventDraft
from relay_client.nip46.exchange import read_response
from relay_client.nip46.messages import NIP46_KIND, Response
from relay_client.nip46.remote_signer import check_signed
from relay_client.nip46.uri import BunkerUri

_DRAFT = EventDraft(kind=1, created_at=NOW)


def _uri(data: bytes) -> None:
    BunkerUri.parse(text_of(data))


def _response(data: bytes) -> None:
    response = Response.parse(text_of(data))
    same(response.auth_url, response.error if response.auth_url else "")


def _signed(data: bytes) -> None:
    check_signed(text_of(data), _DRAFT, KEY.pubkey)


def _payload(data: bytes) -> None:
    tags = (("p", KEY.pubkey.hex()),)
    event = EventDraft(kind=NIP46_KIND, created_at=NOW, tags=tags, content=text_of(data)).sign(KEY)
    read_response(KEY, event.to_dict())


TARGETS: dict[str, Target] = {
    "signer-uri": _uri,
    "signer-response": _response,
    "signer-event": _signed,
    "signer-payload": _payload,
}
