"""Requests to a remote signer and its responses (NIP-46), as the JSON inside encrypted events. No I/O."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

from relay_client.errors import CallerError, InvalidMessage
from relay_client.event import EventDraft

NIP46_KIND = 24133  # ephemeral: relays pass it on and do not store it
# NIP-44 pads in steps of 8 KiB. With the next step, the signed event does not fit the 65,536 bytes of common relays,
# and a signer that answers with it is never heard.
MAX_REQUEST = 40_960  # bytes of JSON

_AUTH_URL = "auth_url"
_MAX_URL = 2_000  # characters


class Method(StrEnum):
    """What is asked of a remote signer."""

    CONNECT = "connect"
    GET_PUBLIC_KEY = "get_public_key"
    SIGN_EVENT = "sign_event"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to a remote signer. Raises CallerError if it is too large for signers and relays."""

    id: str  # random; the response repeats it
    method: Method
    params: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (size := len(self.encode().encode())) > MAX_REQUEST:
            raise CallerError(f"too large for a remote signer: {size:,} bytes, and at most {MAX_REQUEST:,} pass relays")

    def encode(self) -> str:
        """Return the request as JSON."""
        return orjson.dumps({"id": self.id, "method": str(self.method), "params": list(self.params)}).decode()


def sign_request(request_id: str, draft: EventDraft) -> Request:
    """Return the request to sign a draft."""
    fields = {"kind": draft.kind, "created_at": draft.created_at, "tags": draft.tags, "content": draft.content}
    return Request(id=request_id, method=Method.SIGN_EVENT, params=(orjson.dumps(fields).decode(),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A response of a remote signer. Its result is not checked."""

    id: str
    result: str
    error: str  # empty: none

    @classmethod
    def parse(cls, raw_text: str) -> Self:
        """Parse the decrypted content of a response; raises InvalidMessage."""
        try:
            raw: Any = orjson.loads(raw_text)
        except orjson.JSONDecodeError:
            raise InvalidMessage("a response of the signer is not JSON") from None
        if not isinstance(raw, dict) or not isinstance(raw.get("id"), str):
            raise InvalidMessage("a response of the signer has no id")
        return cls(id=raw["id"], result=_text(raw.get("result")), error=_text(raw.get("error")))

    @property
    def auth_url(self) -> str:
        """Address at which the user has to approve before the signer answers; empty: none."""
        if self.result != _AUTH_URL:
            return ""
        try:
            scheme = urlsplit(self.error).scheme
        except ValueError:
            scheme = ""
        usable = scheme in {"http", "https"} and self.error.isprintable() and len(self.error) <= _MAX_URL
        return self.error if usable else ""


def _text(raw_value: object) -> str:
    """Return a field as text; some signers send an object where the text of its JSON belongs.

    Raises:
        InvalidMessage: The object is nested too deeply.
    """
    if raw_value is None:
        return ""
    if isinstance(raw_value, str):
        return raw_value
    try:
        return orjson.dumps(raw_value).decode()
    except orjson.JSONEncodeError:  # it reads deeper nesting than it writes
        raise InvalidMessage("a response of the signer is nested too deeply") from None
