"""`randygpt forks`: the releases that were made from a model."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.card import claimed_losses, losses_text
from randygpt.cli.flags import Json, Quiet, Relays
from randygpt.cli.log import find_start
from randygpt.cli.models import DefaultModelArgument
from randygpt.cli.output import emit, format_date, print_stderr
from randygpt.errors import CallerError
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.forks import Fork, Forks
    from distribution.trust_list import TrustList

EXAMPLE = "Example: randygpt forks shakespeare --trusted"


def forks(
    which: DefaultModelArgument = None,
    trusted: Annotated[bool, typer.Option("--trusted", help="Only forks by authors on your trust list.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Number of forks to list.")] = 50,
    relay: Relays = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List who built on a model.

    Lists the newest release of each name that says it was made from MODEL, those by authors on your trust list first.
    Losses are what the authors claim.
    """
    from randygpt.lineage import find_forks

    home = Home.from_environment()
    release, _, title = find_start(home, which, relay)
    if release is None:
        raise CallerError(f"{title} is a file: only a release has forks")
    names = installed.open_store(home)[1]
    result = asyncio.run(find_forks(home, release, relays=relay, only_trusted=trusted))
    shown = result.found[:limit]
    if not quiet:
        _print_notes(result, len(shown), title)
    if shown or as_json:
        facts = {
            "release": release.id.hex(),
            "forks": [_as_json(fork, names) for fork in shown],
            "complete": result.complete and len(shown) == len(result.found),
        }
        emit(as_json, facts, "\n".join(_describe(fork, names) for fork in shown))


def _print_notes(result: "Forks", shown: int, title: str) -> None:
    if not result.found:
        print_stderr(f"no forks of {title} found")
    if len(result.found) > shown:
        print_stderr(f"{len(result.found) - shown:,} more: pass --limit {len(result.found)}")
    for reason in result.incomplete:
        print_stderr(f"incomplete: {reason}")
    if result.refused:
        print_stderr(f"left out: {result.refused:,} releases that are revoked, or whose claim is wrong")


def _describe(fork: "Fork", names: "TrustList") -> str:
    from distribution.events import SHORT_ID

    release = fork.release
    losses = losses_text(release.card)
    facts = [
        release.id.hex()[:SHORT_ID],
        f"{release.name}@{release.version}",
        names.short_name(release.author),
        format_date(release.created_at),
        *([losses] if losses else []),
        *(["(a merge of it)"] if fork.role == "merged" else []),
    ]
    return "  ".join(facts)


def _as_json(fork: "Fork", names: "TrustList") -> dict[str, object]:
    release = fork.release
    return installed.release_json(release, names) | {
        "role": fork.role,
        "trusted": fork.trusted,
        "created_at": release.created_at,
        "losses": claimed_losses(release.card),
    }
