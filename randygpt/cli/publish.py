"""`randygpt publish`: publish a checkpoint with its vocabulary and configuration as signed events."""

import asyncio
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli.events_output import check_events_output, open_events_output, report_events_output
from randygpt.cli.flags import (
    Json,
    ModelPreset,
    ModelVocab,
    NoServers,
    Quiet,
    Relays,
    Servers,
    resolve_servers,
    validator,
)
from randygpt.cli.keys import KeyFile, PasswordFile, signing_key
from randygpt.cli.models import ModelArgument, find_model
from randygpt.cli.output import byte_progress, emit, format_duration, format_size, print_stderr
from randygpt.cli.publish_confirm import ask_name, confirm
from randygpt.errors import CallerError
from randygpt.user.home import Home
from relay_client.errors import quote

if TYPE_CHECKING:
    from distribution.dry_run import DryRun
    from distribution.publish import Published
    from distribution.references import References
    from randygpt.sharing import Publication

EXAMPLE = "Example: randygpt publish checkpoint_best.bin --name shakespeare --relay wss://relay.example"

_SECONDS = {"h": 3_600, "d": 86_400, "w": 7 * 86_400}


def _seconds(text: str) -> int:
    found = re.fullmatch("([1-9][0-9]{0,4})([hdw])", text)
    if not found:
        raise CallerError(f"{quote(text)} is not a duration such as 12h, 30d or 8w")
    return int(found[1]) * _SECONDS[found[2]]


def publish(
    model: ModelArgument,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the model; default: the name it was trained under.")
    ] = None,
    relay: Relays = None,
    server: Servers = None,
    no_servers: NoServers = False,
    relay_chunks: Annotated[
        bool, typer.Option(help="Send the files to relays too, not only to Blossom servers.")
    ] = True,
    nip65: Annotated[
        bool, typer.Option("--nip65", help="Publish also to the write relays of your NIP-65 relay list.")
    ] = False,
    my_servers: Annotated[
        bool, typer.Option("--my-servers", help="Upload also to the servers of your published list (kind 10063).")
    ] = False,
    nip94: Annotated[
        bool, typer.Option("--nip94", help="Describe files on Blossom servers for other programs (NIP-94).")
    ] = False,
    copies: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of relays to send each chunk to; default: all.")
    ] = None,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Omit the optimizer state (RGPT0002): a third of the size.")
    ] = False,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Let relays delete it after, for example, 12h, 30d or 8w (NIP-40).",
            callback=validator(_seconds),
        ),
    ] = None,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    preset: ModelPreset = None,
    vocab: ModelVocab = None,
    license_: Annotated[
        str | None, typer.Option("--license", metavar="TEXT", help="License, for the model card.")
    ] = None,
    about: Annotated[str | None, typer.Option(metavar="TEXT", help="Description, for the model card.")] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TOPIC", help="Topic under which others find it, such as poetry; repeatable, at most 10."),
    ] = None,
    new_version: Annotated[
        bool, typer.Option("--new-version", help="Publish unchanged files as a new version.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Ask the relays for every event, and send those they lack.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the signed events to this file (JSONL; - for standard output), and send nothing.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent and how long it would take.")
    ] = False,
    without_validation: Annotated[
        bool, typer.Option("--without-validation", help="Publish a checkpoint that was never evaluated.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Publish without asking.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish a model.

    Publishing the same files again keeps the release id and sends only what the relays lack.
    """
    from randygpt.checkpoint.sidecar import inspect_checkpoint
    from randygpt.own_lists import bud03_servers, nip65_relays
    from randygpt.release_files import checkpoint_spec
    from randygpt.sharing import Publication, published_references

    home, expires_in_s = Home.from_environment(), _seconds(expires) if expires else None
    if out is not None:
        check_events_output(
            out,
            as_json=as_json,
            other=_without_sending(dry_run=dry_run, nip65=nip65, my_servers=my_servers, nip94=nip94),
        )
    urls = home.resolve_relays(relay) if out is None or relay or home.relays() else []
    key = signing_key(home, key_file, password_file)
    if my_servers and no_servers:
        raise CallerError("--no-servers excludes --my-servers")
    servers = resolve_servers(home, server, none=no_servers)
    checkpoint = find_model(model).path
    info = inspect_checkpoint(checkpoint, preset=preset, vocab=vocab)
    name = name or (None if yes else ask_name(info))
    extra = {key: value for key, value in (("license", license_), ("about", about)) if value}
    if nip65:
        listed = asyncio.run(nip65_relays(urls, key))
        urls = list(dict.fromkeys([*urls, *listed]))
        if not quiet:
            print_stderr(f"write relays from your NIP-65 list: {', '.join(listed)}")
    if my_servers:
        listed = asyncio.run(bud03_servers(urls, key))
        servers = list(dict.fromkeys([*servers, *listed]))
        if not quiet:
            print_stderr(f"servers from your published list: {', '.join(listed)}")
    with checkpoint.open("rb") as file:
        publication = Publication(
            home=home,
            relays=urls,
            key=key,
            spec=checkpoint_spec(
                file,
                info,
                name=name,
                card=extra,
                topics=tag or (),
                weights_only=weights_only,
                without_validation=without_validation,
                new_version=new_version,
                expires_in_s=expires_in_s,
            ),
            copies=None if out else copies,
            check=check,
            servers=[] if out else servers,
            send_chunks=relay_chunks or out is not None,
            nip94=nip94,
        )
        if out is not None:
            with (
                open_events_output(out) as events,
                byte_progress("writing", shown=not (as_json or quiet)) as on_progress,
            ):
                written = asyncio.run(publication.write(events, on_progress))
            _report_written(written, out, as_json=as_json, quiet=quiet)
            return
        if dry_run:
            _report_dry_run(publication, asyncio.run(publication.dry_run()), as_json=as_json)
            return
        confirm(publication, info, yes=yes, quiet=quiet or as_json)
        with byte_progress("publishing", shown=not (as_json or quiet)) as on_progress:
            published = asyncio.run(publication.publish(on_progress))
    if published.resumed and (extra or tag or expires) and not quiet:
        print_stderr(
            "already published: --license, --about, --tag and --expires are ignored; to change them, use --new-version"
        )
    _report(published, published_references(published, copies=copies), as_json=as_json, quiet=quiet)


def _without_sending(**given: bool) -> str:
    """Return the first given flag that makes sense only for a publish that sends, empty if none is given."""
    return next((f"--{flag.replace('_', '-')}" for flag, is_given in given.items() if is_given), "")


def _report_dry_run(publication: "Publication", estimate: "DryRun", *, as_json: bool) -> None:
    total = f"{estimate.events:,} events, {format_size(estimate.bytes)}"
    lines = [f"{publication.spec.name} version {estimate.version}: {total} (dry run, nothing sent)"]
    for url, share in estimate.relays.items():
        if not share.events:
            lines.append(f"{url}  nothing to send")
            continue
        basis = "as fast as last time" if share.measured else "rough estimate"
        lines.append(
            f"{url}  {share.events:,} events, {format_size(share.bytes)}, {format_duration(share.seconds)} ({basis})"
        )
    lines += [f"{origin}  {each.blobs:,} files, {format_size(each.bytes)}" for origin, each in estimate.servers.items()]
    emit(as_json, {"name": publication.spec.name, **asdict(estimate)}, "\n".join(lines))


def _report_written(written: "Published", out: Path, *, as_json: bool, quiet: bool) -> None:
    from relay_client.nip19 import encode_npub

    release = written.release
    result = {
        "release": release.id.hex(),
        "name": release.name,
        "version": release.version,
        "events": written.events,
        "bytes": written.bytes,
        "out": str(out),
    }
    text = "\n".join(
        [
            release.title,
            f"author   {encode_npub(release.author)}",
            f"release  {release.id.hex()}",
            f"size     {written.events:,} events, {format_size(written.bytes)}",
            f"fetch    {shlex.join(['randygpt', 'fetch', '--from', str(out)])}",
        ]
    )
    report_events_output(out, result, text, as_json=as_json, quiet=quiet)


def _report(published: "Published", references: "References", *, as_json: bool, quiet: bool) -> None:
    from relay_client.nip19 import encode_npub

    release, relays = published.release, published.relays
    result = {
        "release": release.id.hex(),
        "nevent": references.nevent,
        "naddr": references.naddr,
        "fetch": references.command,
        "name": release.name,
        "version": release.version,
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256.hex()} for file in published.manifest.files
        ],
        "events": published.events,
        "bytes": published.bytes,
        "relays": {
            url: {"accepted": report.accepted, "duplicate": report.duplicate, "refused": report.refused}
            | ({"reason": report.reason} if report.reason else {})
            for url, report in relays.items()
        },
        "servers": {
            origin: {"uploaded": report.uploaded, "present": report.present, "refused": report.refused}
            | ({"reason": report.reason} if report.reason else {})
            for origin, report in published.servers.items()
        },
    }
    if described := published.file_events:
        result["file_events"] = {"ids": [each.hex() for each in described.ids], "relays": dict(described.relays)}
    if not quiet:
        _print_notes(published, references)
    author = encode_npub(release.author)
    text = "\n".join(
        [
            release.title,
            f"author   {author}",
            f"release  {release.id.hex()}",
            f"nevent   {references.nevent}",
            f"size     {published.events:,} events, {format_size(published.bytes)}",
            *(
                f"server   {origin}, {each.uploaded:,} files sent, {each.present:,} already there"
                for origin, each in published.servers.items()
                if not each.reason
            ),
            f"fetch    {references.command}",
        ]
    )
    emit(as_json, result, text)


def _print_notes(published: "Published", references: "References") -> None:
    """Print on stderr what relays and servers did not take, and what a friend could not reach."""
    described, relays = published.file_events, published.relays
    for reason in filter(None, described.relays.values() if described else ()):
        print_stderr(f"file events (--nip94) not stored: {reason}")
    if described and not described.ids:
        print_stderr("no file events (--nip94): no server has a file as one blob")
    for stored in published.servers.values():
        if stored.reason:
            print_stderr(f"skipped server: {stored.reason}")
    for url, report in relays.items():
        if report.reason:
            print_stderr(f"skipped relay: {report.reason}")
        if report.requirements:
            print_stderr(f"{url} announces: {', '.join(report.requirements)}")
    if all(not report.accepted for report in relays.values()):
        print_stderr("nothing sent: the relays already have every event")
    if references.only_local:
        print_stderr(
            f"only this machine reaches {', '.join(references.relays)}; for a friend: "
            "randygpt relay --host 0.0.0.0 --add"
        )
