"""Distribution of model files over nostr: publish, fetch, verify, store and follow signed releases.

A release is a set of files (a checkpoint, its tokenizer, its config, up to 13 others) that an author signed under a
name and a version. The workflow, in order:

* An author describes a release with `ReleaseSpec` and calls `Publisher.publish`. Chunks, manifest and release go to
  relays and are read back; the head, which names the latest version, is sent last.
* A reader calls `Fetcher.fetch` with a reference from `resolve_reference`. Author, version, manifest, chunks and files
  are verified, in this order, before the release appears in the `Store`, whole or not at all.
* `Follower.run` installs each new version of a name until it is cancelled. `Revoker` revokes a release, `Reseeder`
  sends an installed one to relays that lost it.

Each takes an open `relay_client.pool.Pool`, and a clock as an argument. See `docs/api.md` for complete programs.

Caveats:

* Everything that touches a pool is a coroutine. Hashing and disk I/O of more than a few milliseconds run on threads.
* Several processes may share one home folder. A `Journal` stays in the thread that opened it.
* Checkpoints are opaque bytes here. What this package knows about models is the roles `checkpoint`, `tokenizer` and
  `config`, the segments `weights` and `optimizer`, and the format as a text to show.

Only the names in `__all__` are stable; they are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distribution.dry_run import DryRun
    from distribution.errors import (
        CallerError,
        ChunksMissing,
        Equivocation,
        InvalidChunk,
        InvalidManifest,
        InvalidRelease,
        NewerState,
        NotFound,
        NotPublished,
        NotTrusted,
        PeerError,
        RandyGPTError,
        Rollback,
        StorageError,
        StoreError,
        TransportError,
    )
    from distribution.fetch import Fetched, Fetcher
    from distribution.follow import Failed, Follower, FollowTarget, Installed, Skipped
    from distribution.installed import InstalledFile, InstalledRelease
    from distribution.journal import Journal
    from distribution.publish import Published, Publisher
    from distribution.release_spec import ReleaseSpec
    from distribution.reseed import Reseeded, Reseeder
    from distribution.resolve import VersionReference, resolve_installed, resolve_name, resolve_reference
    from distribution.revoke import Revoked, Revoker
    from distribution.source import SourceFile
    from distribution.state_file import StateFile
    from distribution.store import Store
    from distribution.trust import TrustPolicy
    from distribution.trust_list import TrustList, TrustStore

__all__ = [
    "CallerError",
    "ChunksMissing",
    "DryRun",
    "Equivocation",
    "Failed",
    "Fetched",
    "Fetcher",
    "FollowTarget",
    "Follower",
    "Installed",
    "InstalledFile",
    "InstalledRelease",
    "InvalidChunk",
    "InvalidManifest",
    "InvalidRelease",
    "Journal",
    "NewerState",
    "NotFound",
    "NotPublished",
    "NotTrusted",
    "PeerError",
    "Published",
    "Publisher",
    "RandyGPTError",
    "ReleaseSpec",
    "Reseeded",
    "Reseeder",
    "Revoked",
    "Revoker",
    "Rollback",
    "Skipped",
    "SourceFile",
    "StateFile",
    "StorageError",
    "Store",
    "StoreError",
    "TransportError",
    "TrustList",
    "TrustPolicy",
    "TrustStore",
    "VersionReference",
    "resolve_installed",
    "resolve_name",
    "resolve_reference",
]

_MODULES = {
    "dry_run": ("DryRun",),
    "fetch": ("Fetched", "Fetcher"),
    "follow": ("Failed", "FollowTarget", "Follower", "Installed", "Skipped"),
    "installed": ("InstalledFile", "InstalledRelease"),
    "journal": ("Journal",),
    "publish": ("Published", "Publisher"),
    "release_spec": ("ReleaseSpec",),
    "reseed": ("Reseeded", "Reseeder"),
    "resolve": ("VersionReference", "resolve_installed", "resolve_name", "resolve_reference"),
    "revoke": ("Revoked", "Revoker"),
    "source": ("SourceFile",),
    "state_file": ("StateFile",),
    "store": ("Store",),
    "trust": ("TrustPolicy",),
    "trust_list": ("TrustList", "TrustStore"),
}
_OWNER = {name: module for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:  # a type checker sees the imports above, and reports any other name

    def __getattr__(name: str) -> object:
        """Import a public name on first use."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_OWNER.get(name, 'errors')}"), name)
