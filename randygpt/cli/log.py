"""`randygpt log`: what a model was made from, as a graph."""

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.card import claimed_losses, losses_text
from randygpt.cli.flags import Json, Quiet, Relays
from randygpt.cli.graph import ASCII, draw_graph, label_graph
from randygpt.cli.models import DefaultModelArgument, find_model
from randygpt.cli.output import emit, format_date, print_stderr
from randygpt.errors import NotInstalled
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.ancestors import Lineage
    from distribution.ancestry import Node
    from distribution.events import Release
    from distribution.trust_list import TrustList

EXAMPLE = "Example: randygpt log shakespeare"

_ABSENT = {"missing": "not found on the relays", "not_asked": "not looked for"}


def log(
    which: DefaultModelArgument = None,
    depth: Annotated[
        int, typer.Option(min=1, max=10_000, metavar="N", help="Generations of ancestors to look for.")
    ] = 100,
    relay: Relays = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a model was made from, as a graph.

    Every release is verified; which releases it was made from, and its losses, are what its author claims. Ancestors
    that are not installed are looked for on the relays.
    """
    from distribution.ancestry import State, build_ancestry
    from distribution.trace import TraceLimits
    from randygpt.lineage import trace_ancestry

    home = Home.from_environment()
    start, lineage, title = find_start(home, which, relay)
    limits = TraceLimits(depth=depth)
    known, reason = asyncio.run(trace_ancestry(home, start, lineage, relays=relay, limits=limits))
    nodes, trusted = build_ancestry(known), installed.open_store(home)[1]
    incomplete = any(node.state is not State.FOUND for node in nodes)
    if incomplete and reason and not quiet:
        print_stderr(f"incomplete: {reason}")
    result = {"incomplete": incomplete, "releases": [_as_json(node, trusted) for node in nodes]}
    graph = label_graph(
        draw_graph({node.id: node.parents for node in nodes}),
        {node.id: _describe(node, trusted, title) for node in nodes},
    )
    is_utf8 = sys.stdout.encoding.lower() in {"utf-8", "utf8"}
    emit(as_json, result, graph if is_utf8 else graph.translate(ASCII))


def find_start(home: Home, which: str | None, relay: list[str] | None) -> "tuple[Release | None, Lineage, str]":
    """Return the release that a word names, what it was made from, and its title; no release for a file.

    Raises:
        CallerError: Nothing matches.
        PeerError, TransportError, StorageError: As `fetch`, for a release that is not installed.
    """
    from distribution.local_release import read_release
    from randygpt.checkpoint.sidecar import read_sidecar
    from randygpt.fetching import preview_release
    from randygpt.origins import lineage_of

    try:
        model = find_model(which)
    except NotInstalled:
        assert which is not None  # noqa: S101 (nothing else can be not installed)
        release = asyncio.run(preview_release(home, which, relays=relay)).release
        return release, release.lineage, release.title
    if model.release:
        release = read_release(model.release, int(time.time()))
        return release, release.lineage, release.title
    return None, lineage_of(read_sidecar(model.path)), str(model.path)


def _describe(node: "Node", trusted: "TrustList", title: str) -> str:
    """Return the line of a release: what it is, and what is wrong with it."""
    from distribution.ancestry import FILE
    from distribution.events import SHORT_ID

    if node.id == FILE:
        return f"{title} (a file)"
    notes = []
    authors = " or ".join(_name(author, trusted) for author in node.authors)
    if node.release:
        losses = losses_text(node.release.card)
        facts = [
            f"{node.release.name}@{node.release.version}",
            authors,
            format_date(node.release.created_at),
            *([losses] if losses else []),
        ]
        if node.lineage.merged:
            notes.append(f"merge of {len(node.lineage.merged)}")
    else:
        facts = [f"{_ABSENT[node.state]}, said to be by {authors}"]
    if node.revoked is not None:
        notes.append(f"revoked by its author{f': {node.revoked}' if node.revoked else ''}")
    if node.misnamed:
        wrong = " and ".join(_name(author, trusted) for author in node.misnamed)
        notes.append(f"not by {wrong}, as a release made from it claims")
    if node.in_cycle:
        notes.append("its ancestors lead back to it")
    return "  ".join([node.id.hex()[:SHORT_ID], *facts, *([f"({'; '.join(notes)})"] if notes else [])])


def _name(author: bytes, trusted: "TrustList") -> str:
    return trusted.short_name(author)


def _as_json(node: "Node", trusted: "TrustList") -> dict[str, object]:
    from distribution.ancestry import FILE
    from relay_client.nip19 import encode_npub

    release = node.release
    return {
        "release": None if node.id == FILE else node.id.hex(),
        "state": str(node.state),
        "author": encode_npub(node.authors[0]) if node.authors else None,
        "author_name": trusted.names.get(node.authors[0]) if node.authors else None,
        "named_authors": [encode_npub(author) for author in (*node.misnamed, *(() if release else node.authors))],
        "name": release.name if release else None,
        "version": release.version if release else None,
        "created_at": release.created_at if release else None,
        "losses": claimed_losses(release.card) if release else {},
        "base": node.lineage.base.release_id.hex() if node.lineage.base else None,
        "merged": [each.release_id.hex() for each in node.lineage.merged],
        "revoked": node.revoked is not None,
        "reason": node.revoked or None,
        "cycle": node.in_cycle,
    }
