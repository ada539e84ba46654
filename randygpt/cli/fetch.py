"""`randygpt fetch`: a release by its id or name, verified, into the store."""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli.output import Json, MaxSize, Quiet, Relays, byte_progress, emit, format_size, parse_size, print_stderr
from randygpt.cli.relays import resolve_relays
from randygpt.user import signing_key
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.download import OnProgress
    from distribution.fetch import Fetched
    from distribution.trust import TrustPolicy
    from relay_client.keys import AddressReference, EventReference

EXAMPLE = "Example: randygpt fetch npub1…/shakespeare --relay wss://relay.example"


def fetch(
    reference: Annotated[
        str, typer.Argument(metavar="RELEASE", help="An event id in hex, note, nevent, naddr, or npub…/name.")
    ],
    relay: Relays = None,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Leave out the optimiser's part: a third of the bytes, to be served.")
    ] = False,
    max_size: MaxSize = "1G",
    activate: Annotated[bool, typer.Option(help="Make it the one that `serve` answers with.")] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a model: every byte verified against its author's signature, installed whole or not at all."""
    from distribution.trust_list import TrustStore
    from relay_client.hints import usable_hints
    from relay_client.keys import encode_npub, parse_reference

    home, limit = Home.from_environment(), parse_size(max_size)
    parsed, trusted = parse_reference(reference), TrustStore(home.folder).read()
    alone = not relay and not home.relays() and usable_hints(parsed.relays, known=())
    urls = [] if alone else resolve_relays(home, relay, parsed.relays)
    with byte_progress("fetching", shown=not (as_json or quiet)) as on_progress:
        job = _fetch(
            home, urls, parsed, trusted.policy, limit, on_progress, activate=activate, weights_only=weights_only
        )
        fetched = asyncio.run(job)
    release, author = fetched.release, encode_npub(fetched.release.author)
    for url in fetched.misbehaving if not quiet else ():
        print_stderr(f"{url} gave something that does not verify, and was asked last from then on")
    text = "\n".join(
        [
            f"{release.name} version {release.version}, signed by {trusted.display_name(release.author)}",
            f"release  {release.id.hex()}{' (weights only)' if release.partial else ''}",
            f"path     {release.file('checkpoint').local_path} ({format_size(release.file('checkpoint').size)})",
        ]
    )
    emit(as_json, _as_json(fetched, author), text)


async def _fetch(
    home: Home,
    urls: list[str],
    reference: "EventReference | AddressReference",
    policy: "TrustPolicy",
    max_size: int,
    on_progress: "OnProgress",
    *,
    activate: bool,
    weights_only: bool,
) -> "Fetched":
    from distribution.fetch import Fetcher
    from distribution.partial import HeaderRewrite
    from distribution.store import Store
    from randygpt.checkpoint.header import WEIGHTS_MAGIC
    from relay_client.pool import Pool

    rewrite = HeaderRewrite(size=len(WEIGHTS_MAGIC), apply=lambda _: WEIGHTS_MAGIC) if weights_only else None
    async with Pool(urls, signer=signing_key.signer(home), hints=reference.relays) as pool:
        fetcher = Fetcher(
            pool=pool,
            store=Store(home.folder),
            policy=policy,
            now=lambda: int(time.time()),
            max_size=max_size,
            on_progress=on_progress,
        )
        return await fetcher.fetch(reference, activate=activate, weights=rewrite)


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
                "local": str(file.local_path),
            }
            for file in release.files
        ],
        "chunks": {"fetched": chunks.fetched, "reused": chunks.reused, "rejected": chunks.rejected},
        "relays": {
            url: {"given": chunks.relays.get(url, 0), "lied": url in fetched.misbehaving}
            for url in sorted({*chunks.relays, *fetched.misbehaving})
        },
        "partial": release.partial,
        "activated": fetched.activated,
    }
