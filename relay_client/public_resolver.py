"""Resolution of host names to publicly routable addresses only, for servers that a stranger chose. Does network I/O."""

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from relay_client.errors import TransportError
from relay_client.hints import is_public


class PublicResolver(AbstractResolver):
    """Resolver that refuses a name if any of its addresses is private. The connection goes to what was checked."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        """Return the addresses of a host; raises TransportError if one is not public, and OSError."""
        found = await self._resolver.resolve(host, port, family)  # type: ignore[arg-type]  # an address family
        if not found or not all(is_public(address["host"]) for address in found):
            raise TransportError(f"https://{host}: not a public address")
        return found

    async def close(self) -> None:
        """Release the resolver."""
        await self._resolver.close()
