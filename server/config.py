"""Configuration of a server. No I/O."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from server.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Address, access and limits of a server."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: any free port
    threads: int = 1  # processors to decode with
    api_keys: Sequence[str] = ()  # none: no key is needed
    hosts: Collection[str] = ()  # accepted in the Host header; none: any
    origins: Collection[str] = ()  # of other sites' pages that may send requests; `*`: all
    limits: Limits = field(default_factory=Limits)
