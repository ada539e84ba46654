"""Release metadata for the page: the active release and its author, other releases, relay status. Reads files."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distribution.errors import RandyGPTError
from distribution.installed import InstalledRelease
from distribution.state_file import StateFile
from distribution.store import Store
from server.models import LoadedModel

STALE_S = 1800  # `follow` writes its status every ten minutes, unless it was killed

Facts = dict[str, Any]
Describe = Callable[[Sequence[InstalledRelease]], Sequence[Mapping[str, object]]]
Refer = Callable[[InstalledRelease], Mapping[str, object]]


class Provenance:
    """Reader of the metadata of a store's releases.

    Args:
        store: Has the releases.
        status_path: The file that `randygpt follow` writes its status to.
        describe: Returns name, version, author and id of each release, with the author's name on the user's list.
        refer: Returns a release's reference, the command that fetches it, and what it was made from.
        max_releases: Number of releases to list; the latest installed come first.
    """

    def __init__(
        self, store: Store, status_path: Path, describe: Describe, refer: Refer, *, max_releases: int = 100
    ) -> None:
        self._store = store
        self._status_file = StateFile(status_path)
        self._describe = describe
        self._refer = refer
        self._max_releases = max_releases

    def read(self, active_id: str | None) -> Facts:
        """Return all facts, where `active_id` is the active release (hex); `unread` has errors of unreadable files."""
        found: Facts = {}
        reasons = []
        for read in (self._active, self._installed, self._followed):
            try:
                found |= read(active_id)
            except (RandyGPTError, OSError) as error:
                reasons.append(str(error))
        return found | {"unread": "; ".join(reasons) or None}

    def _active(self, active_id: str | None) -> Facts:
        release = self._store.release(bytes.fromhex(active_id)) if active_id else None
        if release is None:
            return {}
        [facts] = self._describe([release])
        details = {
            "created_at": release.created_at,
            "size": release.size,
            "partial": release.partial,
            "sha256": release.file("checkpoint").sha256.hex(),
            "card": release.card,
        }
        return {"release": {**facts, **self._refer(release), **details}}

    def _installed(self, active_id: str | None) -> Facts:
        current, releases = self._store.current(), self._store.releases()
        listed = [release for release in releases if release.id.hex() == active_id]
        listed += [release for release in releases if release.id.hex() != active_id][: self._max_releases - len(listed)]
        listed.sort(key=lambda release: (release.name, release.author, -release.version, -release.created_at))
        return {
            "releases": [
                {
                    **facts,
                    "created_at": release.created_at,
                    "current": release.id == current,
                    "serving": release.id.hex() == active_id,
                }
                for release, facts in zip(listed, self._describe(listed), strict=True)
            ]
        }

    def _followed(self, _: str | None) -> Facts:
        entries = [(key, entry) for key, entry in self._status_file.read().items() if isinstance(entry, dict)]
        return {"followed": [_follow_status(key.partition("/")[2], entry) for key, entry in entries]}


def page_facts(
    loaded: LoadedModel | None, failure: str | None, provenance: Provenance | None, *, needs_key: bool
) -> Facts:
    """Return the JSON of `GET /provenance`.

    Args:
        loaded: The active model; None before the first.
        failure: Why the newest release could not be loaded.
        provenance: Reads the store; None for a model file.
        needs_key: Whether the server has API keys.
    """
    facts: Facts = {"release": None, "releases": [], "followed": [], "unread": None, "needs_key": needs_key}
    if provenance:
        facts |= provenance.read(loaded.release_id if loaded else None)
    model = _model_facts(loaded) if loaded else None
    return facts | {"model": model, "failure": failure}


def _follow_status(name: str, entry: Mapping[str, object]) -> Facts:
    """Return the status of following a name; fields that `follow` cannot have written are left out."""
    raw_updated_at, raw_relays = entry.get("updated_at"), entry.get("relays")
    updated_at = raw_updated_at if isinstance(raw_updated_at, int) else None
    relays = raw_relays.items() if isinstance(raw_relays, dict) else ()
    return {
        "name": name,
        "running": entry.get("running") is True and updated_at is not None and time.time() - updated_at < STALE_S,
        "updated_at": updated_at,
        "relays": [_relay_status(url, raw) for url, raw in relays if isinstance(raw, dict)],
    }


def _relay_status(url: str, raw: Mapping[str, object]) -> Facts:
    reason = raw.get("reason")
    return {
        "url": url,
        "connected": raw.get("connected") is True,
        "reason": reason if isinstance(reason, str) else None,
    }


def _model_facts(loaded: LoadedModel) -> Facts:
    """Return what is known of a loaded model from its files; its card may claim otherwise."""
    config, tokenizer = loaded.language_model.config, loaded.language_model.tokenizer
    return {
        "name": loaded.name,
        "label": loaded.label,
        "sha256": loaded.sha256,
        "shape": loaded.shape,
        "parameters": config.parameter_count,
        "block_size": config.block_size,
        "vocab_size": config.vocab_size,
        "tokenizer": tokenizer.kind,
    }
