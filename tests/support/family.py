"""Signed releases that were made from each other, without files."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import orjson

from distribution.ancestors import Ancestor, Lineage
from distribution.events import Release, release_draft
from distribution.revocation import revocation_draft
from relay_client.keys import SecretKey
from support.scripted_relay import ScriptedRelay

NOW = 1_790_000_000  # seconds since 1970


def claim(release: Release, *, author: bytes | None = None, hint: str = "") -> Ancestor:
    """Return an ancestor as a descendant names it; `author` is who it says signed it."""
    return Ancestor(release_id=release.id, hint=hint, author=author or release.author)


def make_release(
    key: SecretKey,
    name: str = "model",
    *,
    version: int = 1,
    base: Release | Ancestor | None = None,
    merged: Sequence[Release] = (),
    card: Mapping[str, object] = MappingProxyType({}),
    created_at: int | None = None,
) -> Release:
    """Return a signed release, by default a second newer than those that it was made from."""
    origins = [each for each in (base, *merged) if isinstance(each, Release)]
    later = max((each.created_at for each in origins), default=NOW - 10_000) + 1
    lineage = Lineage(base=claim(base) if isinstance(base, Release) else base, merged=tuple(map(claim, merged)))
    draft = release_draft(
        b"manifest",
        [bytes(32)],
        name=name,
        version=version,
        format="RGPT0003",
        size=1,
        card=dict(card),
        hint="",
        created_at=later if created_at is None else created_at,
        tags=lineage.tags,
    )
    return Release.parse(draft.sign(key), now=NOW)


def store_on(relay: ScriptedRelay, releases: Iterable[Release]) -> None:
    """Put releases on a relay."""
    relay.events |= {release.id.hex(): orjson.loads(release.event.to_json()) for release in releases}


def revoke_on(relay: ScriptedRelay, release: Release, signer: SecretKey, reason: str = "broken") -> None:
    """Put a revocation of a release on a relay."""
    event = revocation_draft(release.id, reason=reason, created_at=NOW).sign(signer)
    relay.events[event.id.hex()] = orjson.loads(event.to_json())
