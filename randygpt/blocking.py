"""`publish`, `fetch` and `search` of `randygpt.aio` as functions, for programs without asyncio."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from randygpt import aio
from randygpt.errors import CallerError

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Return a function that runs a coroutine function to its end; it raises CallerError inside an event loop."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(function(*args, **kwargs))
        name = function.__name__
        raise CallerError(f"randygpt.{name} would block the running event loop: await randygpt.aio.{name} instead")

    return call


publish = _blocking(aio.publish)
fetch = _blocking(aio.fetch)
search = _blocking(aio.search)
