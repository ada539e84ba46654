"""Root and categories of every error that the four packages raise on purpose, and those of this package. No I/O.

The tree has one root, and each category one exit code. The other packages subclass the categories, so that
`except PeerError` catches everything a peer did wrong, in any package.

RandyGPTError
├── CallerError        an argument, a setting or a local file is wrong (exit code 2)
│   ├── InvalidKey         not a usable nostr key
│   └── InvalidReference   not a reference to an event (NIP-19)
├── PeerError          what a relay, a server or an author sent is wrong, or not trusted (exit code 3)
│   ├── InvalidEvent       not a NIP-01 event, or its id or signature does not verify
│   ├── InvalidMessage     not a NIP-01 message, or not an answer to anything that was asked
│   ├── InvalidResponse    a Blossom server's response is not the one that was asked for
│   ├── InvalidSigned      a remote signer's answer is not the event that was to be signed (NIP-46)
│   └── InvalidToken       not a Blossom authorization token, or not valid for this request (BUD-11)
├── TransportError     a peer cannot be reached, is overloaded, or lacks the data (exit code 4)
│   ├── RelayRefused       the relay refuses the request
│   ├── RelayTimeout       the relay does not answer, although its connection is open
│   ├── ServerRefused      a Blossom server refuses the request
│   └── SignerRefused      a remote signer refuses, or does not answer (NIP-46)
└── StorageError       the local disk or store fails (exit code 5)
"""

_MAX_QUOTED = 200  # characters


def quote(raw_value: object) -> str:
    """Return at most 200 characters of foreign input, escaped and in quotes, for an error message."""
    if isinstance(raw_value, str):
        return repr(raw_value[:_MAX_QUOTED])
    try:
        return repr(raw_value)[:_MAX_QUOTED]
    except (ValueError, RecursionError):  # an integer of thousands of digits, or lists nested a thousand deep
        return f"{type(raw_value).__name__} out of range"


class RandyGPTError(Exception):
    """Root of every error that is raised on purpose."""


class CallerError(RandyGPTError):
    """An argument, a setting or a local file is wrong."""


class PeerError(RandyGPTError):
    """What a relay, a server or an author sent is wrong, or not trusted."""


class TransportError(RandyGPTError):
    """A peer cannot be reached, or is overloaded, or lacks the data; trying again, or another relay, may succeed."""


class StorageError(RandyGPTError):
    """The local disk or store fails."""


class InvalidKey(CallerError):
    """Not a usable nostr key."""


class InvalidReference(CallerError):
    """Not a reference to an event (NIP-19)."""


class InvalidEvent(PeerError):
    """Not a NIP-01 event, or its id or signature does not verify."""


class InvalidMessage(PeerError):
    """Not a NIP-01 relay message, or not an answer to anything that was asked."""


class RelayRefused(TransportError):
    """The relay refuses the request; do not retry at this relay."""


class RelayTimeout(TransportError):
    """The relay does not answer, although its connection is open; a retry would take as long."""


class InvalidResponse(PeerError):
    """A Blossom server's response is not the one that was asked for."""


class InvalidSigned(PeerError):
    """A remote signer's answer is not the event that was to be signed (NIP-46)."""


class InvalidToken(PeerError):
    """Not a Blossom authorization token, or not valid for this request (BUD-11)."""


class ServerRefused(TransportError):
    """A Blossom server refuses the request; do not retry at this server.

    Args:
        message: The server's address, and why it refuses, for the user.
        status: HTTP status.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class SignerRefused(TransportError):
    """A remote signer refuses, or does not answer in time (NIP-46)."""
