"""Servers that run in the test's process, on a free port."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from randygpt.cli.installed import release_describer, release_references
from randygpt.user.home import Home
from server.app import run_server
from server.config import ServerConfig
from server.limits import Limits
from server.models import ActiveModel, LoadedModel
from server.provenance import Provenance
from server.reloader import Reloader
from support.release_store import ReleaseStore

REMOTE = "127.0.0.2"  # address of a client that stands for one on another machine
_LIMITS = {*Limits.__dataclass_fields__}


def config(**values: Any) -> ServerConfig:  # noqa: ANN401 (fields)
    """Return a configuration, from fields of ServerConfig and of Limits."""
    limits = {name: value for name, value in values.items() if name in _LIMITS}
    others = {name: value for name, value in values.items() if name not in _LIMITS}
    return ServerConfig(**others, limits=Limits(**limits))


@contextlib.asynccontextmanager
async def serving(
    model: LoadedModel | None,
    *,
    failure: str | None = None,
    listen_sockets: Sequence[socket.socket] = (),
    **values: Any,  # noqa: ANN401 (fields)
) -> AsyncIterator[str]:
    """Serve a model; yield the server's address."""
    active = ActiveModel(current=model, failure=failure)
    async with run_server(active, None, config(**values), listen_sockets=listen_sockets) as address:
        yield address


@contextlib.contextmanager
def small_buffers() -> Iterator[socket.socket]:
    """Yield a listening socket whose connections buffer little that the client does not read."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield listening


@contextlib.asynccontextmanager
async def unread_request(address: str, request: bytes) -> AsyncIterator[None]:
    """Send a request and do not read the response, with a small receive buffer."""
    host, port = address.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
        await asyncio.get_running_loop().sock_sendall(client, request)
        yield


@contextlib.asynccontextmanager
async def serving_releases(
    releases: ReleaseStore,
    *,
    max_releases: int = 100,
    **values: Any,  # noqa: ANN401 (fields)
) -> AsyncIterator[str]:
    """Serve the current release, as `randygpt serve` does; yield the server's address."""
    active, home = ActiveModel(), Home(releases.home)
    reloader = Reloader(releases.store, active)
    describe, refer = release_describer(home), release_references(home)
    provenance = Provenance(releases.store, home.follow_path, describe, refer, max_releases=max_releases)
    async with run_server(active, reloader, config(**values), provenance) as address:
        yield address
