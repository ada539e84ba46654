"""Requests as routes and middleware see them: canonical path, one Host, and no Expect header. No I/O."""

import re
from collections.abc import Callable
from typing import Any

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

EXPECT = web.RequestKey("expect", str)  # the Expect header; aiohttp would answer it before the middleware
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_SLASHES = re.compile("/{2,}")

RequestFactory = Callable[..., web.BaseRequest]


def canonical_requests(make: RequestFactory) -> RequestFactory:
    """Return a request factory that makes canonical requests.

    Repeated and trailing slashes of the path do not count, since clients join base URLs and paths carelessly. The host
    of an absolute target replaces the Host header (RFC 9112, 3.2.2). The Expect header becomes `request[EXPECT]`.
    """

    def make_canonical(message: RawRequestMessage, *args: Any) -> web.BaseRequest:  # noqa: ANN401 (aiohttp's)
        headers, url = CIMultiDict(message.headers), message.url
        expect = headers.popall(hdrs.EXPECT, [])
        if url.scheme:
            headers[hdrs.HOST] = url.raw_authority
        if message.path.startswith(("/", url.scheme or "/")):
            path = _SLASHES.sub("/", url.raw_path).rstrip("/") or "/"
            url = URL.build(path=path, query_string=url.raw_query_string, encoded=True)
        request = make(message._replace(headers=CIMultiDictProxy(headers), url=url), *args)
        if expect and message.version >= HttpVersion11:
            request[EXPECT] = ", ".join(expect)
        return request

    return make_canonical


def check_expectation(request: web.BaseRequest) -> None:
    """Raise HTTPExpectationFailed if the client expects anything except `100 Continue`."""
    if request.get(EXPECT, "100-continue").lower() != "100-continue":
        raise web.HTTPExpectationFailed(text="the only expectation that can be met is 100-continue")


async def send_continue(request: web.BaseRequest) -> None:
    """Ask a client that waits for `100 Continue` to send its body."""
    if request.pop(EXPECT, None) is not None:
        await request.writer.write(_CONTINUE)
        await request.writer.drain()
        request.writer.output_size = 0  # the response has not begun
