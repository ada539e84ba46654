"""State machine of one request to a remote signer: events out, its answer in. No I/O; gets the time as an argument.

The request may be sent again, over any relay, under the same id: a signer answers it twice at worst, and signing the
same event twice gives the same id. Only the signer's own answer to this very request counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from relay_client.errors import InvalidEvent, InvalidMessage
from relay_client.event import Event, EventDraft, Tags
from relay_client.keys import SecretKey
from relay_client.nip46.messages import NIP46_KIND, Request, Response

_MAX_CONTENT = 131_072  # characters of an encrypted response; NIP-44 makes at most 87,472


def request_event(client_key: SecretKey, signer: bytes, request: Request, *, created_at: int) -> Event:
    """Return the event that carries a request; a new event each time, so that relays pass it on again."""
    content = client_key.encrypt(signer, request.encode())
    return EventDraft(kind=NIP46_KIND, created_at=created_at, tags=_to(signer), content=content).sign(client_key)


def read_response(client_key: SecretKey, raw_event: Mapping[str, object]) -> tuple[bytes, Response]:
    """Return the verified author of an event to this client, and the response in it.

    Raises:
        InvalidEvent, InvalidMessage: It is none.
    """
    event = Event.parse(raw_event)
    if event.kind != NIP46_KIND or client_key.pubkey.hex() not in event.tag_values("p"):
        raise InvalidMessage("not a message of a signer to this client")
    if len(event.content) > _MAX_CONTENT:
        raise InvalidMessage("a response of the signer is too long")
    return event.pubkey, Response.parse(client_key.decrypt(event.pubkey, event.content))


def _to(pubkey: bytes) -> Tags:
    return (("p", pubkey.hex()),)


@dataclass(slots=True, kw_only=True)
class Exchange:
    """A request, and what the signer answered so far.

    Args:
        client_key: Key of this client.
        signer: X-only public key of the signer, 32 bytes.
        request: The request.
        deadline: Time at which waiting ends.
        patience_s: Seconds that are added once if the user has to approve at an address.
    """

    client_key: SecretKey
    signer: bytes
    request: Request
    deadline: float
    patience_s: float
    response: Response | None = field(default=None, init=False)  # the answer
    auth_url: str = field(default="", init=False)  # where the user has to approve first; empty: nowhere

    @property
    def wants_sending(self) -> bool:
        """True until the signer has reacted."""
        return self.response is None and not self.auth_url

    def event(self, *, created_at: int) -> Event:
        """Return an event that carries the request."""
        return request_event(self.client_key, self.signer, self.request, created_at=created_at)

    def receive(self, raw_event: Mapping[str, object], *, now: float) -> bool:
        """Take an event of a relay; return whether it is the signer's and readable, whatever it answers."""
        try:
            author, response = read_response(self.client_key, raw_event)
        except (InvalidEvent, InvalidMessage):
            return False
        if author != self.signer:
            return False
        if response.id == self.request.id and self.response is None:
            self._take(response, now)
        return True

    def _take(self, response: Response, now: float) -> None:
        if not response.auth_url:
            self.response = response
        elif not self.auth_url:  # only once: the signer must not put the deadline off again
            self.auth_url = response.auth_url
            self.deadline = max(self.deadline, now + self.patience_s)
