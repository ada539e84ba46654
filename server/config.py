"""Configuration of a server. No I/O."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from server.auth import canonical_host, canonical_origin
from server.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Address, access and limits of a server. CallerError refuses a host or origin that no request can have."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: any free port
    threads: int = 1  # processors to decode with
    api_keys: Sequence[str] = ()  # none: no key is needed
    hosts: Collection[str] = ()  # accepted in the Host header; none: any
    origins: Collection[str] = ()  # of other sites' pages that may send requests; `*`: all
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hosts", frozenset(map(canonical_host, self.hosts)))
        object.__setattr__(self, "origins", frozenset(map(canonical_origin, self.origins)))
