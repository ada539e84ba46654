"""`randygpt list --mine`: the versions that the user published."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from randygpt.cli.keys import signing_key
from randygpt.cli.output import emit, format_date, format_size, print_stderr
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.published import PublishedVersion


def list_published(
    *,
    relays: Sequence[str] | None,
    key_file: Path | None,
    password_file: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print the user's published versions, as relays and the journal of this machine know them."""
    from randygpt.publishing import own_versions
    from relay_client.nip19 import encode_npub

    home = Home.from_environment()
    key = signing_key(home, key_file, password_file)
    versions, unasked = asyncio.run(own_versions(home, key, relays=relays))
    if unasked and not quiet:
        print_stderr(f"incomplete: {unasked}")
    if not (versions or as_json or quiet):
        print_stderr("nothing published with this key; publish a model with: randygpt publish FILE")
    if versions or as_json:
        result = {"author": encode_npub(key.pubkey), "published": list(map(_as_json, versions))}
        emit(as_json, result, "\n".join(map(_line, versions)))


def _as_json(version: "PublishedVersion") -> dict[str, object]:
    release = version.release
    return {
        "release": release.id.hex() if release else None,
        "name": version.name,
        "version": version.version,
        "size": release.size if release else None,
        "created_at": version.created_at,
        "latest": version.latest,
        "revoked": version.revoked,
        "relays": list(version.relays),
    }


def _line(version: "PublishedVersion") -> str:
    from distribution.events import SHORT_ID

    release = version.release
    marks = [name for name, is_set in (("latest", version.latest), ("revoked", version.revoked)) if is_set]
    if not release:
        marks.append("only in this machine's journal")
    start = f"{release.short_id if release else '-':{SHORT_ID}}"
    date = format_date(version.created_at)
    size = format_size(release.size) if release else "-"
    ending = f"  ({', '.join(marks)})" if marks else ""
    return f"{start}  {date}  {size:>9}  {version.title}{ending}"
