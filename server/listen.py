"""Listening socket, and the protocol of its connections, which answers invalid HTTP. Does network I/O."""

import asyncio
import errno
import logging
import socket
from collections.abc import Sequence

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from server.acceptor import Acceptor, bind, ensure_descriptors
from server.config import ServerConfig
from server.errors import CannotListen
from server.request_factory import canonical_requests
from server.responses import error_body

log = logging.getLogger(__name__)


async def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on all addresses of a host; raises CannotListen."""
    try:
        return await bind(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CannotListen(
                f"cannot listen on {host}:{port}: address already in use; choose another --port"
            ) from None
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


async def listen(runner: web.AppRunner, config: ServerConfig, sockets: Sequence[socket.socket]) -> Acceptor:
    """Accept connections for a runner that was set up.

    Args:
        runner: Handles the requests.
        config: Has the limits, and the address to listen on unless there are sockets.
        sockets: Open sockets to listen on.

    Raises:
        CannotListen: The address is in use, or not one of this machine.
        CallerError: The system allows fewer open files than connections need.
    """
    server, loop, limits = runner.server, asyncio.get_running_loop(), config.limits
    if server is None:
        raise RuntimeError("the runner was not set up")
    server.request_factory = canonical_requests(server.request_factory)

    def connect() -> asyncio.Protocol:
        return _Connection(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # none: the middleware logs requests
            keepalive_timeout=limits.header_timeout_s,
            lingering_time=limits.linger_s,
        )

    ensure_descriptors(limits.max_connections)
    return Acceptor(
        sockets or await open_sockets(config.host, config.port),
        connect,
        lambda: len(server.connections),
        max_connections=limits.max_connections,
        linger_s=limits.linger_s,
    )


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
