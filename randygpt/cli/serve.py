"""`randygpt serve`: serve completions over HTTP from the current release or a checkpoint."""

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
from randygpt.cli.flags import (
    Json,
    MaxSize,
    ModelPreset,
    ModelVocab,
    Quiet,
    Relays,
    is_flag_given,
    parse_size,
    validator,
)
from randygpt.cli.installed import open_store, release_describer, release_references, release_title
from randygpt.cli.models import DEFAULT_PREFIX, ModelOption, Prefix, find_file, find_model, trained_checkpoint
from randygpt.cli.output import emit
from randygpt.errors import CallerError
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.follow import Follower, Update
    from distribution.store import Store
    from server.models import ActiveModel

EXAMPLE = "Example: randygpt serve --port 8080"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_STATUS_INTERVAL_S = 0.2  # seconds between checks for a new service status
_SWITCH_INTERVAL_S = 0.0005  # seconds until a decode worker asks the event loop for the interpreter lock

log = logging.getLogger(__name__)


def serve(
    context: typer.Context,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 for any free port.")
    ] = 8080,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    model: ModelOption = None,
    checkpoint: Prefix = None,
    preset: ModelPreset = None,
    vocab: ModelVocab = None,
    follow: Annotated[
        str | None, typer.Option(metavar="NAME", help="Follow npub…/name and serve each new version.")
    ] = None,
    relay: Relays = None,
    max_size: MaxSize = "1G",
    api_key: Annotated[
        str | None, typer.Option(hide_input=True, metavar="KEY", help="Require this key as a bearer token.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Require one of the keys in this file, one per line.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve without API keys on a network address.")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Accept this Host header; repeat for more.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Allow web pages of this origin, `*` for any; repeat for more."),
    ] = None,
    max_sequences: Annotated[
        int, typer.Option(min=1, metavar="N", help="Sequences running or queued; more get status 503.")
    ] = 128,
    max_per_key: Annotated[
        int, typer.Option(min=1, metavar="N", help="Sequences running or queued per key; more get status 429.")
    ] = 64,
    max_tokens_per_key: Annotated[
        int, typer.Option(min=1, metavar="N", help="Tokens of a key's open requests; more get status 429.")
    ] = 131_072,
    max_connections: Annotated[int, typer.Option(min=1, metavar="N", help="Open connections at once.")] = 512,
    max_memory: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="Refuse a model that would take more memory, such as 500M or 2G.",
            callback=validator(parse_size),
        ),
    ] = "2G",
    log: Annotated[
        Literal["console", "json"], typer.Option(metavar="FORMAT", help="Log format: console or json.")
    ] = "console",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve completions over HTTP.

    Without --model and --checkpoint, it serves the current release. A newly fetched release replaces it without a
    failed request.
    """
    from distribution.store import Store
    from relay_client.url import is_loopback_host
    from server import logs
    from server.app import run_server
    from server.config import ServerConfig
    from server.limits import Limits
    from server.listen import open_sockets
    from server.models import ActiveModel, load_file
    from server.provenance import Provenance
    from server.reloader import Reloader

    keys = _keys(api_key, api_key_file)
    listen_socket = systemd.activation_socket()
    if listen_socket:
        host, port = listen_socket.getsockname()[:2]
    loopback = is_loopback_host(host)
    if not (loopback or keys or insecure):
        raise CallerError(f"{host} is reachable from the network: set --api-key-file or --api-key, or pass --insecure")
    logs.set_up(log, level=logging.WARNING if quiet else logging.INFO)
    config = ServerConfig(
        host=host,
        port=port,
        threads=os.cpu_count() or 1,
        api_keys=keys,
        hosts={*(allow_host or ()), *((*_LOOPBACK, host) if loopback or allow_host else ())},
        origins=allow_origin or (),
        limits=Limits(
            max_sequences=max_sequences,
            max_per_key=max_per_key,
            max_tokens_per_key=max_tokens_per_key,
            max_connections=max_connections,
        ),
    )
    if typed := {name for name in ("model", "checkpoint", "follow") if is_flag_given(context, name)}:
        model, checkpoint, follow = (  # a flag overrides settings that exclude it
            model if "model" in typed else None,
            checkpoint if "checkpoint" in typed else None,
            follow if "follow" in typed else None,
        )
    if (model or checkpoint) and follow:
        raise CallerError("--follow cannot be combined with --model or --checkpoint")
    if not follow and is_flag_given(context, "relay"):
        raise CallerError("--relay requires --follow")
    with contextlib.ExitStack() as opened:
        sockets = [listen_socket] if listen_socket else asyncio.run(open_sockets(host, port))
        for each in sockets:
            opened.enter_context(each)
        path = find_model(model).path if model else trained_checkpoint(checkpoint) if checkpoint else None
        active, reloader, provenance, follower = ActiveModel(), None, None, None
        if path:
            active.current = load_file(path, preset=preset, vocab=vocab, max_memory=parse_size(max_memory))
        else:
            home = Home.from_environment()
            store = Store(home.folder)
            reloader = Reloader(store, active, max_memory=parse_size(max_memory))
            provenance = Provenance(store, home.follow_path, release_describer(home), release_references(home))
            follower = _follower(home, store, follow, relay, parse_size(max_size)) if follow else None
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        server = run_server(active, reloader, config, provenance, listen_sockets=sockets, watchdog=systemd.watchdog)
        raise typer.Exit(asyncio.run(_serve(active, server, follower, as_json=as_json)))


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
        notifier = asyncio.create_task(_notify(active), name="service status")
        if active.current is None:
            log.warning("no model yet: waiting for %s", "the first version" if follower else first_model_hint())
        async with _following(follower):
            code = 128 + await stop
        notifier.cancel()
        systemd.notify(status="finishing open requests", stopping=True)
        return code


def first_model_hint() -> str:
    """Return what gives a server without a model one, naming the checkpoint in this folder if it has one."""
    found = find_file(str(DEFAULT_PREFIX)) or min(Path().glob("*.bin"), default=None)
    if not found:
        return "`randygpt fetch`; to serve a file, use --model"
    return f"`randygpt fetch`; to serve the checkpoint in this folder, use --model {found}"


async def _notify(active: "ActiveModel") -> None:
    """Report the served model to the service manager; ready once a model is loaded."""
    reported = None
    while True:
        status = _status(active)
        if status != reported:
            systemd.notify(status=status, ready=active.current is not None)
            reported = status
        await asyncio.sleep(_STATUS_INTERVAL_S)


def _status(active: "ActiveModel") -> str:
    """Return which model is served. A function of its own, so that no waiting frame keeps an old model alive."""
    loaded, failure = active.current, active.failure
    status = f"serving {loaded.label}" if loaded else "waiting for a first model"
    return f"{status}; not swapped: {failure}" if failure else status


@contextlib.asynccontextmanager
async def _following(follower: "Follower | None") -> AsyncIterator[None]:
    """Run a follower in the background; if it fails, the server keeps the model it has."""

    async def follow(follower: "Follower") -> None:
        try:
            await follower.run()
        except Exception:
            log.exception("stopped following after an error")

    task = asyncio.create_task(follow(follower), name="follow") if follower else None
    try:
        yield
    finally:
        if task:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _follower(home: Home, store: "Store", name: str, relay: list[str] | None, max_size: int) -> "Follower":
    """Return the follower to run with the server, which logs its events; raises CallerError and NotTrusted."""
    from distribution.follow import Installed, Skipped, VersionRevoked
    from randygpt.fetching import follow_target, look_up_name, make_follower

    _, trusted = open_store(home)

    def tell(update: "Update") -> None:
        match update:
            case Installed(release=release):
                log.info("installed %s", release_title(release, trusted), extra={"release": release.id.hex()})
            case Skipped(release=release, reason=reason):
                log.warning("%s version %s: %s", release.name, release.version, reason)
            case VersionRevoked(name=name, version=version, reason=reason):
                log.warning("%s version %s was revoked: %s", name, version, reason or "no reason given")
            case _:
                log.warning("follow: %s", update.error)

    spelled = asyncio.run(look_up_name(home, name, on_note=log.info))
    target = follow_target(home, spelled, relays=relay)
    log.info("following %s on %s", name, ", ".join(target.urls))
    return make_follower(home, store, target, max_size=max_size, on_update=tell)


def _stop(stop: asyncio.Future[int], number: int) -> None:
    if not stop.done():
        stop.set_result(number)


def _keys(api_key: str | None, file: Path | None) -> list[str]:
    """Return the accepted API keys; raises CallerError for an empty key, or a file that is not UTF-8 or has no keys."""
    keys = [] if api_key is None else [api_key]
    if file:
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError:
            raise CallerError(f"{file}: not UTF-8 text (--api-key-file)") from None
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise CallerError(f"{file}: no API keys in it")
        keys += found
    if not all(key.strip() for key in keys):
        raise CallerError("an API key must not be empty (--api-key)")
    return keys
