"""Connections: how many there may be, and what is said to one that speaks no HTTP. Does network I/O."""

import asyncio
import logging
import socket

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from server.config import ServerConfig
from server.errors import CannotListen
from server.replies import error_reply

_MOMENT_S = 2.0  # for a client to take an answer that it does not expect
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

log = logging.getLogger(__name__)


async def listen(runner: web.AppRunner, config: ServerConfig, listen_socket: socket.socket | None) -> asyncio.Server:
    """Take connections for a runner that was set up, on a given socket or where the config say.

    Raises CannotListen.
    """
    server, loop = runner.server, asyncio.get_running_loop()
    if server is None:
        raise RuntimeError("the runner was not set up")

    def connection() -> asyncio.Protocol:
        if len(server.connections) >= config.limits.max_connections:
            return _Refusal()
        return _Connection(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # none: the guard writes it
            keepalive_timeout=config.limits.header_timeout_s,
            lingering_time=_MOMENT_S,
        )

    if listen_socket:
        return await loop.create_server(connection, sock=listen_socket)
    try:
        return await loop.create_server(connection, config.host, config.port, reuse_address=True, backlog=1024)
    except OSError as error:
        words = f"cannot listen on {config.host}:{config.port}: {error.strerror or error}"
        raise CannotListen(words) from None


class _Connection(RequestHandler):
    """One client's. What it sent is in no log, HTTP or not: it may hold a key."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # quotes what came
    ) -> web.StreamResponse:
        """Answer what is no request, and close the connection."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        log.info("no HTTP request: %s", type(exc).__name__, extra={"status": status})
        if request.writer.output_size:
            raise ConnectionError("an answer was begun")
        response = web.json_response(error_reply("this is not a well-formed HTTP request"), status=status)
        response.headers["Server"] = "randygpt"
        response.force_close()
        return response

    def log_exception(self, *args: object, exc_info: object = None, **options: object) -> None:
        """Keep quiet about bodies that end early or cannot be decoded: their request was answered."""
        if not isinstance(exc_info, web.RequestPayloadError):
            super().log_exception(*args, exc_info=exc_info, **options)


class _Refusal(asyncio.Protocol):
    """A connection too many: it is told so when it asks, and has a moment to read that."""

    _transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
            asyncio.get_running_loop().call_later(_MOMENT_S, transport.abort)

    def data_received(self, _: bytes) -> None:
        if self._transport and self._transport.can_write_eof():
            self._transport.write(_FULL)
            self._transport.write_eof()
            self._transport = None
