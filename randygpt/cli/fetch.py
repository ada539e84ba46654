"""`randygpt fetch`: a release by its id or name, verified, into the store."""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli.output import Json, Quiet, Relays, byte_progress, emit, size
from randygpt.cli.relays import chosen
from randygpt.settings import Home

if TYPE_CHECKING:
    from distribution.fetch import Fetched, OnProgress
    from relay_client.keys import AddressReference, EventReference

EXAMPLE = "Example: randygpt fetch npub1…/shakespeare --relay wss://relay.example"


def fetch(
    reference: Annotated[
        str, typer.Argument(metavar="RELEASE", help="An event id in hex, note, nevent, naddr, or npub…/name.")
    ],
    relay: Relays = None,
    max_size: Annotated[int, typer.Option(min=1, metavar="BYTES", help="Refuse a larger release.")] = 1 << 30,
    activate: Annotated[bool, typer.Option(help="Make it the one that `serve` answers with.")] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a model: every byte verified against its author's signature, installed whole or not at all."""
    from relay_client.keys import encode_npub, parse_reference

    home = Home.from_environment()
    parsed = parse_reference(reference)
    urls = chosen(home, relay, parsed.relays)
    with byte_progress("fetching", shown=not (as_json or quiet)) as on_progress:
        fetched = asyncio.run(_fetch(home, urls, parsed, max_size, on_progress, activate=activate))
    release, author = fetched.release, encode_npub(fetched.release.author)
    text = "\n".join(
        [
            f"{release.name} version {release.version} by {author}",
            f"release  {release.id.hex()}",
            f"path     {release.file('checkpoint').local} ({size(release.file('checkpoint').size)})",
        ]
    )
    emit(as_json, _as_json(fetched, author), text)


async def _fetch(
    home: Home,
    urls: list[str],
    reference: "EventReference | AddressReference",
    max_size: int,
    on_progress: "OnProgress",
    *,
    activate: bool,
) -> "Fetched":
    from distribution.fetch import Fetcher
    from distribution.store import Store
    from distribution.trust import TrustPolicy
    from relay_client.pool import Pool

    async with Pool(urls) as pool:
        fetcher = Fetcher(
            pool=pool,
            store=Store(home.folder),
            policy=TrustPolicy(),
            now=lambda: int(time.time()),
            max_size=max_size,
            on_progress=on_progress,
        )
        return await fetcher.fetch(reference, activate=activate)


def _as_json(fetched: "Fetched", author: str) -> dict[str, object]:
    release, chunks = fetched.release, fetched.chunks
    return {
        "release": release.id.hex(),
        "author": author,
        "name": release.name,
        "version": release.version,
        "files": [
            {
                "path": file.path,
                "role": file.role,
                "size": file.size,
                "sha256": file.sha256.hex(),
                "local": str(file.local),
            }
            for file in release.files
        ],
        "chunks": {"fetched": chunks.fetched, "reused": chunks.reused, "rejected": chunks.rejected},
        "activated": fetched.activated,
    }
