"""References to events as the user types them (NIP-19)."""

import nostr_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynostr import bech32

from relay_client.errors import InvalidReference
from relay_client.keys import SecretKey
from relay_client.nip19 import (
    AddressReference,
    EventReference,
    encode_naddr,
    encode_nevent,
    encode_npub,
    parse_reference,
)

KEY = SecretKey(bytes.fromhex("11" * 32))
ID = bytes.fromhex("a1" * 32)
RELAYS = ("wss://relay.example", "ws://127.0.0.1:4848")
NPUB = encode_npub(KEY.pubkey)
NEVENT = encode_nevent(ID, author=KEY.pubkey, kind=4181, relays=RELAYS)


def note(event_id: bytes, prefix: str = "note", encoding: bech32.Encoding = bech32.Encoding.BECH32) -> str:
    return str(bech32.bech32_encode(prefix, bech32.convertbits(event_id, 8, 5), encoding))


def naddr(name: str, kind: int = 34181, relays: tuple[str, ...] = RELAYS) -> str:
    author = nostr_sdk.PublicKey.from_bytes(KEY.pubkey)
    coordinate = nostr_sdk.Coordinate(nostr_sdk.Kind(kind), author, name)
    return str(nostr_sdk.Nip19Coordinate(coordinate, [nostr_sdk.RelayUrl.parse(url) for url in relays]).to_bech32())


@pytest.mark.parametrize(
    "text",
    [ID.hex(), ID.hex().upper(), note(ID), note(ID).upper(), nostr_sdk.EventId.from_bytes(ID).to_bech32()],
    ids=["hex", "upper-case hex", "note", "upper-case note", "nostr-sdk's note"],
)
@pytest.mark.parametrize("around", ["{}", "nostr:{}", "  {}\n"])
def test_event_reference_is_parsed(text: str, around: str) -> None:
    assert parse_reference(around.format(text)) == EventReference(id=ID)


@pytest.mark.parametrize("around", ["{}", "nostr:{}", "  {}\n"])
def test_nevent_with_hints_is_parsed(around: str) -> None:
    assert parse_reference(around.format(NEVENT)) == EventReference(id=ID, relays=RELAYS)


def test_nevent_in_capitals_is_parsed() -> None:
    assert parse_reference(NEVENT.upper()) == EventReference(id=ID, relays=RELAYS)


def test_nevent_agrees_with_nostr_sdk() -> None:
    theirs = nostr_sdk.Nip19Event.from_bech32(NEVENT)
    kind, author = theirs.kind(), theirs.author()
    assert kind is not None
    assert author is not None
    assert (kind.as_u16(), author.to_hex(), theirs.event_id().to_hex()) == (4181, KEY.pubkey.hex(), ID.hex())


def test_nevent_with_only_an_id_is_parsed() -> None:
    theirs = nostr_sdk.Nip19Event(nostr_sdk.EventId.from_bytes(ID)).to_bech32()
    assert parse_reference(theirs) == EventReference(id=ID)


@pytest.mark.parametrize("name", ["demo", "", "../../etc", "naïve", "a" * 200])
def test_naddr_of_nostr_sdk_is_parsed(name: str) -> None:
    expected = AddressReference(author=KEY.pubkey, name=name, kind=34181, relays=RELAYS)
    assert parse_reference(naddr(name)) == expected
    assert parse_reference(f"nostr:{naddr(name)}") == expected


def test_naddr_agrees_with_nostr_sdk() -> None:
    ours = encode_naddr("demo", author=KEY.pubkey, kind=34181, relays=RELAYS)
    theirs = nostr_sdk.Nip19Coordinate.from_bech32(ours)
    coordinate = theirs.coordinate()
    assert (coordinate.identifier(), coordinate.public_key().to_hex()) == ("demo", KEY.pubkey.hex())
    assert parse_reference(ours) == parse_reference(naddr("demo"))


def test_naddr_kind_is_kept() -> None:
    assert parse_reference(naddr("demo", 30023, ())) == AddressReference(author=KEY.pubkey, name="demo", kind=30023)


@pytest.mark.parametrize("author", [NPUB, NPUB.upper(), KEY.pubkey.hex(), KEY.pubkey.hex().upper(), f"nostr:{NPUB}"])
@pytest.mark.parametrize("name", ["demo", "a/b", "", "../x"])
def test_npub_and_name_are_parsed(author: str, name: str) -> None:
    # The name is unchecked here; callers match it against a pattern.
    assert parse_reference(f"{author}/{name}") == AddressReference(author=KEY.pubkey, name=name)


def tlv(*fields: tuple[int, bytes], prefix: str = "nevent") -> str:
    return note(b"".join(bytes([kind, len(value)]) + value for kind, value in fields), prefix)


AROUND = [
    "NOSTR:{}",
    "Nostr:{}",
    "web+nostr:{}",
    "nostr://{}",
    "https://njump.me/{}",
    "HTTPS://NJUMP.ME/{}",
    "http://njump.me:8080/e/{}/?theme=dark#top",
    "https://client.example/nostr:{}",
    "https://client.example/nostr%3A{}",
    "https://client.example/#/n/{}",
]


@pytest.mark.parametrize("around", AROUND)
def test_reference_in_a_uri_or_link_is_parsed(around: str) -> None:
    by_name = AddressReference(author=KEY.pubkey, name="demo")
    for text in (ID.hex(), note(ID), note(ID).upper()):
        assert parse_reference(around.format(text)) == EventReference(id=ID)
    for text in (f"{NPUB}/demo", f"{NPUB.upper()}/demo", f"{KEY.pubkey.hex()}/demo"):
        assert parse_reference(around.format(text)) == by_name
    assert parse_reference(around.format(NEVENT.upper())) == EventReference(id=ID, relays=RELAYS)


@pytest.mark.parametrize("prefix", ["nevent", "naddr"])
def test_reference_of_5000_characters_is_parsed(prefix: str) -> None:
    special = (0, ID if prefix == "nevent" else b"demo")
    fields = (special, (2, KEY.pubkey), (3, bytes(2) + b"\x10\x55"), *[(1, b"wss://relay.example")] * 143)
    size = (5_000 - len(prefix) - 7) * 5 // 8 - sum(2 + len(value) for _, value in fields)
    text = tlv(*fields, (9, bytes(size - 2)), prefix=prefix)
    assert 4_998 <= len(text) <= 5_000
    for spelled in (text, text.upper(), f"NOSTR:{text.upper()}", f"https://njump.me/{text}"):
        assert len(parse_reference(spelled).relays) == 143


def test_nevent_with_40_relays_is_parsed() -> None:
    relays = tuple(f"wss://relay-{n}.example.com" for n in range(40))
    text = encode_nevent(ID, author=KEY.pubkey, kind=4181, relays=relays)
    assert len(text) > 1_500
    assert parse_reference(text) == EventReference(id=ID, relays=relays)


def test_invalid_hint_in_a_reference_is_skipped() -> None:
    text = tlv((1, b"\xff"), (0, ID), (1, b""), (1, b"wss://relay.example"), (9, b"?"))
    assert parse_reference(text) == EventReference(id=ID, relays=("wss://relay.example",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (tlv((1, b"wss://relay.example")), "this nevent has no event id"),
        (tlv((2, KEY.pubkey), (3, bytes(4)), prefix="naddr"), "this naddr has no name"),
        (tlv((0, b"demo"), (2, KEY.pubkey), prefix="naddr"), "this naddr has no kind"),
        (tlv((0, b"\xff"), (2, KEY.pubkey), (3, bytes(4)), prefix="naddr"), "not UTF-8"),
        (tlv((0, ID), *[(1, b"wss://relay.example")] * 200), "at most 5,000 characters"),
    ],
)
def test_incomplete_reference_is_described(text: str, message: str) -> None:
    with pytest.raises(InvalidReference, match=message):
        parse_reference(text)


BAD = {
    "empty": "",
    "slash": "/",
    "name without an author": "/demo",
    "invalid author": "author/demo",
    "author off the curve": f"{5:064x}/demo",
    "author as note": f"{note(KEY.pubkey)}/demo",
    "npub alone": NPUB,
    "63 digits": ID.hex()[1:],
    "65 digits": ID.hex() + "0",
    "not hex": "g" * 64,
    "note as bech32m": note(ID, encoding=bech32.Encoding.BECH32M),
    "note of 31 bytes": note(ID[:31]),
    "note of 33 bytes": note(ID + b"\0"),
    "note with a bad checksum": note(ID)[:-1] + ("q" if note(ID)[-1] != "q" else "p"),
    "other prefix": note(ID, "lnbc"),
    "nevent with a bad checksum": NEVENT[:-1] + ("q" if NEVENT[-1] != "q" else "p"),
    "nevent without an id": note(b"", "nevent"),
    "nevent with nonsense inside": note(ID, "nevent"),
    "naddr with nonsense inside": note(ID, "naddr"),
    "nevent spelled naddr": "naddr" + NEVENT.removeprefix("nevent"),
    "nprofile": note(b"\0\x20" + KEY.pubkey, "nprofile"),
    "prefix twice": f"nostr:nostr:{ID.hex()}",
    "link without a reference": "https://njump.me/alice/demo",
    "link to an author": f"https://njump.me/{NPUB}",
    "two words": f"{ID.hex()} {ID.hex()}",
    "lone surrogate": "\ud800",
    "surrogate in an nevent": "nevent1\ud800",
    "surrogate in an naddr": "naddr1\udcff",
    "NUL": "nevent1\0",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_invalid_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_reference(text)


def test_long_input_is_shortened_in_errors() -> None:
    with pytest.raises(InvalidReference) as caught:
        parse_reference("x" * 100_000)
    assert len(str(caught.value)) < 300


prefixed = st.tuples(
    st.sampled_from(["", "nostr:", "note1", "nevent1", "naddr1", "npub1", "nsec1", f"{NPUB}/", NEVENT[:20]]),
    st.text(st.characters(), max_size=80) | st.text("qpzry9x8gf2tvdw0s3jn54khce6mua7l", max_size=80),
).map("".join)


@given(prefixed)
def test_arbitrary_text_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse_reference(text)
    except InvalidReference:
        return
    assert isinstance(found, EventReference | AddressReference)


@given(st.binary(max_size=120), st.sampled_from(["note", "nevent", "naddr", "npub"]))
def test_arbitrary_tlv_is_parsed_or_refused(data: bytes, prefix: str) -> None:
    try:
        found = parse_reference(note(data, prefix))
    except InvalidReference:
        return
    assert isinstance(found, EventReference | AddressReference)


def test_invalid_reference_cannot_be_constructed() -> None:
    with pytest.raises(InvalidReference, match="32 bytes"):
        EventReference(id=b"short")
    with pytest.raises(InvalidReference, match="32 bytes"):
        AddressReference(author=b"short", name="demo")
    with pytest.raises(InvalidReference, match="kind"):
        AddressReference(author=bytes(32), name="demo", kind=65_536)
