"""Names of keys, events and models: NIP-05, NIP-19, and what users type or paste."""

from collections.abc import Callable

from fuzz.oracle import Target, same, text_of

from distribution.events import HEAD_KIND
from distribution.resolve import author_alone, split_version, split_web_name
from distribution.trust_list import TrustList
from distribution.web_names import address_alone
from relay_client.errors import CallerError
from relay_client.keys import SecretKey
from relay_client.nip05 import Nip05Address, parse_answer
from relay_client.nip19 import (
    AddressReference,
    EventReference,
    decode_pubkey,
    encode_bech32,
    encode_naddr,
    encode_nevent,
    encode_npub,
    parse_reference,
)

_ALICE = Nip05Address.parse("alice@a.example")
_EMPTY_LIST = TrustList(mode="explicit", names={}, addresses={})
_MAX_FIELD = 255  # bytes of a name or relay in a reference


def _document(data: bytes) -> None:
    parse_answer(data, _ALICE)


def _web_name(data: bytes) -> None:
    text = text_of(data)
    address_alone(text, _EMPTY_LIST)
    split_web_name(text, _EMPTY_LIST)
    address = Nip05Address.parse(text)
    same(address, Nip05Address.parse(str(address)))
    _ = address.url


def _reference(data: bytes) -> None:
    text = text_of(data)
    split_version(text)
    _repeat(text)


def _repeat(text: str) -> None:
    """Parse a reference, and what its parts encode to."""
    match parse_reference(text):
        case EventReference(id=event_id, relays=relays) as found:
            same(found.id, parse_reference(encode_nevent(event_id, author=bytes(32), kind=1, relays=relays)).id)  # type: ignore[union-attr]
        case AddressReference(author=author, name=name, relays=relays) as found:
            short = [url for url in relays if len(url) <= _MAX_FIELD]
            if len(name.encode()) <= _MAX_FIELD and len(short) < 8:
                again = parse_reference(encode_naddr(name, author=author, kind=found.kind or HEAD_KIND, relays=short))
                same((author, name, tuple(short)), (again.author, again.name, again.relays))  # type: ignore[union-attr]


def _fields(prefix: str) -> Target:
    """Return the target whose inputs are the fields inside a reference: a mutated bech32 only fails its checksum."""

    def target(data: bytes) -> None:
        _repeat(encode_bech32(prefix, data))

    return target


def _key(data: bytes) -> None:
    text = text_of(data)
    author_alone(text)
    _ignore(lambda: SecretKey.from_nsec(text))
    pubkey = decode_pubkey(text)
    same(pubkey, decode_pubkey(encode_npub(pubkey)))


def _ignore(read: Callable[[], object]) -> None:
    try:
        read()
    except CallerError as error:
        str(error)


TARGETS: dict[str, Target] = {
    "nip05-document": _document,
    "nip05-name": _web_name,
    "reference": _reference,
    "reference-nevent": _fields("nevent"),
    "reference-naddr": _fields("naddr"),
    "key": _key,
}
