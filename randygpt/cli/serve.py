"""`randygpt serve`: completions over HTTP, from the release that is current or from a file."""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli.generate import trained
from randygpt.cli.output import Json, Quiet, emit
from randygpt.errors import CallerError
from randygpt.settings import Home

if TYPE_CHECKING:
    from server.models import Serving
    from server.reloader import Reloader

_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"

EXAMPLE = "Example: randygpt serve --port 8080"


def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    model: Annotated[Path | None, typer.Option(metavar="FILE", help="Serve this checkpoint, not the release.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="PREFIX", help="Serve PREFIX_best.bin, else PREFIX.bin, likewise.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="The file's shape, where nothing beside it says.")] = None,
    vocab: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its vocab.json, if not what is beside the file.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="Clients must send it as a bearer token.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer prompts over HTTP; a newly fetched release takes over without a request failing."""
    from distribution.store import Store
    from server.models import Serving, load_file
    from server.reloader import Reloader

    if api_key is not None and not api_key.strip():
        raise CallerError("an API key is not empty")
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, stream=sys.stderr, format=_LOG_FORMAT)
    serving = Serving()
    reloader = None
    path = model or (trained(checkpoint) if checkpoint else None)
    if path:
        serving.current = load_file(path, preset=preset, vocab=vocab)
    else:
        reloader = Reloader(Store(Home.from_environment().folder), serving)
    raise typer.Exit(asyncio.run(_serve(serving, reloader, host, port, api_key, as_json=as_json)))


async def _serve(
    serving: "Serving", reloader: "Reloader | None", host: str, port: int, api_key: str | None, *, as_json: bool
) -> int:
    from server.app import running

    stop: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stop, number)
    threads = os.cpu_count() or 1
    async with running(serving, reloader, host=host, port=port, threads=threads, api_key=api_key) as address:
        emit(as_json, {"address": address}, address)
        if serving.current is None:
            logging.getLogger(__name__).warning("no model yet: waiting for the first `randygpt fetch`")
        return 128 + await stop


def _stop(stop: asyncio.Future[int], number: int) -> None:
    if not stop.done():
        stop.set_result(number)
