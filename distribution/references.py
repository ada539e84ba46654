"""References under which others fetch a published release (NIP-19), with relays and servers to ask. No I/O."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from distribution.event_tags import public_servers
from distribution.events import HEAD_KIND, RELEASE_KIND, Release
from distribution.installed import InstalledRelease
from relay_client.hints import MAX_HINTS, usable_hints
from relay_client.nip19 import encode_naddr, encode_nevent
from relay_client.url import is_loopback


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """References of one release, and the relays that a reader without a relay list has to be told besides."""

    nevent: str  # exactly this release
    naddr: str  # the latest release of the name
    relays: tuple[str, ...]  # empty if the relays in the references are enough
    only_local: bool  # True if no other machine can reach any of the relays
    servers: tuple[str, ...] = ()  # Blossom servers besides, empty if the release and its head name one

    @property
    def command(self) -> str:
        """The command that fetches the latest release on a machine without a relay list."""
        return self._fetch(self.naddr)

    @property
    def exact_command(self) -> str:
        """The command that fetches exactly this release on a machine without a relay list."""
        return self._fetch(self.nevent)

    def _fetch(self, reference: str) -> str:
        relays = (word for url in self.relays for word in ("--relay", url))
        servers = (word for origin in self.servers for word in ("--server", origin))
        return shlex.join(["randygpt", "fetch", reference, *relays, *servers])


def make_references(
    release: Release | InstalledRelease,
    relays: Sequence[str],
    *,
    copies: int | None = None,
    servers: Sequence[str] = (),
) -> References:
    """Return the references of a release.

    Readers follow the hints in a reference only to public addresses over TLS, and only the first three. Other relays
    have to be named with `--relay`: those of a local network, and all of them if each has a part of the chunks.

    Args:
        release: The release.
        relays: URLs of the relays that have it.
        copies: Relays that each chunk went to; None: all.
        servers: Blossom servers that have its files. Readers find public ones by themselves.
    """
    remote = [url for url in relays if not is_loopback(url)]
    public = usable_hints(remote, known=())
    hints = list(dict.fromkeys([*public, *remote]))[:MAX_HINTS]
    is_split = copies is not None and copies < len(relays)
    enough = bool(public) and (not is_split or set(remote) <= set(public))
    return References(
        nevent=encode_nevent(release.id, author=release.author, kind=RELEASE_KIND, relays=hints),
        naddr=encode_naddr(release.name, author=release.author, kind=HEAD_KIND, relays=hints),
        relays=() if enough else tuple(remote or relays),
        only_local=not remote,
        servers=() if public_servers(servers) else tuple(servers),
    )
