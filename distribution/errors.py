"""Errors of distributing files, in the categories of `relay_client.errors`. No I/O.

CallerError
├── NotInstalled       the release that is named is not in the store
└── TooLarge           a release is larger than the caller allows
PeerError
├── InvalidRelease     a release, head or revocation event breaks the protocol
├── InvalidManifest    a manifest breaks the protocol, or is too large
├── InvalidChunk       a chunk is not the one that the manifest names
├── NotTrusted         the author is not on the trust list
├── Rollback           a lower version than one seen before
└── Equivocation       two contents under one version number
TransportError
├── NotFound           no relay has it
├── ChunksMissing      some chunks were not found
└── NotPublished       no relay accepted all of it
StorageError
└── StoreError         the local store is damaged or full
    └── NewerState         a newer version of this program wrote the file
"""

from relay_client.errors import CallerError, PeerError, RandyGPTError, StorageError, TransportError

__all__ = [
    "CallerError",
    "ChunksMissing",
    "Equivocation",
    "InvalidChunk",
    "InvalidManifest",
    "InvalidRelease",
    "NewerState",
    "NotFound",
    "NotInstalled",
    "NotPublished",
    "NotTrusted",
    "PeerError",
    "RandyGPTError",
    "Rollback",
    "StorageError",
    "StoreError",
    "TooLarge",
    "TransportError",
]


class NotInstalled(CallerError):
    """The release that is named is not in the store."""


class TooLarge(CallerError):
    """A release is larger than the caller allows."""


class InvalidRelease(PeerError):
    """A release, head or revocation event breaks the protocol."""


class InvalidManifest(PeerError):
    """A manifest breaks the protocol, or is too large."""


class InvalidChunk(PeerError):
    """A chunk is not the one that the manifest names."""


class NotTrusted(PeerError):
    """The author is not on the trust list."""


class Rollback(PeerError):
    """A lower version than one seen before."""


class Equivocation(PeerError):
    """Two contents under one version number."""


class NotFound(TransportError):
    """No relay has it."""


class ChunksMissing(TransportError):
    """Some chunks were not found; the others are kept, and a rerun continues from there."""


class NotPublished(TransportError):
    """No relay accepted all of it; a rerun continues from there."""


class StoreError(StorageError):
    """The local store is damaged or full."""


class NewerState(StoreError):
    """A newer version of this program wrote the file; it is neither read nor overwritten."""
