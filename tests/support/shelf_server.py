"""A server of a shelf's releases, as `serve` wires it."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from randygpt.cli.installed import release_describer
from randygpt.user.home import Home
from server.app import running
from server.limits import Settings
from server.models import Serving
from server.provenance import Provenance
from server.reloader import Reloader
from support.shelf import Shelf


@contextlib.asynccontextmanager
async def serving_shelf(shelf: Shelf, **settings: Any) -> AsyncIterator[str]:  # noqa: ANN401 (fields)
    """Gives the server's address."""
    serving, home = Serving(), Home(shelf.home)
    reloader = Reloader(shelf.store, serving)
    provenance = Provenance(shelf.store, home.follow_path, release_describer(home))
    async with running(serving, reloader, Settings(**settings), provenance) as address:
        yield address
