"""Questions before a publish: the model's name, what goes out, and to whom. Asks on a terminal only."""

import asyncio
import sys
from math import isfinite
from typing import TYPE_CHECKING

from randygpt.cli.output import ask, format_size, is_confirmed, print_stderr
from randygpt.errors import CallerError

if TYPE_CHECKING:
    from randygpt.checkpoint.sidecar import CheckpointInfo
    from randygpt.publishing import Publication

_MANY = 1_000  # more events than this to a public relay need a confirmation


def ask_name(info: "CheckpointInfo") -> str | None:
    """Ask for the name of a checkpoint that has none, and suggest its folder's; None if it cannot or need not be asked.

    Raises CallerError if nothing is entered.
    """
    from distribution.manifest import is_name

    if (info.sidecar and info.sidecar.name) or not sys.stdin.isatty():
        return None
    folder = info.path.absolute().parent.name
    suggested = folder if is_name(folder) else ""
    name = ask(f"Name to publish {info.path.name} under{f' [{suggested}]' if suggested else ''}: ") or suggested
    if not name:
        raise CallerError("no name was entered: pass --name")
    return name


def confirm(publication: "Publication", info: "CheckpointInfo", *, yes: bool, quiet: bool) -> None:
    """Say what goes out, and ask before the first version of a name and before many events to public relays.

    Args:
        publication: What is about to be published.
        info: The checkpoint in it.
        yes: Do not ask.
        quiet: Say nothing unless a question follows.

    Raises:
        CallerError: The answer was not yes, or many events need a confirmation without a terminal.
    """
    can_ask = sys.stdin.isatty()
    many = "" if yes else _many_events(publication)
    if many and not can_ask:
        raise CallerError(f"about to send many events to public relays ({many}); pass --yes to confirm")
    is_first = can_ask and not yes and publication.is_first_version()
    asks = can_ask and bool(is_first or many)
    if asks or not quiet:
        print_stderr(_describe(publication, info))
    if not asks:
        return
    print_stderr(f"relays   {many or ', '.join(publication.relays)}")
    if publication.servers:
        print_stderr(f"servers  {', '.join(publication.servers)}")
    first = f"This is the first version of {publication.spec.name} from this machine. " if is_first else ""
    if not is_confirmed(f"{first}Publish?"):
        raise CallerError("cancelled: nothing was sent")


def _many_events(publication: "Publication") -> str:
    """Return the public relays that would get many events, and how many; empty if none would."""
    from relay_client.url import is_loopback

    if publication.spec.max_events <= _MANY or all(is_loopback(url) for url in publication.relays):
        return ""
    shares = asyncio.run(publication.dry_run()).relays
    many = {url: share for url, share in shares.items() if share.events > _MANY and not is_loopback(url)}
    return "; ".join(f"{url}: {share.events:,} events, {format_size(share.bytes)}" for url, share in many.items())


def _describe(publication: "Publication", info: "CheckpointInfo") -> str:
    """Return what goes out, in lines of up to 80 characters: the model, its losses, and the bytes."""
    from distribution.ancestors import parse_lineage
    from distribution.events import SHORT_ID
    from relay_client.nip19 import short_npub

    losses = dict(info.sidecar.losses) if info.sidecar else {}
    facts = [f"validation {info.header.best_loss:.4f}" if isfinite(info.header.best_loss) else "no validation loss"]
    if (train := losses.get("train")) is not None:
        facts.append(f"training {train:.4f}")
    files = publication.spec.files
    size = format_size(sum(file.size for file in files))
    if any(name == "optimizer" for file in files for name, _ in file.segments):
        size += "; two thirds are optimizer state, which only --resume needs\n         (--weights-only leaves it out)"
    else:
        size += ", weights only"
    origins = parse_lineage(publication.spec.tags).ancestors
    return "\n".join(
        [
            f"model    {publication.spec.name}: {info.config.name}, iteration {info.header.iteration + 1:,}",
            *(f"{role:<8} {each.release_id.hex()[:SHORT_ID]} by {short_npub(each.author)}" for role, each in origins),
            f"loss     {', '.join(facts)}",
            f"size     {size}",
        ]
    )
