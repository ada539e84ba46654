"""What can go wrong when talking nostr. No I/O.

RelayClientError
├── PeerError          what a relay or an author sent is wrong
│   ├── InvalidEvent       not a NIP-01 event, or its id or signature does not hold
│   └── InvalidMessage     not a NIP-01 message, or one that nobody asked for
├── TransportError     a relay cannot be reached, closed, or fell silent
│   ├── Refused            a relay answers, and will not do what it was asked; asking again is of no use
│   └── Silent             a relay does not answer, and its connection stands
└── CallerError        an argument is wrong
    ├── InvalidKey         not a usable nostr key
    └── InvalidReference   not a name by which an event can be found
"""


class RelayClientError(Exception):
    """Base of everything this package raises on purpose."""


class PeerError(RelayClientError):
    """What a relay or an author sent is wrong."""


class InvalidEvent(PeerError):
    """Not a NIP-01 event, or its id or signature does not hold."""


class InvalidMessage(PeerError):
    """Not a NIP-01 relay message, or more than was asked for."""


class TransportError(RelayClientError):
    """A relay cannot be reached, closed the connection, or did not answer in time."""


class Refused(TransportError):
    """A relay answers, and will not do what it was asked; asking again is of no use."""


class Silent(TransportError):
    """A relay does not answer, and its connection stands; asking again would be as long a wait."""


class CallerError(RelayClientError):
    """An argument given by the caller is wrong."""


class InvalidKey(CallerError):
    """Not a usable nostr key."""


class InvalidReference(CallerError):
    """Not a name by which an event can be found."""
