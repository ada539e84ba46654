"""`randygpt publish`: publish a checkpoint with its vocabulary and configuration as signed events."""

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from randygpt.cli.events_output import check_events_output, open_events_output
from randygpt.cli.flags import (
    Json,
    ModelPreset,
    ModelVocab,
    NoServers,
    Quiet,
    Relays,
    Servers,
    is_flag_given,
    parse_duration,
    resolve_servers,
    validator,
)
from randygpt.cli.keys import KeyFile, PasswordFile, signing_key
from randygpt.cli.models import ModelArgument, find_model
from randygpt.cli.output import byte_progress, print_stderr
from randygpt.cli.publish_confirm import ask_name, confirm
from randygpt.cli.publish_report import report, report_dry_run, report_qr, report_written
from randygpt.errors import CallerError
from randygpt.user.home import Home

EXAMPLE = "Example: randygpt publish checkpoint_best.bin --name shakespeare --relay wss://relay.example"


def publish(
    context: typer.Context,
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
            callback=validator(parse_duration),
        ),
    ] = None,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    chunk_key: Annotated[
        Literal["author", "throwaway"] | None,
        typer.Option(
            metavar="KEY",
            help="Key that signs the chunks: author, or throwaway (a new one, which is not stored); default: author, "
            "or throwaway with a remote signer.",
        ),
    ] = None,
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
    note: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Send a note (kind 1) with this text and a link to the model.")
    ] = None,
    nip89: Annotated[
        bool, typer.Option("--nip89", help="Tell other programs that randygpt reads releases (NIP-89).")
    ] = False,
    qr: Annotated[bool, typer.Option("--qr", help="Print a QR code of the reference (naddr), on a terminal.")] = False,
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
    from distribution.announce import Announcement
    from randygpt.checkpoint.sidecar import inspect_checkpoint
    from randygpt.origins import origin_of
    from randygpt.own_lists import bud03_servers, nip65_relays
    from randygpt.publishing import Publication, published_references
    from randygpt.release_files import checkpoint_spec

    home, expires_in_s = Home.from_environment(), parse_duration(expires) if expires else None
    announcement = Announcement(note=note, handler=nip89)
    if out is not None:
        check_events_output(
            out,
            as_json=as_json,
            other=_without_sending(
                dry_run=dry_run,
                nip65=nip65,
                my_servers=my_servers,
                nip94=nip94,
                note=note is not None,
                nip89=nip89,
                qr=qr,
                server=is_flag_given(context, "server"),
                no_relay_chunks=is_flag_given(context, "relay_chunks") and not relay_chunks,
            ),
        )
    urls = home.resolve_relays(relay) if out is None or relay or home.relays() else []
    key = signing_key(home, key_file, password_file)
    if my_servers and no_servers:
        raise CallerError("--no-servers excludes --my-servers")
    servers = resolve_servers(home, server, none=no_servers)
    named = find_model(model)
    checkpoint, release = named.path, named.release
    info = inspect_checkpoint(checkpoint, preset=preset, vocab=vocab)
    name = name or (None if yes else ask_name(info))
    extra = {key: value for key, value in (("license", license_), ("about", about)) if value}
    if nip65:
        urls = _extended(urls, nip65_relays(urls, key), "" if quiet else "write relays from your NIP-65 list")
    if my_servers:
        servers = _extended(servers, bud03_servers(urls, key), "" if quiet else "servers from your published list")
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
                base=origin_of(release) if release and release.author != key.pubkey else None,
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
            announcement=announcement,
            throwaway_chunk_key=None if chunk_key is None else chunk_key == "throwaway",
        )
        if out is not None:
            with (
                open_events_output(out) as events,
                byte_progress("writing", shown=not (as_json or quiet)) as on_progress,
            ):
                written = asyncio.run(publication.write(events, on_progress))
            report_written(written, out, as_json=as_json, quiet=quiet)
            return
        if dry_run:
            report_dry_run(publication, asyncio.run(publication.dry_run()), as_json=as_json)
            return
        confirm(publication, info, yes=yes, quiet=quiet or as_json)
        with byte_progress("publishing", shown=not (as_json or quiet)) as on_progress:
            published = asyncio.run(publication.publish(on_progress))
    if published.resumed and (extra or tag or expires or chunk_key) and not quiet:
        print_stderr(
            "already published: license, description, topics, expiry and chunk key stay as they were; to change them, "
            "use --new-version"
        )
    references = published_references(published, copies=copies)
    report(published, references, as_json=as_json, quiet=quiet)
    if qr:
        report_qr(references)


def _extended(addresses: Sequence[str], listed: Coroutine[object, object, list[str]], title: str) -> list[str]:
    """Return addresses and those of a list on relays, each once; print the list under a title if it is not empty."""
    found = asyncio.run(listed)
    if title:
        print_stderr(f"{title}: {', '.join(found)}")
    return list(dict.fromkeys([*addresses, *found]))


def _without_sending(**given: bool) -> str:
    """Return the first given flag that makes sense only for a publish that sends, empty if none is given."""
    return next((f"--{flag.replace('_', '-')}" for flag, is_given in given.items() if is_given), "")
