"""Trusted authors, the names that the user gave them, and the keys that names of the web had. Owns state/trust.json.

{"policy": "explicit" or "allowlist", "authors": {"<public key in hex>": "<name>"},
"addresses": {"alice@example.com": "<public key in hex>"}}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distribution.errors import CallerError
from distribution.state_file import StateFile
from distribution.trust import MODES, Mode, TrustPolicy
from relay_client.errors import InvalidKey, quote
from relay_client.nip19 import decode_pubkey, encode_npub

_MAX_NAME = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustList:
    """The trust policy, and the trusted authors by name."""

    mode: Mode = "explicit"
    names: Mapping[bytes, str] = field(default_factory=dict)  # x-only public key, 32
    addresses: Mapping[str, bytes] = field(default_factory=dict)  # NIP-05, to the key that it named first

    @property
    def policy(self) -> TrustPolicy:
        """The policy that a fetch applies."""
        return TrustPolicy(mode=self.mode, authors=frozenset(self.names))

    def display_name(self, author: bytes) -> str:
        """Return an author for display: the name on the list, if any, and always the npub."""
        npub = encode_npub(author)
        return f"{self.names[author]} ({npub})" if author in self.names else npub


class TrustStore:
    """The trust list below a home folder. A damaged file raises StoreError: it never counts as empty."""

    def __init__(self, home: Path) -> None:
        self._file = StateFile(home / "state" / "trust.json")

    def read(self) -> TrustList:
        """Return the list; raises StoreError."""
        return self._decode(self._file.read())

    async def add(self, author: bytes, name: str) -> None:
        """Trust an author, or rename one.

        Raises:
            CallerError: The name is empty, too long, not printable, or taken.
            StoreError: The file is damaged.
        """
        if not name.strip() or len(name) > _MAX_NAME or not name.isprintable():
            raise CallerError(
                f"a name for an author must have 1 to {_MAX_NAME} printable characters, not {quote(name)}"
            )
        async with self._file.changing() as content:
            others = {key: known for key, known in self._decode(content).names.items() if key != author}
            if name in others.values():
                raise CallerError(f"{name} is already on your trust list, with another key")
            content.setdefault("authors", {})[author.hex()] = name

    async def remove(self, who: str) -> bytes:
        """Remove an author, given as npub, hex or name, and return the key; raises CallerError if not listed."""
        async with self._file.changing() as content:
            names = self._decode(content).names
            author = next((key for key, name in names.items() if name == who), None) or _pubkey(who)
            if author is None or author not in names:
                raise CallerError(f"{quote(who)} is not on your trust list")
            del content["authors"][author.hex()]
        return author

    async def remember(self, address: str, pubkey: bytes) -> None:
        """Keep the key that a name of the web (NIP-05) has, unless one is kept already; raises StoreError, OSError."""
        async with self._file.changing() as content:
            self._decode(content)
            content.setdefault("addresses", {}).setdefault(address, pubkey.hex())

    async def forget(self, address: str) -> None:
        """Forget the key that a name of the web had; raises CallerError if none is kept."""
        async with self._file.changing() as content:
            if address not in self._decode(content).addresses:
                raise CallerError(f"no key is remembered for {quote(address)}")
            del content["addresses"][address]

    async def set_mode(self, mode: Mode) -> None:
        """Set the policy; raises StoreError and OSError."""
        async with self._file.changing() as content:
            self._decode(content)
            content["policy"] = mode

    def _decode(self, content: Mapping[str, Any]) -> TrustList:
        mode, authors = content.get("policy", MODES[0]), content.get("authors", {})
        addresses = content.get("addresses", {})
        if mode not in MODES or not isinstance(authors, dict) or not isinstance(addresses, dict):
            raise self._file.damaged("unknown policy, or no authors")
        try:
            names = {decode_pubkey(key): str(name) for key, name in authors.items()}
            keys = {address: decode_pubkey(str(key)) for address, key in addresses.items()}
        except InvalidKey as error:
            raise self._file.damaged(error) from None
        return TrustList(mode=mode, names=names, addresses=keys)


def _pubkey(who: str) -> bytes | None:
    try:
        return decode_pubkey(who)
    except InvalidKey:
        return None
