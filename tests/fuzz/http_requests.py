"""HTTP requests to the inference server: bodies, and the fields that decide who may send them."""

from collections.abc import Callable

import orjson
from fuzz.oracle import Target, same, text_of

from server.auth import canonical_host, canonical_origin, find_key, is_host_allowed, is_origin_allowed
from server.errors import InvalidRequest
from server.responses import openai_error_body
from server.schema import CompletionRequest, parse_chat, parse_completion, parse_plain


def _body(parse: Callable[[bytes], CompletionRequest]) -> Target:
    def target(data: bytes) -> None:
        try:
            request = parse(data)
        except InvalidRequest as error:
            orjson.dumps(openai_error_body(str(error), status=400, field=error.field))
            raise
        same(len(request.samplings), request.n)
        request.most_tokens(256)
        for prompt in request.prompts:
            if isinstance(prompt, str):
                prompt.encode()

    return target


def _fields(data: bytes) -> None:
    """Read the fields of a request: key, host and origin, one a line."""
    key, host, origin, *_ = [*data.decode("utf-8", "surrogateescape").split("\n"), "", "", ""]
    find_key(["secret"], key)
    for hosts in ((), ("a.example",)):
        is_host_allowed(hosts, host)
    for origins in ((), ("https://a.example",), ("*",)):
        is_origin_allowed(origins, origin, host)


def _host(data: bytes) -> None:
    host = canonical_host(text_of(data))
    same(host, canonical_host(host))


def _origin(data: bytes) -> None:
    origin = canonical_origin(text_of(data))
    same(origin, canonical_origin(origin))


TARGETS: dict[str, Target] = {
    "http-plain": _body(parse_plain),
    "http-completion": _body(parse_completion),
    "http-chat": _body(parse_chat),
    "http-fields": _fields,
    "http-host": _host,
    "http-origin": _origin,
}
