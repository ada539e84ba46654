"""Bytes of a connection to our servers: request lines, headers and bodies, through all of their layers."""

import asyncio
import functools
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from fuzz.files import HOME
from fuzz.oracle import BrokenPromise, Target

from relay_client.blossom.local_server import LocalBlobServer
from server.app import Application
from server.config import ServerConfig
from server.engine import Engine
from server.listen import _Connection
from server.metrics import Metrics
from server.models import ActiveModel
from server.request_factory import canonical_requests

_INTERNAL_ERROR = re.compile(rb"HTTP/[0-9.]+ 500 ")
_TURNS = 60  # of the event loop: what needs no other thread is done by then


class _Transport(asyncio.Transport):
    """A connection in memory."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.sent = bytearray()
        self.is_closed = False

    def write(self, data: Any) -> None:  # noqa: ANN401 (any buffer)
        self.sent += data

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        """Do nothing: everything was read."""

    def resume_reading(self) -> None:
        """Do nothing: it never stops."""


class _Server:
    """A server of connections in memory: its event loop, and the exceptions that nothing caught."""

    def __init__(self, start: Callable[[], Awaitable[Callable[[], asyncio.Protocol]]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._uncaught: list[object] = []
        self._loop.set_exception_handler(lambda _, context: self._uncaught.append(context))
        self._connect = self._loop.run_until_complete(start())

    def check(self, data: bytes) -> None:
        """Answer these bytes; raises BrokenPromise for an internal error."""
        logging.disable(logging.CRITICAL)  # a request writes a line
        try:
            sent = self._loop.run_until_complete(self._answer(data))
        finally:
            logging.disable(logging.NOTSET)
        if self._uncaught:
            raise BrokenPromise(f"not caught: {self._uncaught.pop()}")
        if sent and not sent.startswith(b"HTTP/"):
            raise BrokenPromise(f"no response: {sent[:100]!r}")
        if found := _INTERNAL_ERROR.search(sent):
            raise BrokenPromise(f"an internal error: {sent[found.start() :][:300]!r}")

    async def _answer(self, data: bytes) -> bytes:
        """Return what is sent on a connection that carries these bytes and is closed then."""
        transport, connection = _Transport(), self._connect()
        assert isinstance(connection, RequestHandler)
        connection.connection_made(transport)
        connection.data_received(data)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        return bytes(transport.sent)


async def _start_inference() -> Callable[[], asyncio.Protocol]:
    """Start the inference server, without a model."""
    metrics = Metrics()
    config = ServerConfig(api_keys=("secret",), hosts=("a.example",), origins=("https://a.example",))
    engine = Engine(threads=1, metrics=metrics)
    application = Application(ActiveModel(current=None), None, None, engine, config, metrics)
    runner = web.AppRunner(application.web, handler_cancellation=True)
    await runner.setup()
    server, loop = runner.server, asyncio.get_running_loop()
    assert server is not None
    server.request_factory = canonical_requests(server.request_factory)
    return lambda: _Connection(server, loop=loop, access_log=None, lingering_time=0)  # type: ignore[arg-type]


async def _start_blossom() -> Callable[[], asyncio.Protocol]:
    """Start the Blossom server; it makes no requests of its own, as sources to mirror are another target."""
    blossom = LocalBlobServer(folder=HOME / "blobs")
    blossom._mirror = blossom._check_upload  # type: ignore[method-assign]
    await blossom.__aenter__()
    assert blossom._runner is not None
    assert blossom._runner.server is not None
    return blossom._runner.server


@functools.cache
def _server(start: Callable[[], Awaitable[Callable[[], asyncio.Protocol]]]) -> _Server:
    return _Server(start)


TARGETS: dict[str, Target] = {
    "http-connection": lambda data: _server(_start_inference).check(data),
    "blossom-connection": lambda data: _server(_start_blossom).check(data),
}
