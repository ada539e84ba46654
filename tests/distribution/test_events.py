"""Release, head and chunk events: drafting and parsing."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distribution.chunking import decode
from distribution.errors import InvalidRelease
from distribution.events import (
    CHUNK_KIND,
    HEAD_KIND,
    RELEASE_KIND,
    Head,
    Release,
    chunk_draft,
    head_draft,
    release_draft,
)
from relay_client.event import Event, EventDraft
from relay_client.keys import SecretKey

NOW = 1_790_000_000
KEY = SecretKey(bytes.fromhex("11" * 32))
OTHER = SecretKey(bytes.fromhex("22" * 32))
MANIFEST = b"the manifest"
MANIFEST_IDS = tuple(hashlib.sha256(bytes([number])).digest() for number in range(3))
HINT = "wss://relay.example"
CARD = {"config": {"n_embd": 16}, "text": "Grüße 🧪"}

Tags = list[list[str]]


def draft(**changes: object) -> EventDraft:
    facts = {
        "name": "demo",
        "version": 7,
        "format": "RGPT0003",
        "size": 123_456,
        "card": CARD,
        "hint": HINT,
        "created_at": NOW,
    }
    return release_draft(MANIFEST, MANIFEST_IDS, **facts | changes)  # type: ignore[arg-type]


RELEASE = Release.parse(draft().sign(KEY), now=NOW)


def resigned(made: EventDraft, **changes: object) -> Event:
    """Return the draft with fields changed, properly signed."""
    return dataclasses.replace(made, **changes).sign(KEY)  # type: ignore[arg-type]


def tagged(made: EventDraft, change: Callable[[Tags], object]) -> Event:
    """Return the draft with its tags changed, properly signed."""
    tags = [list(tag) for tag in made.tags]
    change(tags)
    return resigned(made, tags=tuple(map(tuple, tags)))


def with_value(name: str, value: str) -> Callable[[Tags], object]:
    return lambda tags: next(tag for tag in tags if tag[0] == name).__setitem__(1, value)


def without(name: str) -> Callable[[Tags], object]:
    return lambda tags: tags.remove(next(tag for tag in tags if tag[0] == name))


def doubled(name: str) -> Callable[[Tags], object]:
    return lambda tags: tags.append(next(tag for tag in tags if tag[0] == name))


def emptied(name: str) -> Callable[[Tags], object]:
    return lambda tags: next(tag for tag in tags if tag[0] == name).__delitem__(slice(1, None))


# --- chunks


def test_chunk_draft_follows_the_protocol() -> None:
    digest = hashlib.sha256(b"data").digest()
    made = chunk_draft(b"data", sha256=digest, created_at=NOW)
    assert (made.kind, made.created_at, made.tags) == (CHUNK_KIND, NOW, (("x", digest.hex()),))
    assert CHUNK_KIND == 1064
    assert decode(made.content) == b"data"


# --- releases


def test_release_draft_follows_the_protocol() -> None:
    made = draft()
    assert (made.kind, made.created_at) == (4181, NOW)
    assert made.tags[:-1] == (
        ("v", "1"),
        ("name", "demo"),
        ("version", "7"),
        ("format", "RGPT0003"),
        ("size", "123456"),
        ("x", hashlib.sha256(MANIFEST).hexdigest()),
        *(("e", event_id.hex(), HINT) for event_id in MANIFEST_IDS),
        ("t", "randygpt"),
        ("t", "ai-model"),
    )
    assert made.tags[-1][0] == "alt"
    assert made.content == '{"config":{"n_embd":16},"text":"Grüße 🧪"}'


def test_further_tags_follow_the_topics() -> None:
    tags = (("title", "demo"), ("t", "poetry"))
    made, before = draft(tags=tags), draft()
    assert made.tags == (*before.tags[:-1], *tags, before.tags[-1])
    assert Release.parse(made.sign(KEY), now=NOW).name == "demo"


def test_release_parses_to_what_was_drafted() -> None:
    event = draft().sign(KEY)
    assert Release.parse(event, now=NOW) == Release(
        id=event.id,
        author=KEY.pubkey,
        created_at=NOW,
        name="demo",
        version=7,
        format="RGPT0003",
        size=123_456,
        manifest_sha256=hashlib.sha256(MANIFEST).digest(),
        manifest_ids=MANIFEST_IDS,
        card=CARD,
        event=event,
        hints=(HINT,),
    )


def test_order_of_card_keys_does_not_change_the_id() -> None:
    one, two = draft(card={"a": 1, "b": 2}), draft(card={"b": 2, "a": 1})
    assert one.id_for(KEY.pubkey) == two.id_for(KEY.pubkey)


@given(
    st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
    st.integers(1, 2**31 - 1),
    st.integers(1, 2**53),
    st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=64),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(-(2**53), 2**53), max_size=3),
)
@settings(max_examples=60)
def test_any_release_round_trips(
    name: str, version: int, size: int, manifest_ids: list[bytes], card: dict[str, object]
) -> None:
    made = release_draft(
        MANIFEST,
        manifest_ids,
        name=name,
        version=version,
        format="F.-_9",
        size=size,
        card=card,
        hint=HINT,
        created_at=NOW,
    )
    release = Release.parse(made.sign(KEY), now=NOW)
    assert (release.name, release.version, release.size) == (name, version, size)
    assert (release.manifest_ids, release.card) == (tuple(manifest_ids), card)
    head = Head.parse(head_draft(release, hint=HINT, created_at=NOW).sign(KEY), now=NOW)
    assert head.names(release)


@pytest.mark.parametrize("kind", [RELEASE_KIND + 1, HEAD_KIND, CHUNK_KIND, 0])
def test_another_kind_is_not_a_release(kind: int) -> None:
    with pytest.raises(InvalidRelease, match="kind"):
        Release.parse(resigned(draft(), kind=kind), now=NOW)


@pytest.mark.parametrize("name", ["v", "name", "version", "format", "size", "x"])
@pytest.mark.parametrize("change", [without, doubled, emptied])
def test_every_release_tag_must_occur_once(name: str, change: Callable[[str], Callable[[Tags], object]]) -> None:
    with pytest.raises(InvalidRelease, match=f"exactly one tag {name}$"):
        Release.parse(tagged(draft(), change(name)), now=NOW)


BAD_NUMBERS = ["0", "01", "-1", "+1", "1.0", "1e3", " 1", "1 ", "1\n", "", "x", "0x1", "1_000", "\u0661", "9" * 5_000]
BAD_HEX = ["", "00", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 63 + "\n", " " + "0" * 63, "0" * 128]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("v", value) for value in ("0", "2", "01", "1.0", "", " 1", "one")),
        *(("name", value) for value in ("", "Demo", "a/b", "..", ".a", "a" * 65, "a b", "dé", "a\n")),
        *(("version", value) for value in (*BAD_NUMBERS, str(2**31), "99999999999")),
        *(("size", value) for value in (*BAD_NUMBERS, str(2**53 + 1))),
        *(("format", value) for value in ("", "a" * 33, "RGPT 3", "RGPT/3", "RGPT\n", "é")),
        *(("x", value) for value in BAD_HEX),
        *(("e", value) for value in BAD_HEX),
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_malformed_release_tag_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidRelease):
        Release.parse(tagged(draft(), with_value(name, value)), now=NOW)


@pytest.mark.parametrize(("name", "value"), [("version", str(2**31 - 1)), ("size", str(2**53)), ("format", "a" * 32)])
def test_release_tag_at_its_limit_is_accepted(name: str, value: str) -> None:
    release = Release.parse(tagged(draft(), with_value(name, value)), now=NOW)
    assert str(getattr(release, name)) == value


@pytest.mark.parametrize("count", [0, 65, 200])
def test_number_of_manifest_chunks_is_limited(count: int) -> None:
    made = dataclasses.replace(draft(), tags=tuple(tag for tag in draft().tags if tag[0] != "e"))
    with pytest.raises(InvalidRelease, match=f"1 to 64 chunks, not {count}"):
        Release.parse(tagged(made, lambda tags: tags.extend([["e", "ab" * 32]] * count)), now=NOW)


def test_manifest_ids_keep_their_order() -> None:
    manifest_ids = tuple(bytes([number]) * 32 for number in range(64))
    made = release_draft(
        MANIFEST, manifest_ids, name="a", version=1, format="x", size=1, card={}, hint="", created_at=NOW
    )
    assert Release.parse(made.sign(KEY), now=NOW).manifest_ids == manifest_ids


@pytest.mark.parametrize("content", ["", "[]", '"text"', "1", "null", "{", "{}x", "{'a':1}", '{"a":NaN}', "[" * 5_000])
def test_card_must_be_an_object(content: str) -> None:
    with pytest.raises(InvalidRelease, match="card"):
        Release.parse(resigned(draft(), content=content), now=NOW)


@pytest.mark.parametrize(("deep", "taken"), [(62, True), (63, True), (64, False), (300, False), (1000, False)])
def test_card_depth_is_limited(deep: int, taken: bool) -> None:  # noqa: FBT001 (of a table)
    content = '{"a":' + "[" * deep + "]" * deep + "}"
    with contextlib.nullcontext() if taken else pytest.raises(InvalidRelease, match="at most 64 levels"):
        Release.parse(resigned(draft(), content=content), now=NOW)


def test_unknown_tags_are_ignored() -> None:
    event = tagged(draft(), lambda tags: tags.extend([["p", "x"], [], ["license", "MIT"]]))
    assert Release.parse(event, now=NOW).name == "demo"


@pytest.mark.parametrize("parse", [Release.parse, Head.parse])
def test_date_in_the_future_is_refused(parse: Callable[..., Release | Head]) -> None:
    made = draft() if parse == Release.parse else head_draft(RELEASE, hint=HINT, created_at=NOW)
    assert parse(resigned(made, created_at=NOW + 900), now=NOW).created_at == NOW + 900
    assert parse(resigned(made, created_at=0), now=NOW).created_at == 0
    with pytest.raises(InvalidRelease, match="901 s in the future"):
        parse(resigned(made, created_at=NOW + 901), now=NOW)


# --- heads


def test_head_draft_follows_the_protocol() -> None:
    made = head_draft(RELEASE, hint=HINT, created_at=NOW + 5)
    assert (made.kind, made.created_at, made.content) == (34_181, NOW + 5, "")
    assert made.tags[:-1] == (
        ("d", "demo"),
        ("e", RELEASE.id.hex(), HINT),
        ("version", "7"),
        ("x", RELEASE.manifest_sha256.hex()),
    )
    assert made.tags[-1][0] == "alt"


def test_head_parses_to_what_was_drafted() -> None:
    event = head_draft(RELEASE, hint=HINT, created_at=NOW + 5).sign(KEY)
    assert Head.parse(event, now=NOW) == Head(
        id=event.id,
        author=KEY.pubkey,
        created_at=NOW + 5,
        name="demo",
        version=7,
        manifest_sha256=RELEASE.manifest_sha256,
        release_id=RELEASE.id,
        hints=(HINT,),
    )


@pytest.mark.parametrize("kind", [RELEASE_KIND, HEAD_KIND + 1, 0])
def test_another_kind_is_not_a_head(kind: int) -> None:
    with pytest.raises(InvalidRelease, match="kind"):
        Head.parse(resigned(head_draft(RELEASE, hint=HINT, created_at=NOW), kind=kind), now=NOW)


@pytest.mark.parametrize("name", ["d", "e", "version", "x"])
@pytest.mark.parametrize("change", [without, doubled, emptied])
def test_every_head_tag_must_occur_once(name: str, change: Callable[[str], Callable[[Tags], object]]) -> None:
    made = head_draft(RELEASE, hint=HINT, created_at=NOW)
    with pytest.raises(InvalidRelease, match=f"exactly one tag {name}$"):
        Head.parse(tagged(made, change(name)), now=NOW)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("version", value) for value in (*BAD_NUMBERS, str(2**31))),
        *(("x", value) for value in BAD_HEX),
        *(("e", value) for value in BAD_HEX),
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_malformed_head_tag_is_refused(name: str, value: str) -> None:
    made = head_draft(RELEASE, hint=HINT, created_at=NOW)
    with pytest.raises(InvalidRelease):
        Head.parse(tagged(made, with_value(name, value)), now=NOW)


HEAD = Head.parse(head_draft(RELEASE, hint=HINT, created_at=NOW).sign(KEY), now=NOW)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("release_id", bytes(32)),
        ("author", OTHER.pubkey),
        ("name", "other"),
        ("version", 8),
        ("manifest_sha256", bytes(32)),
    ],
)
def test_head_must_agree_with_its_release(field: str, value: object) -> None:
    assert HEAD.names(RELEASE)
    assert not dataclasses.replace(HEAD, **{field: value}).names(RELEASE)  # type: ignore[arg-type]


def test_head_keeps_its_own_time() -> None:
    assert dataclasses.replace(HEAD, created_at=5, id=bytes(32)).names(RELEASE)


# --- servers

SERVERS = ["https://a.example", "http://127.0.0.1:3000", "https://b.example:8443", "https://a.example/"]


def test_release_and_head_name_public_servers_in_order() -> None:
    release = Release.parse(draft(servers=SERVERS).sign(KEY), now=NOW)
    head = Head.parse(head_draft(release, hint="", created_at=NOW, servers=SERVERS).sign(KEY), now=NOW)
    assert release.servers == head.servers == ("https://a.example", "https://b.example:8443")
    assert release.event.tag_values("server") == list(release.servers)
    assert RELEASE.servers == ()


def test_servers_of_others_are_limited_and_checked() -> None:
    tags = tuple(("server", origin) for origin in [*SERVERS, "nonsense", *(f"https://{n}.example" for n in range(40))])
    event = resigned(draft(), tags=(*draft().tags, ("server",), *tags))
    servers = Release.parse(event, now=NOW).servers
    assert servers[:2] == ("https://a.example", "https://b.example:8443")
    assert len(servers) <= 16
