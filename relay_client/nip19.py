"""NIP-19 text of keys and events: npub, note, nevent, naddr, also as `nostr:` URIs (NIP-21) and links. No I/O.

The bech32 is pynostr's, which accepts any prefix and length, so these are checked here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import coincurve
from pynostr import bech32

from relay_client.errors import CallerError, InvalidKey, InvalidReference, quote
from relay_client.event import MAX_KIND
from relay_client.hexadecimal import parse_hex
from relay_client.url import normalize_url

_SIZE = 32  # bytes of a key or an event id
_MAX_REFERENCE = 5_000  # characters of an nevent or naddr (NIP-19)
_SPECIAL, _RELAY, _AUTHOR, _KIND = range(4)  # types of the fields in an nevent or naddr (NIP-19)
_MAX_FIELD = 255  # bytes
_KIND_SIZE = 4  # bytes, big-endian
_LINK = re.compile("https?://[^/?#]+(/[^?#]*)(?:[?][^#]*)?(#.*)?", re.IGNORECASE)
_LINKED = re.compile(
    "(?:note|nevent|naddr|npub|nsec)1.*|[0-9a-f]{64}", re.IGNORECASE
)  # a part of a link that names one
_SCHEME = re.compile("(?:web[+])?nostr:(?://)?", re.IGNORECASE)  # of a URI (NIP-21)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventReference:
    """Reference to one event by its id (note, nevent)."""

    id: bytes  # 32
    relays: tuple[str, ...] = ()  # hints, untrusted

    def __post_init__(self) -> None:
        if not _has_size(self.id):
            raise InvalidReference("an event id must have 32 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressReference:
    """Reference to an author's latest event of a name (naddr, `npub…/name`)."""

    author: bytes  # 32, x-only public key
    name: str  # untrusted: match it against a pattern before use
    kind: int | None = None  # given by an naddr, not by `npub…/name`
    relays: tuple[str, ...] = ()  # hints, untrusted

    def __post_init__(self) -> None:
        if not _has_size(self.author):
            raise InvalidReference("an author's public key must have 32 bytes")
        if self.kind is not None and not 0 <= self.kind <= MAX_KIND:
            raise InvalidReference(f"an event kind must be from 0 to {MAX_KIND}, not {self.kind}")


def encode_npub(pubkey: bytes) -> str:
    """Encode a 32-byte public key as `npub1…` (NIP-19)."""
    return encode_bech32("npub", pubkey)


def short_npub(pubkey: bytes) -> str:
    """Return the two ends of an npub, for tables. Too short to tell a forged key from a real one."""
    npub = encode_npub(pubkey)
    return f"{npub[:9]}…{npub[-4:]}"


def encode_note(event_id: bytes) -> str:
    """Encode a 32-byte event id as `note1…` (NIP-19)."""
    return encode_bech32("note", event_id)


def encode_nevent(event_id: bytes, *, author: bytes, kind: int, relays: Sequence[str]) -> str:
    """Encode an event id as `nevent1…` with author, kind and relay hints (NIP-19)."""
    return _encode_with_fields("nevent", event_id, author, kind, relays)


def encode_naddr(name: str, *, author: bytes, kind: int, relays: Sequence[str]) -> str:
    """Encode the address of an author's latest event of a name as `naddr1…` with relay hints (NIP-19)."""
    return _encode_with_fields("naddr", name.encode(), author, kind, relays)


def _encode_with_fields(prefix: str, special: bytes, author: bytes, kind: int, relays: Sequence[str]) -> str:
    fields = [
        (_SPECIAL, special),
        (_AUTHOR, author),
        (_KIND, kind.to_bytes(_KIND_SIZE, "big")),
        *((_RELAY, url.encode()) for url in relays),
    ]
    fitting = [(number, value) for number, value in fields if len(value) <= _MAX_FIELD]
    return encode_bech32(prefix, b"".join(bytes([number, len(value)]) + value for number, value in fitting))


def decode_pubkey(raw_key: str) -> bytes:
    """Decode a 32-byte public key from `npub1…` or 64 hex digits; raises InvalidKey."""
    pubkey = parse_hex(raw_key.lower(), 32)
    if pubkey is None:
        if not raw_key.lower().startswith("npub1"):
            raise InvalidKey("not a public key: expected an npub or 64 hex digits")
        pubkey = decode_bech32("npub", raw_key)
    try:
        coincurve.PublicKeyXOnly(pubkey)
    except ValueError:
        raise InvalidKey("not a public key: no point on the curve") from None
    return pubkey


def parse_reference(raw_text: str) -> EventReference | AddressReference:
    """Parse a typed reference: hex id, note, nevent, naddr or `npub…/name`; raises InvalidReference.

    It may be a `nostr:` URI in any case (NIP-21), or a web link that ends in it, such as `https://njump.me/nevent1…`.
    """
    text = _unwrap(raw_text.strip())
    if "nsec1" in text.lower():
        raise InvalidReference("this is a SECRET key (nsec), and is now in your shell's history")
    if not text.isascii():
        raise InvalidReference(f"not an event id, note, nevent, naddr or npub…/name: {raw_text[:80]!a}")
    if "://" in text:
        raise InvalidReference(f"no note, nevent, naddr or npub…/name at the end of this link: {quote(raw_text)}")
    try:
        if "/" in text:
            raw_key, name = text.split("/", 1)
            return AddressReference(author=_decode_author(raw_key), name=name)
        if event_id := parse_hex(text.lower(), 32):
            return EventReference(id=event_id)
        match text.lower().split("1", 1)[0]:
            case "note":
                return EventReference(id=decode_bech32("note", text))
            case "nevent" | "naddr" as prefix:
                return _decode_with_fields(prefix, text)
            case "npub":
                raise InvalidReference("an npub alone names an author; expected npub…/name")
            case _:
                raise InvalidReference(f"not an event id, note, nevent, naddr or npub…/name: {quote(raw_text)}")
    except InvalidKey as error:
        raise InvalidReference(str(error)) from None


def strip_scheme(text: str) -> str:
    """Return a typed text without the scheme of a `nostr:` URI, in any case, and without spaces around it."""
    text = text.strip()
    scheme = _SCHEME.match(text)
    return text[scheme.end() :] if scheme else text


def _unwrap(text: str) -> str:
    """Return the reference in a `nostr:` URI, or at the end of a link's path or fragment, or the text itself."""
    if not (link := _LINK.fullmatch(text)):
        return strip_scheme(text)
    for place in filter(None, link.groups()):
        parts = [strip_scheme(part) for part in unquote(place.removeprefix("#")).split("/") if part]
        if parts and _LINKED.fullmatch(parts[-1]):
            return parts[-1]
        if len(parts) > 1 and _LINKED.fullmatch(parts[-2]):
            return "/".join(parts[-2:])
    return text


def _decode_author(raw_key: str) -> bytes:
    try:
        return decode_pubkey(raw_key)
    except InvalidKey:
        reason = "not a valid npub" if raw_key.lower().startswith("npub1") else "not an npub"
        raise InvalidReference(f"{reason}: {quote(raw_key)} (expected npub…/name)") from None


def _decode_with_fields(prefix: str, text: str) -> EventReference | AddressReference:
    """Decode an nevent or naddr (NIP-19, type-length-value)."""
    if len(text) > _MAX_REFERENCE:
        raise InvalidReference(f"an {prefix} has at most {_MAX_REFERENCE:,} characters, not {len(text):,}")
    data = _decode_words(prefix, text)
    fields = _parse_fields(data) if data is not None else None
    if fields is None:
        raise InvalidReference(f"not a valid {prefix}: {quote(text)}")
    relays = tuple(url for raw_url in fields.get(_RELAY, ()) for url in _relay_hint(raw_url))
    special, (author, *_), (kind, *_) = (fields.get(number, [b""]) for number in (_SPECIAL, _AUTHOR, _KIND))
    if _SPECIAL not in fields:
        raise InvalidReference(f"this {prefix} has no {'event id' if prefix == 'nevent' else 'name'}: {quote(text)}")
    if prefix == "nevent":
        return EventReference(id=special[0], relays=relays)
    try:
        name = special[0].decode()
    except UnicodeDecodeError:
        raise InvalidReference(f"the name in this naddr is not UTF-8: {quote(text)}") from None
    if len(kind) != _KIND_SIZE:
        raise InvalidReference(f"this naddr has no kind: {quote(text)}")
    return AddressReference(author=author, name=name, kind=int.from_bytes(kind, "big"), relays=relays)


def _parse_fields(data: bytes) -> dict[int, list[bytes]] | None:
    """Return the values of each type, in order; None if the last one is cut off."""
    fields: dict[int, list[bytes]] = {}
    while data:
        end = 2 + data[1] if len(data) > 1 else len(data) + 1
        if end > len(data):
            return None
        fields.setdefault(data[0], []).append(data[2:end])
        data = data[end:]
    return fields


def _relay_hint(raw_url: bytes) -> list[str]:
    """Return the relay in a reference; empty if it is not a relay's address, as it is only a hint."""
    try:
        return [normalize_url(raw_url.decode())]
    except (UnicodeDecodeError, CallerError):
        return []


def _has_size(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == _SIZE


def encode_bech32(prefix: str, data: bytes) -> str:
    """Encode bytes as bech32 with a prefix (BIP-173)."""
    return str(bech32.bech32_encode(prefix, bech32.convertbits(data, 8, 5), bech32.Encoding.BECH32))


def decode_bech32(prefix: str, raw_text: str) -> bytes:
    """Decode the 32 bytes of a bech32 text with this prefix; raises InvalidKey."""
    data = _decode_words(prefix, raw_text)
    if data is None or len(data) != _SIZE:
        raise InvalidKey(f"not a valid {prefix}")
    return data


def _decode_words(prefix: str, raw_text: str) -> bytes | None:
    """Return the bytes of bech32 with a prefix, of any length; None if it is not valid."""
    found, words, encoding = bech32.bech32_decode(raw_text)
    data = bech32.convertbits(words, 5, 8, False) if words else None
    if found != prefix or encoding is not bech32.Encoding.BECH32 or data is None:
        return None
    return bytes(data)
