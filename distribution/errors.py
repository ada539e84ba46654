"""What can go wrong when distributing files. No I/O.

DistributionError
├── PeerError          what an author or a relay sent is wrong, or not trusted
│   ├── InvalidRelease     release or head event that breaks the protocol
│   ├── InvalidManifest    manifest that breaks the protocol, or is too large
│   ├── InvalidChunk       chunk that is not the one the manifest names
│   ├── NotTrusted         the author is not on the list
│   ├── Rollback           a lower version than one already seen
│   └── Equivocation       one version number, two contents
├── TransportError     what is asked for did not come, or was not taken; a rerun goes on from there
│   ├── NotFound           no relay has it
│   ├── ChunksMissing      some of it came
│   └── NotPublished       no relay took all of it
├── CallerError        an argument or a local file is wrong
└── StoreError         the local store is damaged or has no room
"""


class DistributionError(Exception):
    """Base of everything this package raises on purpose."""


class PeerError(DistributionError):
    """What an author or a relay sent is wrong, or not trusted."""


class InvalidRelease(PeerError):
    """A release or head event that breaks the protocol."""


class InvalidManifest(PeerError):
    """A manifest that breaks the protocol, or is too large."""


class InvalidChunk(PeerError):
    """A chunk that is not the one the manifest names."""


class NotTrusted(PeerError):
    """The author is not on the list."""


class Rollback(PeerError):
    """A lower version than one already seen."""


class Equivocation(PeerError):
    """One version number, two contents."""


class TransportError(DistributionError):
    """What is asked for did not come, or was not taken; a rerun goes on from there."""


class NotFound(TransportError):
    """No relay has it."""


class ChunksMissing(TransportError):
    """Some of it came, not all."""


class NotPublished(TransportError):
    """No relay took all of it."""


class CallerError(DistributionError):
    """An argument or a local file is wrong."""


class StoreError(DistributionError):
    """The local store is damaged or has no room."""
