"""Resolution of a model name that the user types, to an installed release or to a reference. Reads the store.

A release is named by `current`, `previous`, its name, `name@version`, `alice/name` with a name from the trust list,
`alice@example.com/name` with a NIP-05 address that was looked up (`distribution.web_names`), `npub…/name`, a hex id or
the first digits of an installed one, note, nevent, naddr, each also after `nostr:`, or a link that ends in one of them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from distribution.errors import CallerError, NotInstalled
from distribution.events import MAX_VERSION
from distribution.installed import InstalledRelease
from distribution.manifest import is_count, is_digest, is_name
from distribution.store import Store
from distribution.trust_list import TrustList
from relay_client.errors import InvalidKey, InvalidReference, quote
from relay_client.nip05 import Nip05Address
from relay_client.nip19 import (
    AddressReference,
    EventReference,
    decode_pubkey,
    encode_npub,
    parse_reference,
    strip_scheme,
)

_ID_PREFIX = re.compile("[0-9a-f]{4,64}", re.IGNORECASE)
_REFERENCE = re.compile(
    "https?://.*|(nostr:)?((note|nevent|naddr|nsec)1.*|npub1[^/]*(/.*)?|[0-9a-f]{64}(/.*)?)", re.IGNORECASE
)
_REFS = ("current", "previous")
_FILE_SUFFIX = ".bin"  # a path to a checkpoint is no NIP-05 address
_VERSIONED = re.compile("(.+)@([1-9][0-9]{0,9})")


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionReference:
    """Reference to one version of an author's name."""

    author: bytes  # 32, x-only public key
    name: str  # untrusted: match it against a pattern before use
    version: int
    relays: tuple[str, ...] = ()  # hints, untrusted

    def __post_init__(self) -> None:
        if not is_digest(self.author) or not is_count(self.version, MAX_VERSION):
            raise InvalidReference("an author's public key must have 32 bytes, and a version must be above 0")


Reference = EventReference | AddressReference | VersionReference


def resolve_installed(store: Store, trusted: TrustList, text: str) -> InstalledRelease:
    """Return the installed release that `text` names: the newest installed version, unless it names one.

    Raises:
        NotInstalled: `text` is a reference to a release that is not installed.
        CallerError: No installed release matches, or several do.
        StoreError: The store is damaged.
    """
    if found := find_installed(store, trusted, text):
        return found
    if _remote(store, trusted, text, author=None) or split_web_name(split_version(text)[0], trusted):
        raise NotInstalled(f"{quote(text)} is not installed; install it with randygpt fetch")
    raise CallerError(_unknown(text, "no file and no installed release: {}; see randygpt list"))


def find_installed(store: Store, trusted: TrustList, text: str) -> InstalledRelease | None:
    """Return the installed release that `text` names, None if there is none.

    Raises:
        CallerError: Several releases match, or the reference is not valid, or no release is current or previous.
        StoreError: The store is damaged.
    """
    words, version = split_version(text)
    if words in _REFS:
        return _by_ref(store, words)
    installed = [release for release in store.releases() if version in {None, release.version}]
    if reference := _parse(words, trusted):
        matching = [release for release in installed if _is_meant(release, reference)]
    else:
        matching = [release for release in installed if release.name == words]
        _only_author(matching, text)
        if not matching and _ID_PREFIX.fullmatch(words):
            matching = [release for release in installed if release.id.hex().startswith(words.lower())]
            if len(matching) > 1:
                raise CallerError(f"{len(matching)} ids begin with {words}: type more digits")
    return max(matching, key=lambda release: release.version, default=None)


def resolve_reference(store: Store, trusted: TrustList, text: str, *, author: bytes | None = None) -> Reference:
    """Return the reference that `text` stands for: a name means its latest version, everything else one release.

    Args:
        store: Its releases give ids to `current` and to the first digits of an id, and an author to a bare name.
        trusted: Authors that the user named.
        text: The name, as the module docstring lists them.
        author: Author of a bare name, if not the one whose release is installed.

    Raises:
        CallerError: `text` names no release, or several.
        StoreError: The store is damaged.
    """
    if reference := _remote(store, trusted, text, author=author):
        return reference
    if installed := find_installed(store, trusted, text):
        return EventReference(id=installed.id)
    raise InvalidReference(_unknown(text, "no installed model is called {}; expected npub…/name, nevent or an id"))


def resolve_name(store: Store, trusted: TrustList, text: str) -> AddressReference:
    """Return the author and name that `text` stands for; an installed release stands for the name that it has.

    Raises:
        CallerError: `text` names one version only, or nothing.
        StoreError: The store is damaged.
    """
    if split_version(text)[1]:
        raise CallerError(f"{quote(text)} never changes: follow the name without a version")
    reference = resolve_reference(store, trusted, text)
    if isinstance(reference, AddressReference):
        return reference
    installed = store.release(reference.id) if isinstance(reference, EventReference) else None
    if installed is None:
        raise CallerError("a release never changes: follow a name, such as npub…/name")
    return AddressReference(author=installed.author, name=installed.name, relays=reference.relays)


def resolve_author(trusted: TrustList, text: str) -> bytes:
    """Return the public key of an author: npub, 64 hex digits, petname, or a NIP-05 address that is remembered.

    Raises:
        CallerError: `text` names no author.
    """
    if author := next((key for key, name in trusted.names.items() if name == text), None):
        return author
    if author := trusted.addresses.get(text.strip().lower()):
        return author
    try:
        return decode_pubkey(strip_scheme(text))
    except InvalidKey:
        raise InvalidReference(
            f"no author {quote(text)}: expected an npub, alice@example.com, or a name on your trust list"
        ) from None


def author_alone(text: str) -> bytes | None:
    """Return the author if a text is nothing but an npub, with or without `nostr:`; None for anything else."""
    npub = strip_scheme(text)
    try:
        return decode_pubkey(npub) if npub.lower().startswith("npub1") else None
    except InvalidKey:
        return None


def _remote(store: Store, trusted: TrustList, text: str, *, author: bytes | None) -> Reference | None:
    """Return the reference to look for on relays, None if `text` makes sense only for what is installed."""
    words, version = split_version(text)
    if words in _REFS:
        return None
    reference = _parse(words, trusted)
    if reference is None and is_name(words) and (known := _author_of_name(store, words, text, author)):
        reference = AddressReference(author=known, name=words)
    if version is None or not isinstance(reference, AddressReference):
        return reference
    return VersionReference(author=reference.author, name=reference.name, version=version, relays=reference.relays)


def _parse(text: str, trusted: TrustList) -> EventReference | AddressReference | None:
    """Return the reference that a text spells by itself, None for one that the store must explain."""
    who, _, name = text.partition("/")
    author = next((key for key, known in trusted.names.items() if name and known == who), None)
    if author:
        return AddressReference(author=author, name=name)
    if found := split_web_name(text, trusted):
        known = trusted.addresses.get(str(found[0]))
        return AddressReference(author=known, name=found[1]) if known else None
    return parse_reference(text) if _REFERENCE.fullmatch(text.strip()) else None


def split_web_name(text: str, trusted: TrustList) -> tuple[Nip05Address, str] | None:
    """Split `alice@example.com/name` or `example.com/name` (NIP-05); None for what is no such name, or a petname."""
    who, _, name = text.partition("/")
    if "." not in who or not is_name(name) or name.endswith(_FILE_SUFFIX) or who in trusted.names.values():
        return None
    try:
        return Nip05Address.parse(who), name
    except CallerError:
        return None


def split_version(text: str) -> tuple[str, int | None]:
    """Split a typed name into the name, without `nostr:`, and the version after `@`, None without one."""
    text = strip_scheme(text)
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


def _author_of_name(store: Store, name: str, text: str, author: bytes | None) -> bytes | None:
    """Return the author of a bare name, None if it is none; raises CallerError if several authors have it."""
    installed = store.releases()
    named = [release for release in installed if release.name == name]
    if not named and _ID_PREFIX.fullmatch(name) and any(each.id.hex().startswith(name) for each in installed):
        return None
    return author or _only_author(named, text)


def _only_author(releases: Sequence[InstalledRelease], text: str) -> bytes | None:
    """Return the author of releases of one name, None without releases; raises CallerError for several authors."""
    authors = sorted({release.author for release in releases})
    if len(authors) > 1:
        spelled = " or ".join(f"{encode_npub(author)}/{text}" for author in authors)
        raise CallerError(f"several authors have a model {text}: name it as {spelled}")
    return authors[0] if authors else None


def _unknown(text: str, otherwise: str) -> str:
    """Return why a text names no release: the author is not known, or `otherwise`."""
    words = split_version(text)[0]
    if found := split_web_name(words, TrustList()):
        return f"the key of {found[0]} is not known yet; look it up with randygpt fetch {quote(words)}"
    who, slash, name = words.partition("/")
    if slash and who and is_name(name):
        return (
            f"no file {quote(text)}, and no author {quote(who)} on your trust list "
            f"(randygpt trust add NPUB {who if who.isalnum() else 'NAME'})"
        )
    return otherwise.format(quote(text))
