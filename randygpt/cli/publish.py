"""`randygpt publish`: a checkpoint, with what is needed to use it, as signed events."""

import asyncio
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import release_files
from randygpt.cli.keys import KeyFile, PasswordFile, signing_key
from randygpt.cli.output import (
    Json,
    Quiet,
    Relays,
    byte_progress,
    emit,
    format_duration,
    format_size,
    print_stderr,
    validate_preset,
    validator,
)
from randygpt.cli.relays import resolve_relays
from randygpt.errors import CallerError
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.dry_run import DryRun
    from distribution.publish import OnProgress, Published
    from distribution.source import SourceFile
    from relay_client.keys import SecretKey

EXAMPLE = "Example: randygpt publish checkpoint_best.bin --name shakespeare --relay wss://relay.example"

_HINTS = 3  # relays named in an nevent
_MANY = 1_000  # events that a relay of somebody else is not sent without a word
_SECONDS = {"h": 3_600, "d": 86_400, "w": 7 * 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What to publish, where to, and how."""

    home: Home
    urls: list[str]
    key: "SecretKey"
    files: "Sequence[SourceFile]"
    name: str
    format: str
    card: dict[str, object]
    copies: int | None
    new_version: bool
    expires_in_s: int | None
    check: bool


def _seconds(text: str) -> int:
    found = re.fullmatch("([1-9][0-9]{0,4})([hdw])", text)
    if not found:
        raise CallerError(f"{text}: not a time like 12h, 30d or 8w")
    return int(found[1]) * _SECONDS[found[2]]


def publish(
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint (RGPT0001 to RGPT0003).")],
    name: Annotated[str | None, typer.Option(help="What to call it; by default what the JSON beside it says.")] = None,
    relay: Relays = None,
    nip65: Annotated[
        bool, typer.Option("--nip65", help="Also to the write relays of your NIP-65 list, as your relays know it.")
    ] = False,
    copies: Annotated[
        int | None, typer.Option(min=1, help="Relays that each chunk goes to; by default all of them.")
    ] = None,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Without optimizer state: a third of the bytes, as RGPT0002.")
    ] = False,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Relays may forget it after 12h, 30d or 8w (NIP-40).", callback=validator(_seconds)
        ),
    ] = None,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    preset: Annotated[
        str | None, typer.Option(callback=validate_preset, help="Its shape, where nothing beside the file says.")
    ] = None,
    vocab: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its vocab.json, if not what is beside the file.")
    ] = None,
    license_: Annotated[str | None, typer.Option("--license", help="A licence, for the card.")] = None,
    about: Annotated[str | None, typer.Option(help="A few words, for the card.")] = None,
    new_version: Annotated[bool, typer.Option("--new-version", help="A new version of the same bytes.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Ask the relays for every event again, and send what they have lost.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent, and how long it would take. Send nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before sending many events.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish a model. The same files again send only what the relays lack, and keep their id."""
    from randygpt.checkpoint.header import WEIGHTS_MAGIC
    from randygpt.checkpoint.sidecar import inspect_checkpoint

    home, expires_in_s = Home.from_environment(), _seconds(expires) if expires else None
    urls, key = resolve_relays(home, relay), signing_key(home, key_file, password_file)
    found = inspect_checkpoint(checkpoint, preset=preset, vocab=vocab)
    extra = {key: value for key, value in (("license", license_), ("about", about)) if value}
    if nip65:
        listed = asyncio.run(_relay_list(urls, key))
        urls = list(dict.fromkeys([*urls, *listed]))
        if not quiet:
            print_stderr(f"your relay list says to write to {', '.join(listed)}")
    if copies and copies > len(urls):
        raise CallerError(f"--copies {copies}: that many relays are needed, and there are {len(urls)} (--relay)")
    with checkpoint.open("rb") as file:
        job = _Job(
            home=home,
            urls=urls,
            key=key,
            files=release_files.sources(file, found, weights_only=weights_only),
            name=name or release_files.default_name(found),
            format=WEIGHTS_MAGIC.decode() if weights_only else found.header.magic,
            card=release_files.card(found) | extra,
            copies=copies,
            new_version=new_version,
            expires_in_s=expires_in_s,
            check=check,
        )
        if dry_run:
            _report_dry_run(job, _dry_run(job), as_json=as_json)
            return
        if not yes:
            _ask_before_many(job)
        with byte_progress("publishing", shown=not (as_json or quiet)) as on_progress:
            published = asyncio.run(_publish(job, on_progress))
    if published.resumed and (extra or expires) and not quiet:
        print_stderr("published before: card and expiry stay as they were then; --new-version makes a new one")
    _report(published, as_json=as_json, quiet=quiet)


async def _relay_list(urls: list[str], key: "SecretKey") -> list[str]:
    """The relays that the key's relay list, as these relays know it, says to write to; raises NotFound."""
    from distribution.errors import NotFound
    from relay_client.errors import InvalidEvent
    from relay_client.event import Event
    from relay_client.filter import Filter
    from relay_client.nip65 import RELAY_LIST_KIND, write_relays
    from relay_client.pool import Pool

    lists = []
    async with Pool(urls, signer=key) as pool:
        for _, raw_event in await pool.query(Filter(authors=(key.pubkey,), kinds=(RELAY_LIST_KIND,), limit=1)):
            try:
                lists.append(Event.parse(raw_event))
            except InvalidEvent:
                continue
    found = write_relays(lists, author=key.pubkey)
    if not found:
        raise NotFound("your relays have no NIP-65 list of this key that names a relay to write to")
    return found


def _dry_run(job: _Job) -> "DryRun":
    from distribution.dry_run import dry_run
    from distribution.journal import Journal

    with Journal(job.home.journal_path) as journal:
        return dry_run(
            job.files,
            journal=journal,
            author=job.key.pubkey,
            relays=job.urls,
            name=job.name,
            format=job.format,
            card=job.card,
            now=int(time.time()),
            copies=job.copies,
            new_version=job.new_version,
            expires_in_s=job.expires_in_s,
        )


def _ask_before_many(job: _Job) -> None:
    """Get a yes for many events to relays of others; raises CallerError if there is none."""
    from distribution.plan import max_events
    from relay_client.url import is_loopback

    if max_events(job.files) <= _MANY or all(is_loopback(url) for url in job.urls):
        return
    shares = _dry_run(job).relays
    many = {url: share for url, share in shares.items() if share.events > _MANY and not is_loopback(url)}
    if not many:
        return
    words = "; ".join(f"{url}: {share.events:,} events, {format_size(share.bytes)}" for url, share in many.items())
    if not sys.stdin.isatty():
        raise CallerError(f"that is much to send to relays of others ({words}): say --yes if you mean it")
    sys.stderr.write(f"{words}\nSend them? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CallerError("nothing was sent")


async def _publish(job: _Job, on_progress: "OnProgress") -> "Published":
    from distribution.journal import Journal
    from distribution.publish import Publisher
    from relay_client.pool import Pool

    with Journal(job.home.journal_path) as journal:
        async with Pool(job.urls, signer=job.key) as pool:
            publisher = Publisher(
                pool=pool,
                journal=journal,
                key=job.key,
                now=lambda: int(time.time()),
                copies=job.copies,
                check=job.check,
                on_progress=on_progress,
            )
            return await publisher.publish(
                job.files,
                name=job.name,
                format=job.format,
                card=job.card,
                new_version=job.new_version,
                expires_in_s=job.expires_in_s,
            )


def _report_dry_run(job: _Job, estimate: "DryRun", *, as_json: bool) -> None:
    total = f"{estimate.events:,} events, {format_size(estimate.bytes)}"
    lines = [f"{job.name} version {estimate.version}: {total}; nothing is sent"]
    for url, share in estimate.relays.items():
        if not share.events:
            lines.append(f"{url}  nothing: it has all of it")
            continue
        speed = "at the speed of last time" if share.measured else "at a guess"
        lines.append(
            f"{url}  {share.events:,} events, {format_size(share.bytes)}, {format_duration(share.seconds)} {speed}"
        )
    emit(as_json, {"name": job.name, **asdict(estimate)}, "\n".join(lines))


def _report(published: "Published", *, as_json: bool, quiet: bool) -> None:
    from distribution.events import RELEASE_KIND
    from relay_client.keys import encode_nevent, encode_npub

    release, relays = published.release, published.relays
    hints = [url for url, report in relays.items() if not report.reason][:_HINTS]
    nevent = encode_nevent(release.id, author=release.author, kind=RELEASE_KIND, relays=hints)
    result = {
        "release": release.id.hex(),
        "nevent": nevent,
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
    }
    if not quiet:
        for url, report in relays.items():
            if report.reason:
                print_stderr(f"left out: {report.reason}")
            if report.requirements:
                print_stderr(f"{url} says of itself: {', '.join(report.requirements)}")
        if all(not report.accepted for report in relays.values()):
            print_stderr("nothing was sent: the relays have all of it already")
    author = encode_npub(release.author)
    text = "\n".join(
        [
            f"{release.name} version {release.version} by {author}",
            f"release  {release.id.hex()}",
            f"nevent   {nevent}",
            f"sent as  {published.events} events, {format_size(published.bytes)}",
            f"fetch    randygpt fetch {author}/{release.name}",
        ]
    )
    emit(as_json, result, text)
