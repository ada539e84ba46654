"""What Blossom servers and their clients send: tokens, descriptors, responses, addresses."""

import contextlib

from fuzz.oracle import Target, same, text_of
from fuzz.signed import NOW, on_event

from relay_client.blossom.address import (
    host_of,
    is_public_origin,
    last_hash,
    normalize_server,
    redirect_target,
    usable_servers,
)
from relay_client.blossom.blob_http import media_type_of, parse_number, refusal
from relay_client.blossom.descriptor import BlobDescriptor
from relay_client.blossom.mirror import MirrorSource
from relay_client.blossom.response import body_start, describe_refusal, retry_after_s
from relay_client.blossom.token import TOKEN_KIND, Token, Verb, encode_header
from relay_client.errors import InvalidResponse, InvalidToken
from relay_client.event import Event

_HASH = b"\xab" * 32
_URL = f"https://a.example/{_HASH.hex()}"


def _header(data: bytes) -> None:
    _check(Token.parse(text_of(data), now=NOW))


def _token(event: Event) -> None:
    header = encode_header(event)
    token = Token.parse(header, now=NOW)
    same(token, Token.parse(header.replace("+", "-").replace("/", "_").rstrip("="), now=NOW))
    _check(token)


def _check(token: Token) -> None:
    for verb in Verb:
        with contextlib.suppress(InvalidToken):
            token.check(verb, host="a.example", sha256=_HASH)


def _descriptor(data: bytes) -> None:
    found = BlobDescriptor.parse(data)
    same((found.sha256, found.size), (bytes.fromhex(str(found.to_dict()["sha256"])), found.to_dict()["size"]))


def _response(data: bytes) -> None:
    """Read a response: lines of headers, an empty line, the body; the first byte chooses the status."""
    head, _, body = data[1:].partition(b"\n\n")
    pairs = (line.partition(":") for line in head.decode("utf-8", "surrogateescape").split("\n"))
    headers = {name: value.strip() for name, _, value in pairs}
    status = (200, 206, 400, 402, 404, 429, 500, 503)[data[0] % 8] if data else 200
    describe_refusal(status, headers, body).encode()
    retry_after_s(headers)
    body_start(status, headers, start=0, end=10, size=20)


def _redirect(data: bytes) -> None:
    target = redirect_target(text_of(data), url=_URL, sha256=_HASH)
    same(target, redirect_target(target, url=_URL, sha256=_HASH))


def _address(data: bytes) -> None:
    text = text_of(data)
    usable_servers([text], known=())
    last_hash(text)
    origin = normalize_server(text)
    same(origin, normalize_server(origin))
    host_of(origin)
    is_public_origin(origin)


def _mirror(data: bytes) -> None:
    with contextlib.suppress(InvalidResponse):
        MirrorSource.parse(data, only_public=True)
    MirrorSource.parse(data, only_public=False)


def _fields(data: bytes) -> None:
    text = text_of(data)
    parse_number(text)
    media_type_of(text).encode("ascii")
    refusal(400, text)


TARGETS: dict[str, Target] = {
    "blossom-header": _header,
    "blossom-token": on_event(TOKEN_KIND, _token),
    "blossom-descriptor": _descriptor,
    "blossom-response": _response,
    "blossom-redirect": _redirect,
    "blossom-address": _address,
    "blossom-mirror": _mirror,
    "blossom-fields": _fields,
}
