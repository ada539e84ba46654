"""NIP-05 addresses for keys, such as `alice@example.com`, and the document that names the key (NIP-05). No I/O."""

import re
from dataclasses import dataclass
from typing import Self

import orjson
from yarl import URL

from relay_client.errors import CallerError, InvalidKey, InvalidResponse, quote
from relay_client.hexadecimal import parse_hex
from relay_client.hints import is_public_host
from relay_client.nip19 import decode_pubkey
from relay_client.url import normalize_origin

ROOT_NAME = "_"  # stands for the domain itself
_MAX_RELAYS = 16  # of one answer
_NAME = re.compile("[a-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nip05Address:
    """The NIP-05 address of a key, in lower case; the domain in ASCII.

    Raises:
        CallerError: It cannot be one.
    """

    name: str
    domain: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or not _is_domain(self.domain):
            raise CallerError(f"not a name such as alice@example.com: {quote(f'{self.name}@{self.domain}')}")

    def __str__(self) -> str:
        """Return `alice@example.com`, or the domain alone for its root name."""
        return self.domain if self.name == ROOT_NAME else f"{self.name}@{self.domain}"

    @classmethod
    def parse(cls, raw_text: str) -> Self:
        """Parse `alice@example.com`, `_@example.com` or `example.com`; raises CallerError."""
        name, at, domain = raw_text.strip().rpartition("@")
        try:
            origin, path = normalize_origin(f"https://{domain}", ("https",))
        except ValueError:
            origin, path = "", ""
        host = "" if path else origin.removeprefix("https://")
        try:
            return cls(name=name.lower() if at else ROOT_NAME, domain=host)
        except CallerError:
            raise CallerError(f"not a name such as alice@example.com: {quote(raw_text)}") from None

    @property
    def url(self) -> URL:
        """Address of the document that names the key."""
        return URL(f"https://{self.domain}/.well-known/nostr.json").with_query(name=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nip05Key:
    """The key that a domain names, and relays that may have its events."""

    pubkey: bytes  # 32, x-only
    relays: tuple[str, ...] = ()  # hints, untrusted


def parse_answer(raw_answer: bytes, address: Nip05Address) -> Nip05Key | None:
    """Return the key that a document names for an address, None if it names none; raises InvalidResponse."""
    try:
        answer = orjson.loads(raw_answer)
    except orjson.JSONDecodeError:
        raise InvalidResponse(f"{address}: the answer of {address.domain} is not JSON") from None
    names = answer.get("names") if isinstance(answer, dict) else None
    if not isinstance(names, dict):
        raise InvalidResponse(f"{address}: the answer of {address.domain} has no names (NIP-05)")
    raw_key = names.get(address.name)
    if raw_key is None:
        return None
    if not isinstance(raw_key, str) or parse_hex(raw_key, 32) is None:
        raise InvalidResponse(f"{address}: {address.domain} names {quote(raw_key)}, which is not a key in hex")
    try:
        pubkey = decode_pubkey(raw_key)
    except InvalidKey as error:
        raise InvalidResponse(f"{address}: {address.domain} names {raw_key}: {error}") from None
    listed = answer.get("relays")
    relays = listed.get(raw_key) if isinstance(listed, dict) else None
    known = relays[:_MAX_RELAYS] if isinstance(relays, list) else []
    return Nip05Key(pubkey=pubkey, relays=tuple(url for url in known if isinstance(url, str)))


def _is_domain(domain: str) -> bool:
    """Return whether a host can be public, and is a name without a port."""
    return re.fullmatch(r"[a-z0-9.-]+\.[a-z][a-z0-9-]+", domain) is not None and is_public_host(domain)
