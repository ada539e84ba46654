"""What systemd and a service tell each other: ready, how it stands, still alive; and a socket that was opened for it.

Where no service manager asks to be told (`$NOTIFY_SOCKET`, `$WATCHDOG_USEC`, `$LISTEN_FDS`; see sd_notify(3),
sd_watchdog_enabled(3), sd_listen_fds(3)), nothing here does anything. Does socket I/O.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from randygpt.errors import CallerError

_FIRST_SOCKET = 3  # SD_LISTEN_FDS_START
_PINGS_PER_TIMEOUT = 3  # in the time after which systemd takes a silent service for dead


def notify(*, status: str | None = None, ready: bool = False, alive: bool = False, stopping: bool = False) -> None:
    """Tell the service manager, if there is one that listens; `status` is for people."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    lines = [f"STATUS={' '.join(status.split())}"] if status is not None else []
    facts = {"READY=1": ready, "WATCHDOG=1": alive, "STOPPING=1": stopping}
    lines += [line for line, holds in facts.items() if holds]
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto("\n".join(lines).encode(), address)


@contextlib.asynccontextmanager
async def watchdog(check: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Within: the watchdog is fed each time `check` has come back, so it is not once anything it asks hangs.

    On leaving, the service manager is told that this is the end.
    """
    feeding = asyncio.create_task(_ping_watchdog(check), name="watchdog")
    try:
        yield
    finally:
        feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feeding
        notify(stopping=True)


async def _ping_watchdog(check: Callable[[], Awaitable[object]]) -> None:
    wanted = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    limit_us = os.environ.get("WATCHDOG_USEC", "")
    while wanted and limit_us.isdecimal():
        await check()
        notify(alive=True)
        await asyncio.sleep(int(limit_us) / 1e6 / _PINGS_PER_TIMEOUT)


def activation_socket() -> socket.socket | None:
    """The socket that the service manager listens on for this process, None if there is none.

    Raises CallerError if there are several, or if it is not for TCP.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    if os.environ.get("LISTEN_FDS") != "1":
        raise CallerError("one socket can be served, and the socket unit opens more")
    given = socket.socket(fileno=_FIRST_SOCKET)
    given.set_inheritable(False)
    if given.family not in {socket.AF_INET, socket.AF_INET6} or given.type != socket.SOCK_STREAM:
        raise CallerError("the socket unit opens something else than a TCP port (ListenStream=ADDRESS:PORT)")
    return given
