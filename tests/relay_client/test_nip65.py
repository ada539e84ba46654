"""Relay lists (NIP-65)."""

from relay_client.event import Event, EventDraft, Tags
from relay_client.keys import SecretKey
from relay_client.nip65 import extend_relay_list, listed_write_relays, write_relays


def relay_list(key: SecretKey, *tags: tuple[str, ...], created_at: int = 1, kind: int = 10002) -> Event:
    chosen: Tags = tuple(tags)
    return EventDraft(kind=kind, created_at=created_at, tags=chosen).sign(key)


def test_write_relays_exclude_read_relays(key: SecretKey) -> None:
    event = relay_list(
        key,
        ("r", "wss://both.example/"),
        ("r", "wss://write.example", "write"),
        ("r", "wss://read.example", "read"),
        ("r", "wss://empty.example", ""),
        ("p", "wss://other.example"),
        ("r",),
    )
    expected = ["wss://both.example", "wss://write.example", "wss://empty.example"]
    assert write_relays([event], author=key.pubkey) == expected


def test_extended_list_keeps_what_it_had(key: SecretKey) -> None:
    event = relay_list(
        key,
        ("r", "wss://read.example/", "read"),
        ("r", "wss://b.example"),
        ("p", "x"),
        ("r", "nonsense"),
        created_at=90,
    )
    draft = extend_relay_list(event, ["wss://b.example", "wss://read.example", "wss://c.example"], now=50)
    assert draft is not None
    kept = (("r", "wss://b.example"), ("p", "x"), ("r", "nonsense"))
    assert draft.tags == (*kept, ("r", "wss://read.example"), ("r", "wss://c.example", "write"))
    assert draft.created_at == 91
    extended = draft.sign(key)
    assert listed_write_relays(extended) == ["wss://b.example", "wss://read.example", "wss://c.example"]
    assert extend_relay_list(extended, ["wss://c.example"], now=95) is None
    first = extend_relay_list(None, ["wss://c.example"], now=50)
    assert first is not None
    assert (first.tags, first.created_at) == ((("r", "wss://c.example", "write"),), 50)


def test_latest_list_wins(key: SecretKey) -> None:
    lists = [relay_list(key, ("r", f"wss://{number}.example"), created_at=number) for number in (5, 9, 7)]
    assert write_relays(lists, author=key.pubkey) == ["wss://9.example"]


def test_lower_id_wins_a_tie(key: SecretKey) -> None:
    lists = sorted((relay_list(key, ("r", f"wss://{number}.example")) for number in range(5)), key=lambda one: one.id)
    assert write_relays(lists[::-1], author=key.pubkey) == [lists[0].tag_values("r")[0]]


def test_other_author_or_kind_is_ignored(key: SecretKey, stranger: SecretKey) -> None:
    lists = [relay_list(stranger, ("r", "wss://a.example")), relay_list(key, ("r", "wss://b.example"), kind=10003)]
    assert write_relays(lists, author=key.pubkey) == []


def test_invalid_addresses_are_skipped_and_length_limited(key: SecretKey) -> None:
    tags = [("r", "http://a.example"), ("r", "wss://\x1b"), *(("r", f"wss://{n}.example") for n in range(50))]
    assert write_relays([relay_list(key, *tags)], author=key.pubkey) == [f"wss://{n}.example" for n in range(10)]
