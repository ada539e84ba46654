"""What the page tells of the model that answers: whose it is, what else is here, how the relays are. Reads files."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from distribution.errors import DistributionError
from distribution.installed import InstalledRelease
from distribution.state import StateFile
from distribution.store import Store
from server.models import LoadedModel

MAX_RELEASES = 100  # that are told, the newest

Facts = dict[str, Any]


class Provenance:
    """Tells of a store's releases; `about` says of one whose it is, by the names that the user knows."""

    def __init__(self, store: Store, status: Path, about: Callable[[InstalledRelease], Facts]) -> None:
        self._store = store
        self._status = StateFile(status)  # what `follow` writes
        self._about = about

    def read(self, loaded: LoadedModel | None) -> Facts:
        """Everything, of the model in charge first; what cannot be read is left out."""
        try:
            current, releases = self._store.current(), self._store.releases()
        except (DistributionError, OSError):
            current, releases = None, []
        serving = loaded.release_id if loaded else None
        answering = next((release for release in releases if release.id.hex() == serving), None)
        newest = sorted(releases, key=lambda release: (release.name, -release.version, -release.created_at))
        return {
            "release": self._whole(answering) if answering else None,
            "releases": [
                self._about(release)
                | {
                    "created_at": release.created_at,
                    "current": release.id == current,
                    "serving": release.id.hex() == serving,
                }
                for release in newest[:MAX_RELEASES]
            ],
            "followed": self._followed(),
        }

    def _whole(self, release: InstalledRelease) -> Facts:
        return self._about(release) | {
            "created_at": release.created_at,
            "size": release.size,
            "partial": release.partial,
            "sha256": release.file("checkpoint").sha256.hex(),
            "card": release.card,
        }

    def _followed(self) -> list[Facts]:
        try:
            content = self._status.read()
        except (DistributionError, OSError):
            return []
        return [
            {"name": key.partition("/")[2], "relays": _relays(entry.get("relays"))}
            | {name: entry.get(name) for name in ("running", "version", "updated_at")}
            for key, entry in content.items()
            if isinstance(entry, dict)
        ]


def told(loaded: LoadedModel | None, failure: str | None, provenance: Provenance | None) -> Facts:
    """What the page shows; without a store, of a file."""
    shown: Facts = {"release": None, "releases": [], "followed": []}
    if provenance:
        shown |= provenance.read(loaded)
    model = {"name": loaded.name, "label": loaded.label, "sha256": loaded.sha256} if loaded else None
    return shown | {"model": model, "failure": failure}


def encode(facts: Facts) -> tuple[bytes, str]:
    """(body, entity tag) of a reply."""
    body = orjson.dumps(facts)
    return body, hashlib.sha256(body).hexdigest()[:32]


def _relays(raw: object) -> list[Facts]:
    if not isinstance(raw, Mapping):
        return []
    links = ((url, link) for url, link in raw.items() if isinstance(link, Mapping))
    return [{"url": url, "connected": link.get("connected"), "reason": link.get("reason")} for url, link in links]
