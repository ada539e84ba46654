"""Bytes of a connection to the inference server: request lines, headers and bodies, through all of its layers."""

import asyncio
import functools
import logging
import re
from typing import Any

from aiohttp import web
from fuzz.oracle import BrokenPromise, Target

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
    """A server without a model, its event loop, and the exceptions that nothing caught."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.uncaught: list[object] = []
        self.loop.set_exception_handler(lambda _, context: self.uncaught.append(context))
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        metrics = Metrics()
        config = ServerConfig(api_keys=("secret",), hosts=("a.example",), origins=("https://a.example",))
        engine = Engine(threads=1, metrics=metrics)
        application = Application(ActiveModel(current=None), None, None, engine, config, metrics)
        self._runner = web.AppRunner(application.web, handler_cancellation=True)
        await self._runner.setup()
        assert self._runner.server is not None
        self._web = self._runner.server
        self._web.request_factory = canonical_requests(self._web.request_factory)

    async def answer(self, data: bytes) -> bytes:
        """Return what the server sends on a connection that carries these bytes and is closed then."""
        transport = _Transport()
        connection = _Connection(self._web, loop=self.loop, access_log=None, lingering_time=0)  # type: ignore[arg-type]
        connection.connection_made(transport)
        connection.data_received(data)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        return bytes(transport.sent)


@functools.cache
def _server() -> _Server:
    return _Server()


def _request(data: bytes) -> None:
    server = _server()
    logging.disable(logging.CRITICAL)  # a request writes a line
    try:
        sent = server.loop.run_until_complete(server.answer(data))
    finally:
        logging.disable(logging.NOTSET)
    if server.uncaught:
        raise BrokenPromise(f"not caught: {server.uncaught.pop()}")
    if sent and not sent.startswith(b"HTTP/"):
        raise BrokenPromise(f"no response: {sent[:100]!r}")
    if found := _INTERNAL_ERROR.search(sent):
        raise BrokenPromise(f"an internal error: {sent[found.start() :][:300]!r}")


TARGETS: dict[str, Target] = {"http-connection": _request}
