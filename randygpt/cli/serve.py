"""`randygpt serve`: completions over HTTP, from the release that is current or from a file."""

import asyncio
import ipaddress
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
    from server.logs import Style
    from server.models import Serving
    from server.reloader import Reloader
    from server.settings import Settings

EXAMPLE = "Example: randygpt serve --port 8080"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SWITCH_S = 0.0005  # how long the event loop may keep the threads that decode from going on


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
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Or one of the keys in this file, one a line.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Answer everybody on an address others reach.")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name the server goes by; repeat for more.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Whose web pages may ask; `*`: all. Repeat for more.")
    ] = None,
    max_texts: Annotated[int, typer.Option(min=1, help="Texts under way or waiting; one more is told 503.")] = 128,
    max_per_key: Annotated[int, typer.Option(min=1, help="Requests with one key; one more is told 429.")] = 64,
    max_connections: Annotated[int, typer.Option(min=1, help="Connections at once.")] = 512,
    log: Annotated[str, typer.Option(metavar="STYLE", help="What the log looks like: console or json.")] = "console",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer prompts over HTTP; a newly fetched release takes over without a request failing."""
    from distribution.store import Store
    from server import logs
    from server.models import Serving, load_file
    from server.reloader import Reloader
    from server.settings import Settings

    keys = _keys(api_key, api_key_file)
    local = _is_loopback(host)
    if not (local or keys or insecure):
        raise CallerError(
            f"others reach {host}: set --api-key-file (or --api-key), or say --insecure to answer everybody"
        )
    logs.set_up(_style(log), level=logging.WARNING if quiet else logging.INFO)
    settings = Settings(
        host=host,
        port=port,
        threads=os.cpu_count() or 1,
        api_keys=keys,
        hosts={*(allow_host or ()), *((*_LOOPBACK, host) if local or allow_host else ())},
        origins=allow_origin or (),
        max_texts=max_texts,
        max_per_key=max_per_key,
        max_connections=max_connections,
    )
    serving, reloader = Serving(), None
    path = model or (trained(checkpoint) if checkpoint else None)
    if path:
        serving.current = load_file(path, preset=preset, vocab=vocab)
    else:
        reloader = Reloader(Store(Home.from_environment().folder), serving)
    sys.setswitchinterval(_SWITCH_S)
    raise typer.Exit(asyncio.run(_serve(serving, reloader, settings, as_json=as_json)))


async def _serve(serving: "Serving", reloader: "Reloader | None", settings: "Settings", *, as_json: bool) -> int:
    from server.app import running

    stop: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stop, number)
    async with running(serving, reloader, settings) as address:
        emit(as_json, {"address": address}, address)
        if serving.current is None:
            logging.getLogger(__name__).warning("no model yet: waiting for the first `randygpt fetch`")
        return 128 + await stop


def _stop(stop: asyncio.Future[int], number: int) -> None:
    if not stop.done():
        stop.set_result(number)


def _keys(api_key: str | None, file: Path | None) -> list[str]:
    """The keys that may ask; raises CallerError for an empty one, or a file without any."""
    keys = [] if api_key is None else [api_key]
    if file:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise CallerError(f"{file}: no key in it")
        keys += found
    if not all(key.strip() for key in keys):
        raise CallerError("an API key is not empty")
    return keys


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _style(word: str) -> "Style":
    if word == "json":
        return "json"
    if word == "console":
        return "console"
    raise CallerError(f"--log is console or json, not {word}")
