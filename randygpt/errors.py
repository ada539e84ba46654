"""Every public error, under one root. No I/O.

RandyGPTError
├── CallerError        an argument, a setting or a local file is wrong (exit code 2)
│   ├── InvalidKey         not a usable nostr key
│   ├── InvalidReference   not a reference to an event (NIP-19)
│   ├── InvalidSetting     a line of a settings file is wrong
│   ├── InvalidModelFile   a file of a model (JSON, vocabulary, text) is wrong
│   │   └── InvalidCheckpoint  a checkpoint's header, size or numbers are wrong
│   ├── NotInstalled       the release that is named is not in the store
│   ├── TooLarge           a release is larger than the caller allows
│   └── Diverged           training left the finite numbers
├── PeerError          what a relay, a server or an author sent is wrong, or not trusted (exit code 3)
│   ├── InvalidEvent       an event's form, id or signature does not verify
│   ├── InvalidMessage     a relay's message breaks NIP-01
│   ├── InvalidResponse    a Blossom server's response is not the one that was asked for
│   ├── InvalidSigned      a remote signer did not sign what it was asked to sign
│   ├── InvalidToken       a Blossom token is malformed, or not valid for this request
│   ├── InvalidRelease, InvalidManifest, InvalidChunk
│   │                      a release breaks the protocol
│   ├── NotTrusted         the author is not on the trust list
│   ├── Rollback           a lower version than one seen before
│   └── Equivocation       two contents under one version number
├── TransportError     a peer cannot be reached, or did not send or accept everything (exit code 4)
│   ├── NotFound           no relay has it
│   ├── ChunksMissing      some chunks were not found
│   ├── NotPublished       no relay accepted all of it
│   ├── RelayRefused, RelayTimeout
│   │                      one relay refuses, or does not answer
│   ├── ServerRefused      one Blossom server refuses
│   └── SignerRefused      your remote signer refuses, or does not answer
└── StorageError       the local disk or store fails (exit code 5)
    └── StoreError         the local store is damaged or full
        └── NewerState         a newer version of this program wrote the file
"""

import contextlib
from collections.abc import Iterator

from distribution.errors import (
    ChunksMissing,
    Equivocation,
    InvalidChunk,
    InvalidManifest,
    InvalidRelease,
    NewerState,
    NotFound,
    NotInstalled,
    NotPublished,
    NotTrusted,
    Rollback,
    StoreError,
    TooLarge,
)
from relay_client.errors import (
    CallerError,
    InvalidEvent,
    InvalidKey,
    InvalidMessage,
    InvalidReference,
    InvalidResponse,
    InvalidSigned,
    InvalidToken,
    PeerError,
    RandyGPTError,
    RelayRefused,
    RelayTimeout,
    ServerRefused,
    SignerRefused,
    StorageError,
    TransportError,
)

__all__ = [
    "CallerError",
    "ChunksMissing",
    "Diverged",
    "Equivocation",
    "InvalidCheckpoint",
    "InvalidChunk",
    "InvalidEvent",
    "InvalidKey",
    "InvalidManifest",
    "InvalidMessage",
    "InvalidModelFile",
    "InvalidReference",
    "InvalidRelease",
    "InvalidResponse",
    "InvalidSetting",
    "InvalidSigned",
    "InvalidToken",
    "NewerState",
    "NotFound",
    "NotInstalled",
    "NotPublished",
    "NotTrusted",
    "PeerError",
    "RandyGPTError",
    "RelayRefused",
    "RelayTimeout",
    "Rollback",
    "ServerRefused",
    "SignerRefused",
    "StorageError",
    "StoreError",
    "TooLarge",
    "TransportError",
]


class InvalidModelFile(CallerError):
    """A file of a model (JSON, vocabulary, text) is wrong."""


class InvalidCheckpoint(InvalidModelFile):
    """A checkpoint's header, size or numbers are wrong."""


class InvalidSetting(CallerError):
    """A line of a settings file is wrong; `key` is empty where the line has none."""

    def __init__(self, file: object, line: int, key: str, reason: str) -> None:
        super().__init__(": ".join(filter(None, (f"{file}:{line}", key, reason))))
        self.file = str(file)
        self.line = line
        self.key = key
        self.reason = reason


class Diverged(CallerError):
    """Training diverged: a loss or weight is NaN or infinite."""


@contextlib.contextmanager
def translate_os_errors() -> Iterator[None]:
    """Raise an OSError of the body as a CallerError if the path is wrong, else as a StorageError."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename and error.strerror else ""
        text = f"{where}{error.strerror or str(error) or type(error).__name__}"
        is_wrong_path = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
        raise (CallerError if is_wrong_path else StorageError)(text) from error
