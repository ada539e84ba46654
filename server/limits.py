"""Limits and timeouts of a server. No I/O."""

from dataclasses import dataclass, fields

from relay_client.errors import CallerError


@dataclass(frozen=True, slots=True, kw_only=True)
class PositiveFields:
    """Base of dataclasses whose values must all be positive; CallerError names one that is not."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise CallerError(f"{field.name} must be positive, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(PositiveFields):
    """Limits on a server's clients; timeouts in seconds."""

    max_sequences: int = 128  # running or waiting; a key below its equal share of them may exceed it
    max_per_key: int = 64  # sequences of one API key, running or waiting
    max_tokens_per_key: int = 131_072  # prompt tokens and `max_tokens` of the open requests of one API key
    max_connections: int = 512
    header_timeout_s: float = 15  # for a request's headers, and between two requests of a connection
    body_timeout_s: float = 10
    request_timeout_s: float = 600  # until the response is complete
    write_timeout_s: float = 20  # for a client to read what is sent
    linger_s: float = 2  # for a client to read an error before its connection is closed
    shutdown_timeout_s: float = 30  # for running requests
