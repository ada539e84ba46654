"""Which installed release a person means. No I/O of its own: it reads a store."""

import re
from collections.abc import Sequence

from distribution.errors import CallerError
from distribution.installed import InstalledRelease
from distribution.store import Store
from distribution.trust_list import TrustList
from relay_client.keys import AddressReference, EventReference, encode_npub, parse_reference

_ID_PREFIX = re.compile("[0-9a-f]{4,64}")
_REFERENCE = re.compile("(nostr:)?((note|nevent|naddr|npub|nsec)1.*|[0-9a-f]{64}(/.*)?)", re.IGNORECASE)


def find_installed(store: Store, trusted: TrustList, text: str) -> InstalledRelease:
    """The installed release that `text` names; raises CallerError if that is none, or several.

    `current`, `previous`, a name that one author has, `npub…/name` or `<trusted author>/name` (their newest version),
    an id in any spelling, or the first digits of one.
    """
    if text in {"current", "previous"}:
        release_id = store.current() if text == "current" else store.previous()
        found = store.release(release_id) if release_id else None
        if found is None:
            raise CallerError(f"there is no {text} release{', it was removed' if release_id else ''}")
        return found
    installed = store.releases()
    who, _, name = text.partition("/")
    author = next((key for key, known in trusted.names.items() if name and known == who), None)
    if author or _REFERENCE.fullmatch(text):
        reference = AddressReference(author=author, name=name) if author else parse_reference(text)
        return _newest(_referred(installed, reference), text)
    named = [release for release in installed if release.name == text]
    if named or not _ID_PREFIX.fullmatch(text):
        authors = sorted({release.author for release in named})
        if len(authors) > 1:
            spelled = " or ".join(f"{encode_npub(author)}/{text}" for author in authors)
            raise CallerError(f"several authors have a {text}: say {spelled}")
        return _newest(named, text)
    matching = [release for release in installed if release.id.hex().startswith(text)]
    if len(matching) > 1:
        raise CallerError(f"{text} is the beginning of {len(matching)} ids: give more of it")
    return _newest(matching, text)


def _referred(
    installed: Sequence[InstalledRelease], reference: EventReference | AddressReference
) -> list[InstalledRelease]:
    if isinstance(reference, AddressReference):
        return [each for each in installed if (each.author, each.name) == (reference.author, reference.name)]
    return [each for each in installed if each.id == reference.id]


def _newest(releases: Sequence[InstalledRelease], text: str) -> InstalledRelease:
    if not releases:
        raise CallerError(f"no file and no installed release: {text[:100]!r} (randygpt list)")
    return max(releases, key=lambda release: release.version)
