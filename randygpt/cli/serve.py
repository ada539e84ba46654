"""`randygpt serve`: completions over HTTP, from the release that is current or from a file."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from randygpt.cli import systemd
from randygpt.cli.generate import trained
from randygpt.cli.installed import open_store, release_describer, release_title
from randygpt.cli.output import Json, MaxSize, Quiet, Relays, emit, is_flag_given, parse_size, validate_preset
from randygpt.errors import CallerError
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.follow import Follower, Update
    from distribution.store import Store
    from server.models import ActiveModel

EXAMPLE = "Example: randygpt serve --port 8080"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LOOK_S = 0.2  # between looks at what is to be told to the service manager
_SWITCH_S = 0.0005  # how long the event loop may keep the threads that decode from going on

log = logging.getLogger(__name__)


def serve(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    model: Annotated[Path | None, typer.Option(metavar="FILE", help="Serve this checkpoint, not the release.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="PREFIX", help="Serve PREFIX_best.bin, else PREFIX.bin, likewise.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(callback=validate_preset, help="The file's shape, where nothing beside it says.")
    ] = None,
    vocab: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its vocab.json, if not what is beside the file.")
    ] = None,
    follow: Annotated[
        str | None, typer.Option(metavar="NAME", help="Follow npub…/name meanwhile, and serve each new version.")
    ] = None,
    relay: Relays = None,
    max_size: MaxSize = "1G",
    api_key: Annotated[
        str | None, typer.Option(hide_input=True, help="Clients must send it as a bearer token.")
    ] = None,
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
    max_sequences: Annotated[int, typer.Option(min=1, help="Sequences running or waiting before 503.")] = 128,
    max_per_key: Annotated[int, typer.Option(min=1, help="Concurrent requests with one key before 429.")] = 64,
    max_connections: Annotated[int, typer.Option(min=1, help="Connections at once.")] = 512,
    log: Annotated[
        Literal["console", "json"], typer.Option(metavar="STYLE", help="What the log looks like: console or json.")
    ] = "console",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer prompts over HTTP; a newly fetched release takes over without a request failing."""
    from distribution.store import Store
    from relay_client.url import is_loopback_host
    from server import logs
    from server.app import running
    from server.config import ServerConfig
    from server.limits import Limits
    from server.models import ActiveModel, load_file
    from server.provenance import Provenance
    from server.reloader import Reloader

    keys = _keys(api_key, api_key_file)
    given = systemd.activation_socket()
    if given:
        host, port = given.getsockname()[:2]
    loopback = is_loopback_host(host)
    if not (loopback or keys or insecure):
        raise CallerError(
            f"others reach {host}: set --api-key-file (or --api-key), or say --insecure to answer everybody"
        )
    logs.set_up(log, level=logging.WARNING if quiet else logging.INFO)
    config = ServerConfig(
        host=host,
        port=port,
        threads=os.cpu_count() or 1,
        api_keys=keys,
        hosts={*(allow_host or ()), *((*_LOOPBACK, host) if loopback or allow_host else ())},
        origins=allow_origin or (),
        limits=Limits(max_sequences=max_sequences, max_per_key=max_per_key, max_connections=max_connections),
    )
    if typed := {name for name in ("model", "checkpoint", "follow") if is_flag_given(context, name)}:
        model, checkpoint, follow = (  # a flag outweighs settings that do not go with it
            model if "model" in typed else None,
            checkpoint if "checkpoint" in typed else None,
            follow if "follow" in typed else None,
        )
    if (model or checkpoint) and follow:
        raise CallerError("--follow serves what it fetches: it does not go with a file")
    if not follow and is_flag_given(context, "relay"):
        raise CallerError("--relay is for what --follow names")
    path = model or (trained(checkpoint) if checkpoint else None)
    active, reloader, provenance, companion = ActiveModel(), None, None, None
    if path:
        active.current = load_file(path, preset=preset, vocab=vocab)
    else:
        home = Home.from_environment()
        store = Store(home.folder)
        reloader, provenance = Reloader(store, active), Provenance(store, home.follow_path, release_describer(home))
        companion = _follower(home, store, follow, relay, parse_size(max_size)) if follow else None
    sys.setswitchinterval(_SWITCH_S)
    server = running(active, reloader, config, provenance, listen_socket=given, watchdog=systemd.watchdog)
    raise typer.Exit(asyncio.run(_serve(active, server, companion, as_json=as_json)))


async def _serve(
    active: "ActiveModel",
    server: "contextlib.AbstractAsyncContextManager[str]",
    follower: "Follower | None",
    *,
    as_json: bool,
) -> int:
    stop: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stop, number)
    async with server as address:
        emit(as_json, {"address": address}, address)
        telling = asyncio.create_task(_tell(active), name="tell systemd")
        if active.current is None:
            log.warning("no model yet: waiting for the first %s", "version" if follower else "`randygpt fetch`")
        async with _beside(follower):
            code = 128 + await stop
        telling.cancel()
        systemd.notify(status="answering what was asked before the end", stopping=True)
        return code


async def _tell(active: "ActiveModel") -> None:
    """Keep the service manager told of what answers; ready is when anything does."""
    told = None
    while True:
        words = _words(active)
        if words != told:
            systemd.notify(status=words, ready=active.current is not None)
            told = words
        await asyncio.sleep(_LOOK_S)


def _words(active: "ActiveModel") -> str:
    """What answers. In a frame of its own: whoever waits must not keep an old model."""
    loaded, failure = active.current, active.failure
    words = f"{loaded.label} answers" if loaded else "waiting for a first model"
    return f"{words}; not swapped: {failure}" if failure else words


@contextlib.asynccontextmanager
async def _beside(follower: "Follower | None") -> AsyncIterator[None]:
    """Follow meanwhile; if that ends, the server goes on with what it has."""

    async def follow(follower: "Follower") -> None:
        try:
            await follower.run()
        except Exception:
            log.exception("not followed any more")

    task = asyncio.create_task(follow(follower), name="follow") if follower else None
    try:
        yield
    finally:
        if task:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _follower(home: Home, store: "Store", name: str, relay: list[str] | None, max_size: int) -> "Follower":
    """What follows while the server runs, and tells the log; raises CallerError and NotTrusted."""
    from distribution.follow import Installed, Skipped
    from randygpt.sharing import follow_target, make_follower

    _, trusted = open_store(home)

    def tell(update: "Update") -> None:
        match update:
            case Installed(release=release):
                log.info("installed %s", release_title(release, trusted), extra={"release": release.id.hex()})
            case Skipped(release=release, reason=reason):
                log.warning("%s version %s: %s", release.name, release.version, reason)
            case _:
                log.warning("follow: %s", update.error)

    target = follow_target(home, name, relays=relay)
    log.info("following %s on %s", name, ", ".join(target.urls))
    return make_follower(home, store, target, max_size=max_size, on_update=tell)


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
