"""How a server is to behave, and what it puts up with. No I/O."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where a server listens, whom it answers, and its limits; times in seconds."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: any that is free
    threads: int = 1  # that decode: one, or more than one
    api_keys: Sequence[str] = ()  # none: everybody may ask
    hosts: Collection[str] = ()  # names it may be called by; none: any
    origins: Collection[str] = ()  # of web pages elsewhere that may ask; `*`: all
    max_sequences: int = 128  # under way or waiting
    max_per_key: int = 64  # requests under way with one key
    max_connections: int = 512
    idle: float = 15  # without a whole request's headers
    body: float = 10  # for a request's body to arrive
    write: float = 20  # for a client to take what it is sent
    answer: float = 600  # for a whole answer
    drain: float = 30  # for requests under way to finish when the server stops
