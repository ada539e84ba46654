"""Servers of the tests, run in process on a free port."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from randygpt.cli.installed import release_describer
from randygpt.user.home import Home
from server.app import running
from server.config import ServerConfig
from server.limits import Limits
from server.models import ActiveModel, LoadedModel
from server.provenance import Provenance
from server.reloader import Reloader
from support.shelf import Shelf

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
    **values: Any,  # noqa: ANN401 (fields)
) -> AsyncIterator[str]:
    """Serve a model; gives the server's address."""
    async with running(ActiveModel(current=model, failure=failure), None, config(**values)) as address:
        yield address


@contextlib.asynccontextmanager
async def serving_shelf(shelf: Shelf, **values: Any) -> AsyncIterator[str]:  # noqa: ANN401 (fields)
    """Serve a shelf's current release, as `randygpt serve` does; gives the server's address."""
    active, home = ActiveModel(), Home(shelf.home)
    reloader = Reloader(shelf.store, active)
    provenance = Provenance(shelf.store, home.follow_path, release_describer(home))
    async with running(active, reloader, config(**values), provenance) as address:
        yield address
