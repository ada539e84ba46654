"""`randygpt list`, `use` and `pin`; finding and printing installed releases for other commands."""

import asyncio
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli.flags import Json, Quiet, Relays
from randygpt.cli.keys import KeyFile, PasswordFile
from randygpt.cli.output import emit, format_date, format_size, print_stderr
from randygpt.cli.published import list_published
from randygpt.errors import CallerError
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.ancestors import Lineage
    from distribution.events import Release
    from distribution.installed import InstalledRelease
    from distribution.store import Store
    from distribution.trust_list import TrustList

LIST_EXAMPLE = "Example: randygpt list"
USE_EXAMPLE = "Example: randygpt use previous"
PIN_EXAMPLE = "Example: randygpt pin shakespeare"

_LISTED_ID = 8  # digits
_MODEL, _MIN_MODEL = 3, 8  # index of the name in a row of `list`; least width of that column
RELEASE_HELP = "Installed release: current, previous, its name, name@version, alice/name or id."


def complete_from_store(
    incomplete: str, candidates: "Callable[[list[InstalledRelease], TrustList], Collection[str]]"
) -> list[str]:
    """Return shell completions from the installed releases; none, rather than an error while typing."""
    from randygpt.errors import RandyGPTError

    try:
        store, trusted = open_store(Home.from_environment())
        found = candidates(store.releases(), trusted)
    except (RandyGPTError, OSError):
        return []
    return sorted(word for word in set(found) if word.startswith(incomplete))


def complete(incomplete: str) -> list[str]:
    """Complete the names of installed releases, and their ids once the first digit is typed."""

    def names(releases: "list[InstalledRelease]", _trusted: "TrustList") -> list[str]:
        ids = [release.short_id for release in releases] if incomplete else []
        return ["current", "previous", *(release.name for release in releases), *ids]

    return complete_from_store(incomplete, names)


def complete_address(incomplete: str) -> list[str]:
    """Complete author and name of installed releases, by the author's petname if there is one."""

    def names(releases: "list[InstalledRelease]", trusted: "TrustList") -> list[str]:
        return [trusted.model_address(each.author, each.name) for each in releases]

    return complete_from_store(incomplete, names)


def complete_or_file(incomplete: str) -> list[str]:
    """Complete installed releases, but offer nothing for an empty word, so that the shell offers files."""
    return complete(incomplete) if incomplete else []


Which = Annotated[str, typer.Argument(metavar="MODEL", help=RELEASE_HELP, autocompletion=complete)]


def open_store(home: Home) -> "tuple[Store, TrustList]":
    """Open the store and read the trust list."""
    from distribution.store import Store
    from distribution.trust_list import TrustStore

    return Store(home.folder), TrustStore(home.folder).read()


def find_release(which: str) -> "tuple[Store, TrustList, InstalledRelease]":
    """Find the installed release that a word names; raises CallerError, StoreError."""
    from distribution.resolve import resolve_installed

    store, trusted = open_store(Home.from_environment())
    return store, trusted, resolve_installed(store, trusted, which)


def release_json(release: "InstalledRelease | Release", trusted: "TrustList") -> dict[str, object]:
    """Return the fields of a release that every command's JSON has."""
    from relay_client.nip19 import encode_npub

    return {
        "release": release.id.hex(),
        "author": encode_npub(release.author),
        "author_name": trusted.names.get(release.author),
        "claimed_name": None if release.author in trusted.names else trusted.claims.get(release.author),
        "name": release.name,
        "version": release.version,
    }


def lineage_json(lineage: "Lineage", trusted: "TrustList") -> list[dict[str, object]]:
    """Return the ancestors that a release claims, as JSON."""
    from distribution.events import RELEASE_KIND
    from relay_client.hints import usable_hints
    from relay_client.nip19 import encode_nevent, encode_npub

    return [
        {
            "release": each.release_id.hex(),
            "author": encode_npub(each.author),
            "author_name": trusted.names.get(each.author),
            "role": role,
            "nevent": encode_nevent(
                each.release_id, author=each.author, kind=RELEASE_KIND, relays=usable_hints([each.hint], known=())
            ),
        }
        for role, each in lineage.ancestors
    ]


def lineage_lines(lineage: "Lineage", trusted: "TrustList") -> list[str]:
    """Return the ancestors that a release claims, one a line, and that they are a claim; nothing without any."""
    lines = [
        f"{role} {each.release_id.hex()} by {trusted.display_name(each.author)}" for role, each in lineage.ancestors
    ]
    return [*lines, "(as the author claims)"] if lines else []


def release_describer(home: Home) -> "Callable[[Sequence[InstalledRelease]], list[dict[str, object]]]":
    """Return a function that describes releases as JSON, with the trust list as it is then; it raises StoreError."""

    def describe(releases: "Sequence[InstalledRelease]") -> list[dict[str, object]]:
        _, trusted = open_store(home)
        return [release_json(release, trusted) for release in releases]

    return describe


def release_references(home: Home) -> "Callable[[InstalledRelease], dict[str, object]]":
    """Return a function that gives a release's reference, the command that fetches it, and its ancestors.

    The hints are the user's public relays, or the others if none is public, without those whose URL has a query: it may
    be a secret.
    """
    from distribution.references import make_references
    from relay_client.hints import usable_hints

    def references(release: "InstalledRelease") -> dict[str, object]:
        try:
            relays = [url for url in home.relays() if "?" not in url]
        except CallerError:  # a damaged list; `relays list` reports it
            relays = []
        found = make_references(release, usable_hints(relays, known=()) or relays)
        ancestors = lineage_json(release.lineage, open_store(home)[1])
        return {"nevent": found.nevent, "fetch": found.exact_command, "ancestors": ancestors}

    return references


def release_title(release: "InstalledRelease | Release", trusted: "TrustList") -> str:
    """Return name, version and author of a release as text; the author by petname, or by the ends of the npub."""
    return f"{release.title} by {author_title(release, trusted)}"


def author_title(release: "InstalledRelease | Release", trusted: "TrustList") -> str:
    """Return the author's petname, or the ends of the npub and a claimed name; `show` has all of it."""
    return trusted.short_name(release.author)


def flags_of(store: "Store", release: "InstalledRelease") -> dict[str, bool]:
    """Return whether a release is current, previous and pinned."""
    return {
        "current": release.id == store.current(),
        "previous": release.id == store.previous(),
        "pinned": release.id in store.pinned(),
    }


def list_(
    mine: Annotated[
        bool, typer.Option("--mine", help="List what you published, from the relays and this machine's journal.")
    ] = False,
    relay: Relays = None,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the installed releases, or those you published.

    --relay, --key-file and --password-file are for --mine, which asks the relays for what you published.
    """
    if mine:
        list_published(relays=relay, key_file=key_file, password_file=password_file, as_json=as_json, quiet=quiet)
        return
    store, trusted = open_store(Home.from_environment())
    entries, rows = [], []
    for release in store.releases():
        flags = flags_of(store, release)
        entries.append(
            release_json(release, trusted)
            | {"size": release.size, "created_at": release.created_at, "installed_at": release.installed_at}
            | flags
        )
        rows.append(_row(release, trusted, flags))
    if not (entries or as_json or quiet):
        print_stderr("no releases installed; install one with: randygpt fetch MODEL")
    if entries or as_json:
        emit(as_json, {"releases": entries}, _table(rows))


def _row(release: "InstalledRelease", trusted: "TrustList", flags: Mapping[str, bool]) -> list[str]:
    return [
        release.id.hex()[:_LISTED_ID],
        format_date(release.created_at),
        format_size(release.size),
        f"{release.name}@{release.version}",
        author_title(release, trusted),
        ", ".join(name for name, is_set in flags.items() if is_set),
    ]


def _table(rows: list[list[str]]) -> str:
    """Return rows as aligned columns; on a terminal, names that do not fit are cut, as the id names a release too."""
    widths = [max(map(len, column), default=0) for column in zip(*rows, strict=True)]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - sum(widths) - 2 * (len(widths) - 1) + widths[_MODEL]
        widths[_MODEL] = min(widths[_MODEL], max(room, _MIN_MODEL))
    return "\n".join(
        "  ".join(_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def use(which: Which, as_json: Json = False, _quiet: Quiet = False) -> None:
    """Make an installed release the current one.

    Works offline and takes effect at once. `follow` keeps it until a newer version appears.
    """
    store, trusted, release = find_release(which)
    asyncio.run(_make_current(store, release))
    text = f"current: {release_title(release, trusted)}"
    emit(as_json, release_json(release, trusted) | {"path": str(release.folder)}, text)


async def _make_current(store: "Store", release: "InstalledRelease") -> None:
    from distribution.errors import StoreError

    async with store.lock(release.id):
        if store.release(release.id) is None:
            raise StoreError(f"{release.folder}: the release has just been removed")
        await store.use(release.id)


def pin(
    which: Which = "current",
    remove: Annotated[bool, typer.Option("--remove", help="Unpin it.")] = False,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Protect a release from removal and replacement.

    `gc` never removes a pinned release, and `follow` does not replace it while it is current.
    """
    store, trusted, release = find_release(which)
    asyncio.run(store.pin(release.id, pinned=not remove))
    state = "unpinned" if remove else "pinned"
    emit(
        as_json, release_json(release, trusted) | {"pinned": not remove}, f"{state}: {release_title(release, trusted)}"
    )
