"""Resolution of a model name that the user types, to an installed release or to a reference. Reads the store.

A release is named by `current`, `previous`, its name, `name@version`, `alice/name` with a name from the trust list,
`npub…/name`, a hex id or the first digits of an installed one, note, nevent, naddr, or a link that ends in one of them.
"""

import re
from collections.abc import Sequence

from distribution.errors import CallerError
from distribution.installed import InstalledRelease
from distribution.manifest import is_name
from distribution.store import Store
from distribution.trust_list import TrustList
from relay_client.errors import InvalidReference, quote
from relay_client.nip19 import AddressReference, EventReference, encode_npub, parse_reference

_ID_PREFIX = re.compile("[0-9a-f]{4,64}", re.IGNORECASE)
_REFERENCE = re.compile(
    "https?://.*|(nostr:)?((note|nevent|naddr|nsec)1.*|npub1[^/]*(/.*)?|[0-9a-f]{64}(/.*)?)", re.IGNORECASE
)
_VERSIONED = re.compile("(.+)@([1-9][0-9]{0,9})")


def resolve_installed(store: Store, trusted: TrustList, text: str) -> InstalledRelease:
    """Return the installed release that `text` names: the newest installed version, unless it names one.

    Raises:
        CallerError: No installed release matches, or several do.
        StoreError: The store is damaged.
    """
    found = find_installed(store, trusted, text)
    if found:
        return found
    if _parse(_split_version(text)[0], trusted):
        raise CallerError(f"{quote(text)} is not installed; install it with randygpt fetch")
    raise CallerError(_unknown(text))


def find_installed(store: Store, trusted: TrustList, text: str) -> InstalledRelease | None:
    """Return the installed release that `text` names, None if there is none.

    Raises:
        CallerError: Several releases match, or the reference is not valid, or no release is current or previous.
        StoreError: The store is damaged.
    """
    if text in {"current", "previous"}:
        return _by_ref(store, text)
    words, version = _split_version(text)
    installed = [release for release in store.releases() if version in {None, release.version}]
    if reference := _parse(words, trusted):
        matching = [release for release in installed if _is_meant(release, reference)]
    else:
        matching = [release for release in installed if release.name == words]
        _refuse_several_authors(matching, text)
        if not matching and _ID_PREFIX.fullmatch(words):
            matching = [release for release in installed if release.id.hex().startswith(words.lower())]
            if len(matching) > 1:
                raise CallerError(f"{len(matching)} ids begin with {words}: type more digits")
    return max(matching, key=lambda release: release.version, default=None)


def resolve_reference(
    store: Store, trusted: TrustList, text: str, *, author: bytes | None = None
) -> EventReference | AddressReference:
    """Return the reference that `text` stands for: a name means its latest version, everything else one release.

    Args:
        store: Its releases give ids to `current`, to `name@version` and to the first digits of an id, and an author to
            a bare name.
        trusted: Authors that the user named.
        text: The name, as the module docstring lists them.
        author: Author of a bare name, if not the one whose release is installed.

    Raises:
        CallerError: `text` names no release, or several.
        StoreError: The store is damaged.
    """
    words, version = _split_version(text)
    reference = _parse(words, trusted)
    if version is None and reference:
        return reference
    is_bare_name = version is None and reference is None and words not in {"current", "previous"} and is_name(words)
    if is_bare_name and author:
        return AddressReference(author=author, name=words)
    installed = find_installed(store, trusted, text)
    if installed is None:
        seen = _seen_version(store, reference, version, author, words)
        if seen is None:
            raise InvalidReference(
                _unknown(text, "no installed model is called {}; expected npub…/name, nevent or an id")
            )
        return EventReference(id=seen)
    if is_bare_name and installed.name == words:
        return AddressReference(author=installed.author, name=words)
    return EventReference(id=installed.id)


def resolve_name(store: Store, trusted: TrustList, text: str) -> AddressReference:
    """Return the author and name that `text` stands for; an installed release stands for the name that it has.

    Raises:
        CallerError: `text` names one version only, or nothing.
        StoreError: The store is damaged.
    """
    if _split_version(text)[1]:
        raise CallerError(f"{quote(text)} never changes: follow the name without a version")
    reference = resolve_reference(store, trusted, text)
    if isinstance(reference, AddressReference):
        return reference
    installed = store.release(reference.id)
    if installed is None:
        raise CallerError("a release never changes: follow a name, such as npub…/name")
    return AddressReference(author=installed.author, name=installed.name, relays=reference.relays)


def _parse(text: str, trusted: TrustList) -> EventReference | AddressReference | None:
    """Return the reference that a text spells by itself, None for one that the store must explain."""
    who, _, name = text.partition("/")
    author = next((key for key, known in trusted.names.items() if name and known == who), None)
    if author:
        return AddressReference(author=author, name=name)
    return parse_reference(text) if _REFERENCE.fullmatch(text.strip()) else None


def _split_version(text: str) -> tuple[str, int | None]:
    found = _VERSIONED.fullmatch(text)
    return (found[1], int(found[2])) if found else (text, None)


def _by_ref(store: Store, which: str) -> InstalledRelease:
    release_id = store.current() if which == "current" else store.previous()
    found = store.release(release_id) if release_id else None
    if found is None:
        raise CallerError(f"no {which} release{': it was removed' if release_id else ' yet'}")
    return found


def _is_meant(release: InstalledRelease, reference: EventReference | AddressReference) -> bool:
    if isinstance(reference, AddressReference):
        return (release.author, release.name) == (reference.author, reference.name)
    return release.id == reference.id


def _refuse_several_authors(releases: Sequence[InstalledRelease], text: str) -> None:
    authors = sorted({release.author for release in releases})
    if len(authors) > 1:
        spelled = " or ".join(f"{encode_npub(author)}/{text}" for author in authors)
        raise CallerError(f"several authors have a model {text}: name it as {spelled}")


def _seen_version(
    store: Store,
    reference: EventReference | AddressReference | None,
    version: int | None,
    author: bytes | None,
    words: str,
) -> bytes | None:
    """Return the id of a version that was seen, but is not installed; None if it was not seen."""
    if isinstance(reference, AddressReference):
        author, words = reference.author, reference.name
    if version is None or author is None:
        return None
    seen = store.seen_versions.seen(author, words).versions.get(version)
    return seen.release_id if seen else None


def _unknown(text: str, otherwise: str = "no file and no installed release: {}; see randygpt list") -> str:
    """Return why a text names no release, and what would."""
    words, version = _split_version(text)
    who, slash, name = words.partition("/")
    if version is not None and (is_name(name) or is_name(words)):
        return f"no version {version} of {words} was seen on this machine: name it by its id (randygpt list)"
    if slash and who and is_name(name):
        return (
            f"no file {quote(text)}, and no author {quote(who)} on your trust list "
            f"(randygpt trust add NPUB {who if who.isalnum() else 'NAME'})"
        )
    return otherwise.format(quote(text))
