"""Listening socket: accepts connections up to a limit and answers invalid HTTP. Does network I/O."""

import asyncio
import logging
import socket

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from server.config import ServerConfig
from server.errors import CannotListen
from server.request_factory import canonical_requests
from server.responses import error_body

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

log = logging.getLogger(__name__)


async def listen(runner: web.AppRunner, config: ServerConfig, listen_socket: socket.socket | None) -> asyncio.Server:
    """Accept connections for a runner that was set up.

    Args:
        runner: Handles the requests.
        config: Has the limits, and the address to listen on unless there is a socket.
        listen_socket: An open socket to listen on, as systemd passes it.

    Raises:
        CannotListen: The address is in use, or not one of this machine.
    """
    server, loop, limits = runner.server, asyncio.get_running_loop(), config.limits
    if server is None:
        raise RuntimeError("the runner was not set up")
    server.request_factory = canonical_requests(server.request_factory)

    def connect() -> asyncio.Protocol:
        if len(server.connections) >= limits.max_connections:
            return _RejectedConnection(limits.linger_s)
        return _Connection(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # none: the middleware logs requests
            keepalive_timeout=limits.header_timeout_s,
            lingering_time=limits.linger_s,
        )

    if listen_socket:
        return await loop.create_server(connect, sock=listen_socket)
    try:
        return await loop.create_server(connect, config.host, config.port, reuse_address=True, backlog=1024)
    except OSError as error:
        message = f"cannot listen on {config.host}:{config.port}: {error.strerror or error}"
        raise CannotListen(message) from None


class _Connection(RequestHandler):
    """A client's connection. Never logs what was sent, which may hold a key even where it is not HTTP."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # quotes what was sent
    ) -> web.StreamResponse:
        """Respond to what is not a request, and close the connection."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        log.info("not an HTTP request: %s", type(exc).__name__, extra={"status": status})
        if request.writer.output_size:
            raise ConnectionError("a response was begun")
        response = web.json_response(error_body("this is not a well-formed HTTP request"), status=status)
        response.headers["Server"] = "randygpt"
        response.force_close()
        return response

    def log_exception(self, *args: object, exc_info: object = None, **options: object) -> None:
        """Skip truncated or undecodable bodies: their requests were answered."""
        if not isinstance(exc_info, web.RequestPayloadError):
            super().log_exception(*args, exc_info=exc_info, **options)


class _RejectedConnection(asyncio.Protocol):
    """A connection beyond the limit: gets a 503 for its first bytes, and `linger_s` seconds to read it."""

    def __init__(self, linger_s: float) -> None:
        self._linger_s = linger_s
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
            asyncio.get_running_loop().call_later(self._linger_s, transport.abort)

    def data_received(self, _: bytes) -> None:
        if self._transport and self._transport.can_write_eof():
            self._transport.write(_FULL)
            self._transport.write_eof()
            self._transport = None
