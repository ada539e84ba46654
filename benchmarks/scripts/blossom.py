"""One publish to Blossom servers, or one fetch, without the start of the program.

`blossom.py publish HOME CHECKPOINT RELAY SERVER…` sends no chunks to the relay and prints {"ms", "signatures"};
`blossom.py fetch HOME RELEASE RELAY [SERVER…]` uses only these servers and prints {"ms"}. HOME is empty before.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from distribution import server_copies, server_fetch  # noqa: F401 (imported when needed; here as part of the start)
from randygpt.checkpoint.sidecar import inspect_checkpoint
from randygpt.fetching import FetchOptions, fetch_release
from randygpt.publishing import Publication
from randygpt.release_files import checkpoint_spec
from randygpt.user.home import Home
from relay_client.blossom import client  # noqa: F401 (the same)
from relay_client.keys import SecretKey


class CountingKey(SecretKey):
    """A key that counts its signatures."""

    __slots__ = ("signatures",)

    def __init__(self, secret: bytes) -> None:
        super().__init__(secret)
        self.signatures = 0

    def sign(self, digest: bytes) -> bytes:
        """Sign and count."""
        self.signatures += 1
        return super().sign(digest)


def publish(home: Home, checkpoint: str, relay: str, servers: Sequence[str]) -> dict[str, float]:
    """Publish a checkpoint by servers only."""
    path, key = Path(checkpoint), CountingKey.generate()
    start = time.perf_counter()
    with path.open("rb") as file:
        spec = checkpoint_spec(file, inspect_checkpoint(path), name="m")
        publication = Publication(home=home, relays=[relay], key=key, spec=spec, servers=servers, send_chunks=False)
        published = asyncio.run(publication.publish())
    seconds = time.perf_counter() - start
    if failed := [report.reason for report in published.servers.values() if report.reason]:
        raise RuntimeError(str(failed))
    return {"ms": seconds * 1e3, "signatures": key.signatures}


def fetch(home: Home, release: str, relay: str, servers: Sequence[str]) -> dict[str, float]:
    """Fetch, verify and install a release."""
    start = time.perf_counter()
    options = FetchOptions(relays=[relay], servers=servers, follow_servers=False)
    fetched = asyncio.run(fetch_release(home, release, options))
    seconds = time.perf_counter() - start
    if fetched.chunks.reused or fetched.misbehaving:
        raise RuntimeError(f"{fetched.chunks.reused} chunks reused; invalid data from {fetched.misbehaving}")
    return {"ms": seconds * 1e3}


WORK: dict[str, Callable[[Home, str, str, Sequence[str]], dict[str, float]]] = {"publish": publish, "fetch": fetch}


def main(command: str, home: str, what: str, relay: str, *servers: str) -> None:
    """Measure and print the figures."""
    print(json.dumps(WORK[command](Home(Path(home)), what, relay, servers)))


if __name__ == "__main__":
    main(*sys.argv[1:])
