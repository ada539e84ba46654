"""`randygpt search`: find models on relays; the models of one author for `fetch` and `show`."""

import asyncio
import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.flags import (
    Json,
    Quiet,
    Relays,
    parse_count,
    parse_duration,
    parse_size,
    validator,
)
from randygpt.cli.models import find_file
from randygpt.cli.output import emit, print_stderr
from randygpt.cli.search_table import search_table
from randygpt.errors import CallerError
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.search import SearchResult
    from distribution.search_results import SearchQuery
    from distribution.trust_list import TrustList

EXAMPLE = "Example: randygpt search tales --max-params 20M --sort bits"

_SORTS = {
    "new": "newest first",
    "size": "smallest first",
    "bits": "lowest claimed bits per byte first",
}


def _complete_author(incomplete: str) -> list[str]:
    return installed.complete_from_store(incomplete, lambda _releases, trusted: trusted.names.values())


def _check_sort(text: str) -> None:
    from distribution.search_results import SearchQuery

    SearchQuery(sort=text)  # type: ignore[arg-type]  # this is the check


def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORDS", help="Words in name, title, topics, description or license; all of them."),
    ] = None,
    author: Annotated[
        str | None,
        typer.Option(
            metavar="AUTHOR",
            help="Only this author: npub, name on your trust list, or alice@example.com.",
            autocompletion=_complete_author,
        ),
    ] = None,
    tag: Annotated[str | None, typer.Option(metavar="TOPIC", help="Only models with this topic (tag t).")] = None,
    max_params: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Only models of at most so many parameters, such as 500K or 20M.",
            callback=validator(parse_count),
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Only models of at most so many bytes, such as 50M.", callback=validator(parse_size)
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only versions of the last, for example, 12h, 30d or 8w.",
            callback=validator(parse_duration),
        ),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            metavar="|".join(_SORTS),
            help="; ".join(f"{name}: {meaning}" for name, meaning in _SORTS.items()) + ".",
            callback=validator(_check_sort),
            autocompletion=lambda: list(_SORTS),
        ),
    ] = "new",
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Number of models to print.")] = 20,
    relay: Relays = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find models on relays.

    Models of authors whom you trust or follow come first. What a model says of itself is its author's claim.
    """
    from distribution.search_results import SearchQuery
    from randygpt.discovery import find_author_key
    from randygpt.release_tags import parse_topics

    if tag:
        parse_topics([tag])
    home = Home.from_environment()
    _, trusted = installed.open_store(home)
    note: Callable[[str], None] = (lambda _text: None) if quiet else print_stderr
    query = SearchQuery(
        words=tuple(words or ()),
        author=asyncio.run(find_author_key(home, author, on_note=note)) if author else None,
        tag=tag or "",
        max_params=parse_count(max_params) if max_params else None,
        max_size=parse_size(max_size) if max_size else None,
        since=int(time.time()) - parse_duration(since) if since else None,
        sort=sort,  # type: ignore[arg-type]  # checked with the flag
        limit=limit,
    )
    _search(home, trusted, query, relay, as_json=as_json, quiet=quiet)


def find_author_alone(text: str, *, quiet: bool) -> bytes | None:
    """Return the author if a text is nothing but an npub, a petname or a NIP-05 address, which is looked up.

    None for anything else, and for a petname that names a file or an installed release too. Raises what
    `distribution.web_names.find_author` raises.
    """
    from distribution.resolve import author_alone

    if (author := author_alone(text)) or _names_file(text):
        return author
    from distribution.trust_list import TrustStore

    store = TrustStore(Home.from_environment().folder)
    if "@" not in text:
        return _find_petname_alone(text, store.read())
    from distribution.web_names import address_alone, find_author

    if not (address := address_alone(text, store.read())):
        return None
    note = (lambda _text: None) if quiet else print_stderr
    return asyncio.run(find_author(store, address, remember=False, on_note=note)).pubkey


def _names_file(text: str) -> bool:
    try:
        return os.path.exists(text) or find_file(text) is not None  # noqa: PTH110 (false for text that is too long)
    except CallerError:  # a folder with several checkpoints
        return True


def _find_petname_alone(text: str, trusted: "TrustList") -> bytes | None:
    author = next((key for key, name in trusted.names.items() if name == text), None)
    if author is None:
        return None
    try:
        installed.find_release(text)
    except CallerError:
        return author
    return None


def list_models_of(home: Home, author: bytes, relay: list[str] | None, *, as_json: bool, quiet: bool) -> None:
    """Print the models of one author, for a command that was given an author instead of a model."""
    from distribution.search_results import MAX_RESULTS, SearchQuery

    _, trusted = installed.open_store(home)
    _search(home, trusted, SearchQuery(author=author, limit=MAX_RESULTS), relay, as_json=as_json, quiet=quiet)


def _search(
    home: Home, trusted: "TrustList", query: "SearchQuery", relay: list[str] | None, *, as_json: bool, quiet: bool
) -> None:
    from randygpt.discovery import search_models
    from randygpt.results import describe_model

    result = asyncio.run(search_models(home, query, relays=relay))
    for author, name in result.claimed_names.items():
        trusted = trusted.with_claim(author, name)
    if not quiet:
        _print_notes(result, as_json=as_json)
    if as_json:
        emit(as_json, [asdict(describe_model(model)) for model in result.models], "")
    elif result.models:
        best = result.models[0]
        address = trusted.model_address(best.author, best.name)
        first = shlex.join(["randygpt", "fetch", address, *_relay_flags(relay)])
        emit(as_json, [], f"{search_table(result.models, trusted)}\n\n{first}")


def _print_notes(result: "SearchResult", *, as_json: bool) -> None:
    from relay_client.nip19 import short_npub

    for reason in result.incomplete:
        print_stderr(f"incomplete: {reason}")
    if result.models and result.more:
        print_stderr(f"{result.more:,} more releases may match: raise --limit, or search for less")
    for author in sorted(result.crowded)[:1]:
        others = f" and {len(result.crowded) - 1:,} others" if len(result.crowded) > 1 else ""
        print_stderr(f"more models by {short_npub(author)}{others}: pass --author")
    if not (result.models or as_json):
        print_stderr("no models found")


def _relay_flags(relays: Sequence[str] | None) -> list[str]:
    return [word for url in relays or () for word in ("--relay", url)]
