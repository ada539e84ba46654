"""Releases on relays that are not fetched: `show` of a remote release, and `fetch --dry-run`."""

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from randygpt.cli.card import card_lines
from randygpt.cli.installed import lineage_json, lineage_lines, release_json
from randygpt.cli.output import emit, format_date, format_size

if TYPE_CHECKING:
    from distribution.preview import FetchPlan, Preview
    from distribution.trust_list import TrustList
    from relay_client.relay_status import RelayReport


def print_preview(preview: "Preview", trusted: "TrustList", reference: str, *, as_json: bool) -> None:
    """Print what is known of a release without its files, and the command that fetches it."""
    release = preview.release
    facts = release_json(release, trusted) | {
        "installed": False,
        "created_at": release.created_at,
        "format": release.format,
        "size": release.size,
        "card": release.card,
        "ancestors": lineage_json(release.lineage, trusted),
        "relays": list(preview.relays),
        "servers": list(release.servers),
    }
    indent = "\n" + " " * 12
    lines = {
        "release": release.id.hex(),
        "name": f"{release.title} (not installed)",
        "signed by": trusted.display_name(release.author),
        "date": format_date(release.created_at, minutes=True),
        "size": f"{format_size(release.size)} ({release.size:,} bytes), {release.format}",
        **card_lines(release.card),
        "made from": indent.join(lineage_lines(release.lineage, trusted)),
        "relays": indent.join(preview.relays),
        "servers": indent.join(release.servers),
        "fetch": f"randygpt fetch {shlex.quote(reference)}",
    }
    emit(as_json, facts, "\n".join(f"{label:<10}  {value}" for label, value in lines.items() if value))


def print_plan(plan: "FetchPlan", reports: "Mapping[str, RelayReport]", trusted: "TrustList", *, as_json: bool) -> None:
    """Print what a fetch would download, and from where."""
    release, files = plan.preview.release, plan.manifest.files
    facts = release_json(release, trusted) | {
        "files": [
            {"path": file.path, "role": file.role, "size": file.size, "sha256": file.sha256.hex()} for file in files
        ],
        "ancestors": lineage_json(release.lineage, trusted),
        "size": plan.manifest.size,
        "missing": plan.missing_bytes,
        "chunks": {"total": plan.chunks, "missing": plan.missing_chunks},
        "relays": {
            url: {"has_release": url in plan.preview.relays, "reason": report.reason} for url, report in reports.items()
        },
        "servers": {
            origin: {"held": each.held, "total": each.total, "reason": each.reason}
            for origin, each in plan.servers.items()
        },
        "dry_run": True,
    }
    download = f"{format_size(plan.missing_bytes)} in {plan.missing_chunks:,} of {plan.chunks:,} chunks"
    lines = [
        f"{release.title}, signed by {trusted.display_name(release.author)}",
        f"release   {release.id.hex()}",
        *(f"made from {line}" for line in lineage_lines(release.lineage, trusted)),
        *(f"file      {file.path} ({format_size(file.size)})" for file in files),
        f"download  {download if plan.missing_bytes else 'nothing: all of it is here'} (dry run, nothing fetched)",
        *(
            f"server    {each.reason or f'{origin} has {each.held:,} of {each.total:,} files'}"
            for origin, each in plan.servers.items()
        ),
        *(
            f"{'relay' if '://' in url else 'events':<10}{_relay_line(url, report, plan.preview)}"
            for url, report in reports.items()
        ),
    ]
    emit(as_json, facts, "\n".join(lines))


def _relay_line(url: str, report: "RelayReport", preview: "Preview") -> str:
    if url in preview.relays:
        return f"{url} has the release"
    return report.reason if url in report.reason else f"{url} {report.reason or 'did not return the release'}"
