"""Accepting connections: up to a limit, refusing the rest cheaply. Does network I/O."""

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Callable, Sequence
from functools import partial

from relay_client.errors import CallerError

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_MAX_REFUSED = 64  # refused connections that are kept open until their client has read the response
_RESERVED = 8  # connections beyond the limit for clients on this machine, which check its health
_LOCAL = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
_AT_ONCE = 64  # connections accepted before other work on the event loop has its turn
_RETRY_S = 0.1  # after an accept that failed, for example for lack of descriptors
_LOG_INTERVAL_S = 1.0
_OTHER_DESCRIPTORS = 64  # listening sockets, the store's files, logs, and the event loop's own
_RECEIVE_BYTES = 1 << 16

log = logging.getLogger(__name__)


class Acceptor:
    """Accepts connections from listening sockets.

    A client on this machine may have one of a few more connections than the limit. A refused connection gets status 503
    for its first bytes. It costs no task and no transport, and at most 64 of them have a descriptor: a new one takes
    that of the oldest.

    Args:
        sockets: Listening sockets, which are closed with it.
        connect: Returns the protocol of an accepted connection.
        count: Returns the number of open connections.
        max_connections: Limit on open connections.
        linger_s: Seconds for a refused client to read the response.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        connect: Callable[[], asyncio.Protocol],
        count: Callable[[], int],
        *,
        max_connections: int,
        linger_s: float,
    ) -> None:
        self.sockets = sockets
        self._connect = connect
        self._count = count
        self._max_connections = max_connections
        self._linger_s = linger_s
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[object]] = set()
        self._refused: dict[socket.socket, asyncio.TimerHandle] = {}  # the oldest first
        self._logged_at = -_LOG_INTERVAL_S
        self._closed = False
        for listening in sockets:
            listening.setblocking(False)
            self._resume(listening)

    def close(self) -> None:
        """Stop accepting, and close the listening sockets and the refused connections."""
        self._closed = True
        for listening in self.sockets:
            self._loop.remove_reader(listening)
            listening.close()
        for task in self._connecting:
            task.cancel()
        while self._refused:
            self._drop_oldest()

    def _resume(self, listening: socket.socket) -> None:
        if not self._closed:
            self._loop.add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._log(error)
                self._loop.remove_reader(listening)
                self._loop.call_later(_RETRY_S, self._resume, listening)
                return
            connection.setblocking(False)
            is_local = isinstance(address, tuple) and address[0] in _LOCAL
            most = self._max_connections + is_local * _RESERVED
            if self._count() + len(self._connecting) < most:
                self._serve(connection)
            else:
                self._refuse(connection)

    def _serve(self, connection: socket.socket) -> None:
        task: asyncio.Task[object] = asyncio.ensure_future(
            self._loop.connect_accepted_socket(self._connect, connection)
        )
        self._connecting.add(task)
        task.add_done_callback(partial(self._connected, connection))

    def _connected(self, connection: socket.socket, task: "asyncio.Task[object]") -> None:
        self._connecting.discard(task)
        if task.cancelled() or task.exception():
            connection.close()
            if not task.cancelled():
                self._log(task.exception())

    def _refuse(self, connection: socket.socket) -> None:
        if len(self._refused) >= _MAX_REFUSED:
            self._drop_oldest()
        self._refused[connection] = self._loop.call_later(self._linger_s, self._drop, connection)
        self._loop.add_reader(connection, self._respond, connection)

    def _respond(self, connection: socket.socket) -> None:
        """Respond to the first bytes; later ones are read so that the response is not lost to a reset."""
        try:
            received = connection.recv(_RECEIVE_BYTES)
            if received:
                connection.send(_FULL)
                connection.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:  # the response was sent already, or the client is gone
            received = b""
        if not received:
            self._drop(connection)

    def _drop_oldest(self) -> None:
        connection = next(iter(self._refused))
        with contextlib.suppress(OSError):
            connection.send(_FULL)
        self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        self._refused.pop(connection).cancel()
        self._loop.remove_reader(connection)
        connection.close()

    def _log(self, error: BaseException | None) -> None:
        now = self._loop.time()
        if now - self._logged_at >= _LOG_INTERVAL_S:
            self._logged_at = now
            log.error("cannot accept connections: %s", error)


def ensure_descriptors(max_connections: int) -> None:
    """Raise the limit on open files so far that all connections fit; raises CallerError if that is not allowed."""
    needed = max_connections + _RESERVED + _MAX_REFUSED + _OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise CallerError(
            f"--max-connections {max_connections} needs {needed} open files, and {hard} are allowed: raise the limit "
            f"(ulimit -n, LimitNOFILE=), or pass a smaller number"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def bind(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on all addresses of a host; raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            sockets.append(socket.create_server((str(address[0]), int(address[1])), family=family, backlog=1024))
    except OSError:
        for listening in sockets:
            listening.close()
        raise
    return sockets
