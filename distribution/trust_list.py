"""Trusted authors, the names that the user gave them, and the keys that NIP-05 addresses had. Owns state/trust.json.

Authors without such a name are shown by their key and the name that they claim.

{"policy": "explicit" or "allowlist", "authors": {"<public key in hex>": "<name>"},
"addresses": {"alice@example.com": "<public key in hex>"}}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from distribution.author_claims import ClaimStore
from distribution.confusables import skeleton
from distribution.errors import CallerError
from distribution.state_file import StateFile
from distribution.trust import MODES, Mode, TrustPolicy
from relay_client.errors import InvalidKey, quote
from relay_client.nip19 import decode_pubkey, encode_npub, short_npub

_MAX_NAME = 64
_SHORT_CLAIM = 12  # characters of a claimed name in a table


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustList:
    """The trust policy, and the trusted authors by name."""

    mode: Mode = "explicit"
    names: Mapping[bytes, str] = field(default_factory=dict)  # x-only public key, 32
    addresses: Mapping[str, bytes] = field(default_factory=dict)  # NIP-05, to the key that it named first
    claims: Mapping[bytes, str] = field(default_factory=dict)  # names in profiles of authors, which prove nothing

    @property
    def policy(self) -> TrustPolicy:
        """The policy that a fetch applies."""
        return TrustPolicy(mode=self.mode, authors=frozenset(self.names))

    def with_claim(self, author: bytes, name: str) -> Self:
        """Return the list with the name that an author claims now, if any."""
        return replace(self, claims={**self.claims, author: name}) if name else self

    def display_name(self, author: bytes) -> str:
        """Return an author for display: the name on the list, or else the claimed one, and always the npub."""
        npub = encode_npub(author)
        if author in self.names:
            return f"{self.names[author]} ({npub})"
        if imitated := self.imitated(author):
            return f"{npub}, calls itself like your {imitated}, and is another key"
        claim = self.claims.get(author)
        return f'{npub}, calls itself "{claim}"' if claim else npub

    def short_name(self, author: bytes) -> str:
        """Return an author for a table: the name on the list, or else the ends of the npub and the claimed name.

        The ends of an npub are too short to tell a forged key from a real one.
        """
        short = short_npub(author)
        if author in self.names:
            return self.names[author]
        if imitated := self.imitated(author):
            return f"{short} (not your {imitated})"
        claim = self.claims.get(author, "")
        return f'"{claim[:_SHORT_CLAIM]}{"…" if claim[_SHORT_CLAIM:] else ""}"? {short}' if claim else short

    def model_address(self, author: bytes, name: str) -> str:
        """Return a model's name as it is typed: with the author's name on the list, or else the npub."""
        return f"{self.names.get(author) or encode_npub(author)}/{name}"

    def imitated(self, author: bytes) -> str:
        """Return the name on the list that another author's claimed name looks like, empty if it looks like none."""
        claim = self.claims.get(author)
        if not claim or author in self.names:
            return ""
        form = skeleton(claim)
        return next((name for name in self.names.values() if skeleton(name) == form), "")


class TrustStore:
    """The trust list below a home folder. A damaged file raises StoreError: it never counts as empty."""

    def __init__(self, home: Path) -> None:
        self._file = StateFile(home / "state" / "trust.json")
        self._claims = ClaimStore(home)

    def read(self) -> TrustList:
        """Return the list, with the names that other authors claim; raises StoreError."""
        return replace(self._decode(self._file.read()), claims=self._claims.read())

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
        """Keep the key that a NIP-05 address has, unless one is kept already; raises StoreError, OSError."""
        async with self._file.changing() as content:
            self._decode(content)
            content.setdefault("addresses", {}).setdefault(address, pubkey.hex())

    async def forget(self, address: str) -> None:
        """Forget the key that a NIP-05 address had; raises CallerError if none is kept."""
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
