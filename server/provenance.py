"""What the page tells of the model that answers: whose it is, what else is here, how the relays are. Reads files."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distribution.errors import RandyGPTError
from distribution.installed import InstalledRelease
from distribution.state_file import StateFile
from distribution.store import Store
from server.models import LoadedModel

MAX_RELEASES = 100  # that are told, those installed last
STALE_S = 1800  # `follow` writes how it stands every ten minutes; one that was killed writes no more

Facts = dict[str, Any]
Describe = Callable[[Sequence[InstalledRelease]], Sequence[Mapping[str, object]]]


class Provenance:
    """Tells of a store's releases; `describe` says whose they are, by the names that the user knows."""

    def __init__(self, store: Store, status: Path, describe: Describe) -> None:
        self._store = store
        self._status = StateFile(status)  # what `follow` writes
        self._describe = describe

    def read(self, serving: str | None) -> Facts:
        """All there is, with the release that serves (its id in hex); `unread` says why something is missing."""
        found: Facts = {}
        reasons = []
        for look in (self._answering, self._installed, self._followed):
            try:
                found |= look(serving)
            except (RandyGPTError, OSError) as error:
                reasons.append(str(error))
        return found | {"unread": "; ".join(reasons) or None}

    def _answering(self, serving: str | None) -> Facts:
        release = self._store.release(bytes.fromhex(serving)) if serving else None
        if release is None:
            return {}
        [facts] = self._describe([release])
        whole = {
            "created_at": release.created_at,
            "size": release.size,
            "partial": release.partial,
            "sha256": release.file("checkpoint").sha256.hex(),
            "card": release.card,
        }
        return {"release": {**facts, **whole}}

    def _installed(self, serving: str | None) -> Facts:
        current, releases = self._store.current(), self._store.releases()
        told = [release for release in releases if release.id.hex() == serving]
        told += [release for release in releases if release.id.hex() != serving][: MAX_RELEASES - len(told)]
        told.sort(key=lambda release: (release.name, release.author, -release.version, -release.created_at))
        return {
            "releases": [
                {
                    **facts,
                    "created_at": release.created_at,
                    "current": release.id == current,
                    "serving": release.id.hex() == serving,
                }
                for release, facts in zip(told, self._describe(told), strict=True)
            ]
        }

    def _followed(self, _: str | None) -> Facts:
        entries = [(key, entry) for key, entry in self._status.read().items() if isinstance(entry, dict)]
        return {"followed": [_status(key.partition("/")[2], entry) for key, entry in entries]}


def told(loaded: LoadedModel | None, failure: str | None, provenance: Provenance | None) -> Facts:
    """What the page shows; without a store, of a file."""
    facts: Facts = {"release": None, "releases": [], "followed": [], "unread": None}
    if provenance:
        facts |= provenance.read(loaded.release_id if loaded else None)
    model = {"name": loaded.name, "label": loaded.label, "sha256": loaded.sha256} if loaded else None
    return facts | {"model": model, "failure": failure}


def _status(name: str, entry: Mapping[str, object]) -> Facts:
    """How a name is followed; of what is not as `follow` writes it, only what can be made sense of."""
    at, relays = entry.get("updated_at"), entry.get("relays")
    written = at if isinstance(at, int) else None
    links = relays.items() if isinstance(relays, dict) else ()
    return {
        "name": name,
        "running": entry.get("running") is True and written is not None and time.time() - written < STALE_S,
        "updated_at": written,
        "relays": [_link(url, link) for url, link in links if isinstance(link, dict)],
    }


def _link(url: str, link: Mapping[str, object]) -> Facts:
    reason = link.get("reason")
    return {
        "url": url,
        "connected": link.get("connected") is True,
        "reason": reason if isinstance(reason, str) else None,
    }
