"""Errors of serving a model, in the categories of `relay_client.errors`. No I/O.

CallerError
├── InvalidRequest     the client's request is wrong (HTTP 400)
├── CannotListen       the address is in use, or not one of this machine
└── ModelLoadError     the model cannot be loaded
    ├── InvalidModel       it is damaged, or failed its self-test
    ├── ModelUnavailable   it could not be read this time, for lack of memory or a disk error
    └── Superseded         another release became current while it was loaded
TransportError
├── Busy               too many sequences are running or waiting (HTTP 503)
└── KeyLimitReached    too many of them have this API key (HTTP 429)
"""

from relay_client.errors import CallerError, TransportError


class InvalidRequest(CallerError):
    """The client's request is wrong; `field` names the field, if it is one."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class CannotListen(CallerError):
    """The address is in use, or not one of this machine."""


class ModelLoadError(CallerError):
    """The model cannot be loaded."""


class InvalidModel(ModelLoadError):
    """The model is damaged, or failed its self-test."""


class ModelUnavailable(ModelLoadError):
    """The model could not be read this time, for lack of memory or a disk error; a retry may succeed."""


class Superseded(ModelLoadError):
    """Another release became current while the model was loaded."""


class Busy(TransportError):
    """Too many sequences are running or waiting, or the server is shutting down."""


class KeyLimitReached(TransportError):
    """Too many sequences or tokens of one API key are running or waiting."""
