"""systemd services: readiness and status notifications, watchdog pings, and socket activation. Does socket I/O.

Without `$NOTIFY_SOCKET`, `$WATCHDOG_USEC` and `$LISTEN_FDS` these functions do nothing; see sd_notify(3),
sd_watchdog_enabled(3) and sd_listen_fds(3).
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from randygpt.errors import CallerError
from randygpt.terminal import escape_line

_FIRST_SOCKET = 3  # SD_LISTEN_FDS_START
_PINGS_PER_TIMEOUT = 3


def notify(*, status: str | None = None, ready: bool = False, alive: bool = False, stopping: bool = False) -> None:
    """Send a notification to the service manager, if any; `status` is a line for people."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    lines = [f"STATUS={escape_line(' '.join(status.split()))}"] if status is not None else []
    flags = {"READY=1": ready, "WATCHDOG=1": alive, "STOPPING=1": stopping}
    lines += [line for line, is_set in flags.items() if is_set]
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto("\n".join(lines).encode(), address)


@contextlib.asynccontextmanager
async def watchdog(check: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Ping the watchdog each time `check` returns, so that the pings stop if it hangs; on exit, send STOPPING=1."""
    pinging = asyncio.create_task(_ping_watchdog(check), name="watchdog")
    try:
        yield
    finally:
        pinging.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pinging
        notify(stopping=True)


async def _ping_watchdog(check: Callable[[], Awaitable[object]]) -> None:
    wanted = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    limit_us = os.environ.get("WATCHDOG_USEC", "")
    while wanted and limit_us.isdecimal():
        await check()
        notify(alive=True)
        await asyncio.sleep(int(limit_us) / 1e6 / _PINGS_PER_TIMEOUT)


def activation_socket() -> socket.socket | None:
    """Return the listening socket passed by the service manager, None if there is none.

    Raises:
        CallerError: It passed several sockets, or not a TCP socket.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    if os.environ.get("LISTEN_FDS") != "1":
        raise CallerError("the socket unit opens several sockets; configure exactly one")
    passed = socket.socket(fileno=_FIRST_SOCKET)
    passed.set_inheritable(False)
    if passed.family not in {socket.AF_INET, socket.AF_INET6} or passed.type != socket.SOCK_STREAM:
        raise CallerError("the socket unit must open a TCP port (ListenStream=ADDRESS:PORT)")
    return passed
