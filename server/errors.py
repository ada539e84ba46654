"""What can go wrong while serving. No I/O.

ServerError
├── InvalidRequest     the client's request is wrong (400)
├── Busy               too many requests are waiting (503)
├── UnfitModel         a model that must not answer: it is damaged, or failed its test
│   └── Unreadable     it could not be read this time: the disk or the memory did not allow it
└── CannotListen       the address is taken, or not ours
"""


class ServerError(Exception):
    """Base of everything this package raises on purpose."""


class InvalidRequest(ServerError):
    """The client's request is wrong; `field` is where, if it is one field."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class Busy(ServerError):
    """Too many requests are waiting."""


class UnfitModel(ServerError):
    """A model that must not answer: it is damaged, or failed its test."""


class Unreadable(UnfitModel):
    """It could not be read this time: the disk or the memory did not allow it."""


class CannotListen(ServerError):
    """The address is taken, or not ours."""
