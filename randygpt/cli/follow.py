"""`randygpt follow`: install each new version of a model as it appears."""

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import installed, systemd
from randygpt.cli.flags import Json, MaxSize, Quiet, Relays, parse_size
from randygpt.cli.output import byte_progress, emit, print_stderr
from randygpt.cli.post_install import PostInstallHook
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.follow import Follower, FollowStatus, FollowTarget, Update
    from distribution.installed import InstalledRelease
    from distribution.trust_list import TrustList

EXAMPLE = "Example: randygpt follow npub1…/shakespeare --exec 'echo $RANDYGPT_NAME $RANDYGPT_VERSION'"


class Event(StrEnum):
    """Values of `event` in the JSON lines, as docs/distribution.md explains them."""

    INSTALLED = "installed"
    NOTICED = "noticed"
    REVOKED = "revoked"
    TROUBLE = "trouble"
    DISCONNECTED = "disconnected"
    CONNECTED = "connected"
    UP_TO_DATE = "up to date"


def follow(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="npub…/name, alice/name or naddr; or the name of an installed one.",
            autocompletion=installed.complete_address,
        ),
    ],
    relay: Relays = None,
    once: Annotated[bool, typer.Option("--once", help="Install the latest version, then exit.")] = False,
    notify_only: Annotated[
        bool, typer.Option("--notify-only", help="Report new versions without installing them.")
    ] = False,
    command: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="COMMAND",
            help="Run this after each install, with the variables RANDYGPT_RELEASE, _NAME, _VERSION, _AUTHOR, "
            "_CHECKPOINT and _FOLDER.",
        ),
    ] = None,
    max_size: MaxSize = "1G",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Install each new version of a model until Ctrl-C.

    Each new version becomes the current release. Older versions are refused, even after a restart. A release chosen
    with `use` stays until a newer version appears; a pinned release stays.
    """
    from randygpt.fetching import follow_target, look_up_name, make_follower

    home, limit = Home.from_environment(), parse_size(max_size)
    store, trusted = installed.open_store(home)
    note = (lambda _text: None) if quiet else print_stderr
    spelled = asyncio.run(look_up_name(home, name, on_note=note))
    target = follow_target(home, spelled, relays=relay, notify_only=notify_only)
    report = _Report(trusted, command, as_json=as_json, quiet=quiet)
    with byte_progress("fetching", shown=not (as_json or quiet)) as on_progress:
        follower = make_follower(
            home,
            store,
            target,
            max_size=limit,
            on_update=report.on_update,
            on_status=lambda status: _report_status(target, status, report),
            on_progress=on_progress,
        )
        if not once:
            report.on_start(target)
        asyncio.run(_catch_up(follower, report) if once else _run(follower))


async def _run(follower: "Follower") -> None:
    async with systemd.watchdog(lambda: asyncio.sleep(0)):  # a running event loop is enough
        await follower.run()


def _report_status(target: "FollowTarget", status: "FollowStatus", report: "_Report") -> None:
    """Report the status to the user and the service manager; ready once a relay has a live subscription."""
    report.on_links({url: link.reason if not link.connected else "" for url, link in status.links.items()})
    connected = sum(link.connected for link in status.links.values())
    version = f"version {status.version}" if status.version else "no version seen yet"
    status_line = f"following {target.address.name}: {version}, {connected} of {len(status.links)} relays"
    systemd.notify(status=status_line, ready=connected > 0)


async def _catch_up(follower: "Follower", report: "_Report") -> None:
    update = await follower.catch_up()
    if update is None:
        report.on_no_update()
    else:
        report.on_update(update)
        await report.finish()


class _Report:
    """Printer of updates: results on stdout, notes on stderr; starts the post-install command."""

    def __init__(self, trusted: "TrustList", command: str | None, *, as_json: bool, quiet: bool) -> None:
        self._trusted = trusted
        self._hook = PostInstallHook(command) if command else None
        self._failures: dict[str, str] = {}  # URL -> why it is not connected
        self._as_json = as_json
        self._quiet = quiet

    def on_update(self, update: "Update") -> None:
        """Print an update; after an install, start the post-install command."""
        from distribution.follow import Installed, Skipped, VersionRevoked

        match update:
            case Installed(release=release):
                text = f"current: {installed.release_title(release, self._trusted)}\nrelease  {release.id.hex()}"
                facts = installed.release_json(release, self._trusted)
                self._emit(Event.INSTALLED, facts | {"path": str(release.folder)}, text)
                if self._hook:
                    self._hook.start(_environment(release))
            case Skipped(release=found, reason=reason):
                text = f"{found.title} by {self._trusted.display_name(found.author)}: {reason}"
                facts = {"release": found.id.hex(), "name": found.name, "version": found.version}
                self._emit(Event.NOTICED, facts | {"reason": reason}, text)
            case VersionRevoked(release_id=release_id, name=name, version=version, reason=reason):
                facts = {"release": release_id.hex(), "name": name, "version": version, "reason": reason}
                if self._as_json:
                    self._emit(Event.REVOKED, facts)
                elif not self._quiet:
                    print_stderr(f"{name} version {version} was revoked: {reason or 'no reason given'}")
            case _:
                reason = " ".join(str(update.error).split()) or type(update.error).__name__
                if self._as_json:
                    self._emit(Event.TROUBLE, {"reason": reason})
                elif not self._quiet:
                    print_stderr(f"follow: {reason}")

    def on_start(self, target: "FollowTarget") -> None:
        """Print which model is followed, and on which relays."""
        if not self._quiet and not self._as_json:
            who = self._trusted.display_name(target.address.author)
            print_stderr(f"following {target.address.name} by {who} on {', '.join(target.urls)}")

    def on_links(self, failures: dict[str, str]) -> None:
        """Print outages of relays and their end; `failures` has the reason by URL, empty while connected."""
        for url, reason in failures.items():
            if bool(reason) == bool(self._failures.get(url)):
                continue
            self._failures[url] = reason
            if self._as_json:
                self._emit(Event.DISCONNECTED if reason else Event.CONNECTED, {"relay": url, "reason": reason})
            elif not self._quiet:
                print_stderr(f"follow: {reason}; reconnecting" if reason else f"follow: connected to {url} again")

    def on_no_update(self) -> None:
        """Report that the installed version is the latest."""
        if self._as_json:
            self._emit(Event.UP_TO_DATE, {})
        elif not self._quiet:
            print_stderr("no new version")

    def _emit(self, event: Event, facts: Mapping[str, object], text: str = "") -> None:
        emit(self._as_json, {"event": event.value, **facts}, text)

    async def finish(self) -> None:
        """Wait for the post-install command."""
        if self._hook:
            await self._hook.finish()


def _environment(release: "InstalledRelease") -> dict[str, str]:
    from relay_client.nip19 import encode_npub

    facts = {
        "RELEASE": release.id.hex(),
        "NAME": release.name,
        "VERSION": str(release.version),
        "AUTHOR": encode_npub(release.author),
        "CHECKPOINT": str(release.file("checkpoint").local_path),
        "FOLDER": str(release.folder),
    }
    return {f"RANDYGPT_{name}": value for name, value in facts.items()}
