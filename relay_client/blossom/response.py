"""Responses of Blossom servers: refusals in words, ranges, and when to try again. No I/O."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import orjson

from relay_client.blossom.payment import describe_payment
from relay_client.errors import InvalidResponse, quote
from relay_client.messages import sanitize

BUSY = frozenset({429, 503})
MISSING = frozenset({404, 410})
FAILING = frozenset({408, 425, *range(500, 600)}) - {507}  # the same request may succeed later

_REDIRECTS = range(300, 400)
_WORDS = {
    400: "does not understand the request",
    401: "does not accept the authorization",
    403: "refuses this key or file",
    404: "does not have it",
    409: "received other bytes than the hash names",
    410: "does not have it any more",
    411: "needs the length of the file",
    413: "takes no file of this size",
    415: "takes no model files (application/octet-stream)",
    416: "does not give this part of the file",
    429: "is busy",
    503: "is busy",
    507: "has no space left",
}
_LONGEST_WAIT_S = 60


def describe_refusal(status: int, headers: Mapping[str, str], raw_body: bytes) -> str:
    """Return in words why a server refuses: what the status means, then the server's own reason."""
    if status in _REDIRECTS and (location := headers.get("Location")):
        words = f"redirects to {quote(location)}, which is not followed: use that address if you trust it"
    elif status == 402:  # noqa: PLR2004 (Payment Required)
        words = f"asks for payment{describe_payment(headers)}, which is never made"
    else:
        words = _WORDS.get(status, f"answers with HTTP status {status}")
    reason = _reason(headers, raw_body)
    return f"{words}: {reason}" if reason else words


def _reason(headers: Mapping[str, str], raw_body: bytes) -> str:
    text = headers.get("X-Reason", "")
    if not text and "html" not in headers.get("Content-Type", ""):
        text = raw_body.decode("utf-8", "replace")
        try:
            raw = orjson.loads(raw_body)
        except orjson.JSONDecodeError:
            raw = None
        if isinstance(raw, dict):
            found = next((raw[name] for name in ("message", "error", "reason") if raw.get(name)), "")
            text = found if isinstance(found, str) else quote(found)
    return sanitize(text).strip()


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a busy server asks to wait, at most a minute; None if it names none."""
    text = headers.get("Retry-After", "")
    if text.isascii() and text.isdecimal():
        return min(int(text[:9]), _LONGEST_WAIT_S)
    try:  # a date; the server's own clock counts
        wait_s = (parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("Date", ""))).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(wait_s, 0.0), _LONGEST_WAIT_S)


def body_start(status: int, headers: Mapping[str, str], *, start: int, end: int, size: int) -> int:
    """Return the offset in the blob at which the body of a successful response starts.

    A server may answer a range with the whole blob; then the body starts at 0.

    Args:
        status: 200 or 206.
        headers: Headers of the response.
        start: First byte asked for.
        end: End of the range, not included.
        size: Size of the blob, in bytes.

    Raises:
        InvalidResponse: It is neither exactly this range nor the whole blob, or it is compressed.
    """
    if headers.get("Content-Encoding", "").strip().lower() not in {"", "identity"}:
        raise InvalidResponse(f"sends a compressed file ({quote(headers['Content-Encoding'])})")
    if status == 206:  # noqa: PLR2004 (Partial Content)
        found = headers.get("Content-Range", "")
        spelled = "".join(found.lower().split()).replace("bytes=", "bytes", 1)
        if spelled not in {f"bytes{start}-{end - 1}/{size}", f"bytes{start}-{end - 1}/*"}:
            raise InvalidResponse(f"answers with another range: {quote(found)} for {start}-{end - 1}/{size}")
        return start
    length = headers.get("Content-Length")
    if status != 200 or length not in {None, str(size)}:  # noqa: PLR2004 (OK)
        raise InvalidResponse(f"gives the file {quote(length)} bytes instead of {size}")
    return 0
