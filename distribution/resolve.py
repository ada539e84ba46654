"""Resolution of a name or reference typed by the user, to a reference or an installed release. Reads the store."""

import re
from collections.abc import Sequence

from distribution.errors import CallerError
from distribution.installed import InstalledRelease
from distribution.store import Store
from distribution.trust_list import TrustList
from relay_client.errors import quote
from relay_client.nip19 import AddressReference, EventReference, encode_npub, parse_reference

_ID_PREFIX = re.compile("[0-9a-f]{4,64}")
_REFERENCE = re.compile("(nostr:)?((note|nevent|naddr|npub|nsec)1.*|[0-9a-f]{64}(/.*)?)", re.IGNORECASE)


def resolve_installed(store: Store, trusted: TrustList, text: str) -> InstalledRelease:
    """Return the installed release that `text` names.

    Args:
        store: Store to look in.
        trusted: Authors that the user named.
        text: `current`, `previous`, a name that only one author has, `npub…/name` or `alice/name` (the newest
            installed version), an id in any spelling, or the first digits of one.

    Raises:
        CallerError: No installed release matches, or several do.
        StoreError: The store is damaged.
    """
    if text in {"current", "previous"}:
        release_id = store.current() if text == "current" else store.previous()
        found = store.release(release_id) if release_id else None
        if found is None:
            raise CallerError(f"no {text} release{': it was removed' if release_id else ' yet'}")
        return found
    installed = store.releases()
    reference = _trusted_address(text, trusted) or (parse_reference(text) if _REFERENCE.fullmatch(text) else None)
    if reference:
        return _newest(_referred(installed, reference), text)
    named = [release for release in installed if release.name == text]
    if named or not _ID_PREFIX.fullmatch(text):
        authors = sorted({release.author for release in named})
        if len(authors) > 1:
            spelled = " or ".join(f"{encode_npub(author)}/{text}" for author in authors)
            raise CallerError(f"several authors have a model {text}: name it as {spelled}")
        return _newest(named, text)
    matching = [release for release in installed if release.id.hex().startswith(text)]
    if len(matching) > 1:
        raise CallerError(f"{len(matching)} ids begin with {text}: type more digits")
    return _newest(matching, text)


def resolve_reference(text: str, trusted: TrustList) -> EventReference | AddressReference:
    """Parse what `parse_reference` parses, or `alice/name` with a name from the trust list; raises InvalidReference."""
    return _trusted_address(text, trusted) or parse_reference(text)


def _trusted_address(text: str, trusted: TrustList) -> AddressReference | None:
    who, _, name = text.partition("/")
    author = next((key for key, known in trusted.names.items() if name and known == who), None)
    return AddressReference(author=author, name=name) if author else None


def _referred(
    installed: Sequence[InstalledRelease], reference: EventReference | AddressReference
) -> list[InstalledRelease]:
    if isinstance(reference, AddressReference):
        return [each for each in installed if (each.author, each.name) == (reference.author, reference.name)]
    return [each for each in installed if each.id == reference.id]


def _newest(releases: Sequence[InstalledRelease], text: str) -> InstalledRelease:
    if not releases:
        raise CallerError(f"no file and no installed release: {quote(text)}; see randygpt list")
    return max(releases, key=lambda release: release.version)
