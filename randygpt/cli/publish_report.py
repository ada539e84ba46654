"""What `randygpt publish` prints: the release and its references, an estimate, and what relays and servers lack."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from randygpt.cli.events_output import report_events_output
from randygpt.cli.output import emit, format_duration, format_size, print_stderr
from randygpt.cli.qr import print_qr

if TYPE_CHECKING:
    from distribution.dry_run import DryRun
    from distribution.publish import Published
    from distribution.references import References
    from randygpt.publishing import Publication


def report_dry_run(publication: "Publication", estimate: "DryRun", *, as_json: bool) -> None:
    """Print what a publish would send."""
    total = f"{estimate.events:,} events, {format_size(estimate.bytes)}"
    if estimate.file_events:
        total += f", and {estimate.file_events} that describe files (--nip94)"
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


def report_written(written: "Published", out: Path, *, as_json: bool, quiet: bool) -> None:
    """Print the release whose events were written to a file."""
    from relay_client.nip19 import encode_npub

    release = written.release
    result = {
        "release": release.id.hex(),
        "name": release.name,
        "version": release.version,
        "events": written.events,
        "bytes": written.bytes,
        "out": str(out),
        **_chunk_author(written),
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


def report(published: "Published", references: "References", *, as_json: bool, quiet: bool) -> None:
    """Print a published release, with the references for others, and what relays and servers did not take."""
    from relay_client.nip19 import encode_note, encode_npub

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
        **_chunk_author(published),
    }
    if described := published.file_events:
        result["file_events"] = {"ids": [each.hex() for each in described.ids], "relays": dict(described.relays)}
    for name, sent in published.announced.items():
        result[name] = {"id": sent.id.hex() if sent.id else None, "relays": dict(sent.relays), "failure": sent.failure}
    if not quiet:
        _print_notes(published, references)
        for name, sent in published.announced.items():
            for reason in filter(None, [sent.failure, *sent.relays.values()]):
                print_stderr(f"{name} not sent: {reason}")
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
            *(f"{name:<8} {encode_note(sent.id)}" for name, sent in published.announced.items() if sent.id),
            f"fetch    {references.command}",
        ]
    )
    emit(as_json, result, text)


def report_qr(references: "References") -> None:
    """Print a QR code of the naddr as a `nostr:` URI; in capitals, which make the code smaller."""
    uri = f"nostr:{references.naddr}".upper()
    if not print_qr(uri):
        print_stderr(f"no QR code (--qr): it needs a terminal with UTF-8 and enough columns; the code would be {uri}")


def _chunk_author(published: "Published") -> dict[str, str]:
    """Return the public key that signed the chunks, for JSON; nothing if the author did."""
    author = published.manifest.chunk_author
    return {"chunk_author": author.hex()} if author else {}


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
