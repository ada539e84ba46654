"""`randygpt search`, and the models of one author: what is printed in 80 columns and as JSON."""

import asyncio
import json
import re
import time
from pathlib import Path

import pytest
from support.announcements import announce, stored
from support.command import invoke, only_line
from support.models import CONFIG, write_tiny
from support.scripted_relay import ScriptedRelay

from distribution.ancestors import Ancestor, Lineage
from distribution.trust_list import TrustStore
from randygpt.cli.search_table import format_count
from randygpt.user import signing_key
from randygpt.user.home import Home
from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

KEYS = [SecretKey(bytes([number]) * 32) for number in range(1, 5)]
ALICE, BOB, CAROL, MALLORY = KEYS
DAY = 86_400
LONG = f"{'a-name-that-is-as-long-as-may-be-':x<64}"
HOSTILE = "\x1b]52;c;x\x07\u202e \n字字字字字字字字字字"
CARD = {
    "config": CONFIG.to_json("char"),
    "training": {"val_loss": 1.75, "best_loss": 1.5, "bits_per_byte": 2.125},
    "license": "Apache-2.0",
    "about": "Sonnets",
}
BROKEN = {"config": {"n_embd": 10**18}, "training": {"bits_per_byte": "9", "val_loss": True}, "license": HOSTILE}


@pytest.fixture
def now() -> int:
    return int(time.time())


@pytest.fixture
def shelf(threaded_relay: ScriptedRelay, now: int) -> ScriptedRelay:
    """A relay with models of four authors."""
    original = announce(ALICE, "shakespeare", version=3, created_at=now - 9 * DAY, size=30_000_000, card=CARD)
    base = Lineage(base=Ancestor(release_id=original.release.id, author=ALICE.pubkey))
    others = (
        announce(BOB, "tales", created_at=now - 30 * DAY, tags=(*base.tags, ("t", "verse"))),
        announce(CAROL, LONG, created_at=now - 500),
        announce(MALLORY, "shake5peare", created_at=now - 4_000, card=BROKEN),
    )
    for each in (original, *others):
        threaded_relay.events |= stored(each.events)
    return threaded_relay


@pytest.fixture
def reader(tmp_path: Path, shelf: ScriptedRelay) -> Path:
    """A home with a key that follows Bob, and a trust list with Alice."""
    home, own = Home(tmp_path / "reader"), SecretKey(bytes([9]) * 32)
    signing_key.store(home, own.reveal_nsec())
    home.write_relays([shelf.url])
    asyncio.run(TrustStore(home.folder).add(ALICE.pubkey, "alice"))
    follows = EventDraft(kind=3, created_at=1, tags=(("p", BOB.pubkey.hex()),)).sign(own)
    shelf.events |= stored([follows])
    return home.folder


def test_table_fits_80_columns(reader: Path) -> None:
    done = invoke(reader, "search")
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows, legend, gap, fetch = done.stdout.splitlines()
    assert head.split() == ["MODEL", "AUTHOR", "PARAMS", "SIZE", "BITS", "LICENSE", "AGE", "FROM"]
    assert rows[0].split() == ["*", "shakespeare@3", "alice", "11.2K", "30.0", "MB", "2.125", "Apache-…", "1w"]
    assert re.fullmatch(r"\+ tales@1 +npub1\S+ +- 300 bytes +- +4w [0-9a-f]{6}", rows[1]), rows[1]
    assert rows[2].startswith("  a-name-that-is… npub1")
    assert rows[3].startswith("! shake5peare@1")
    assert rows[3].split()[-2:] == ["other", "1h"]
    assert legend == "* trusted, + followed, ! named like a trusted author, or a model of one"
    assert (gap, fetch) == ("", "randygpt fetch alice/shakespeare")
    assert max(map(len, [head, *rows, legend])) <= 80


def test_claimed_names_of_authors_are_marked(reader: Path, shelf: ScriptedRelay) -> None:
    names = {BOB: "bob the builder", CAROL: f"{HOSTILE}", MALLORY: "AIice"}
    profiles = [
        EventDraft(kind=0, created_at=1, content=json.dumps({"name": name})).sign(key) for key, name in names.items()
    ]
    shelf.events |= stored(profiles)
    lines = invoke(reader, "search").stdout.splitlines()
    authors = [line[18:36].rstrip() for line in lines[1:5]]
    npubs = {key: encode_npub(key.pubkey) for key in names}
    assert authors[:2] == ["alice", f'"bob the …"? …{npubs[BOB][-4:]}']
    assert authors[3] == f"{npubs[MALLORY][:9]}…{npubs[MALLORY][-4:]}"
    assert lines[4].startswith("! ")
    assert len(lines) == 8


def test_json_has_the_documented_fields(reader: Path, shelf: ScriptedRelay, now: int) -> None:
    models = json.loads(only_line(invoke(reader, "search", "--json").stdout))
    releases = {event["id"] for event in shelf.events.values() if event["kind"] == 4181}
    assert {model["release"] for model in models} == releases
    assert models[0] == {
        "name": "shakespeare",
        "version": 3,
        "release": models[0]["release"],
        "author": encode_npub(ALICE.pubkey),
        "params": CONFIG.parameter_count,
        "size": 30_000_000,
        "loss": 1.75,
        "license": "Apache-2.0",
        "created_at": now - 9 * DAY,
        "base": None,
        "relays": [shelf.url],
    }
    assert models[1]["base"] == models[0]["release"]
    assert (models[3]["params"], models[3]["loss"], models[3]["license"]) == (None, None, HOSTILE)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["SONNETS", "speare"], ["shakespeare"], id="words"),
        pytest.param(["--author", "alice"], ["shakespeare"], id="petname"),
        pytest.param(["--author", encode_npub(BOB.pubkey)], ["tales"], id="npub"),
        pytest.param(["--tag", "verse"], ["tales"], id="topic"),
        pytest.param(["--max-params", "12K"], ["shakespeare"], id="parameters"),
        pytest.param(["--max-size", "1K", "--since", "1d", "--sort", "size"], 2, id="size-and-date"),
        pytest.param(["--sort", "bits", "--limit", "1"], ["shakespeare"], id="limit"),
        pytest.param(["no-such-word"], [], id="nothing"),
    ],
)
def test_flags_select_models(reader: Path, words: list[str], expected: list[str] | int) -> None:
    done = invoke(reader, "search", *words, "--json")
    found = [model["name"] for model in json.loads(done.stdout)]
    assert found == expected if isinstance(expected, list) else len(found) == expected


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(["--author", "bob"], "no author 'bob': expected an npub, alice@example.com, or", id="author"),
        pytest.param(["--tag", "old tales"], "'old tales' is not a topic", id="topic"),
        pytest.param(["--max-params", "many"], "'many' is not a number such as 500K", id="parameters"),
        pytest.param(["--since", "yesterday"], "'yesterday' is not a duration", id="since"),
        pytest.param(["--sort", "name"], "choose one of new, size, bits", id="sort"),
        pytest.param(["--limit", "0"], "--limit", id="limit"),
    ],
)
def test_wrong_flag_is_one_line(reader: Path, words: list[str], reason: str) -> None:
    done = invoke(reader, "search", *words)
    assert (done.returncode, reason in only_line(done.stderr)) == (2, True), done.stderr


def test_nothing_found_is_said(reader: Path) -> None:
    done = invoke(reader, "search", "no-such-word")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no models found\n")


def test_more_results_are_said(reader: Path, shelf: ScriptedRelay) -> None:
    done = invoke(reader, "search", "--limit", "1", "--relay", shelf.url)
    assert "3 more releases may match: raise --limit" in done.stderr
    assert done.stdout.splitlines()[-1] == f"randygpt fetch alice/shakespeare --relay {shelf.url}"


@pytest.mark.parametrize("command", ["fetch", "show"])
def test_npub_alone_lists_the_authors_models(reader: Path, command: str) -> None:
    npub = encode_npub(BOB.pubkey)
    done = invoke(reader, command, f"nostr:{npub}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"randygpt fetch {npub}/tales"
    models = json.loads(invoke(reader, command, npub, "--json").stdout)
    assert [model["name"] for model in models] == ["tales"]
    assert not (reader / "store" / "releases").exists()


def test_petname_alone_lists_unless_it_names_a_model(reader: Path) -> None:
    models = json.loads(invoke(reader, "fetch", "alice", "--json").stdout)
    assert [model["name"] for model in models] == ["shakespeare"]
    write_tiny(reader / "alice_best.bin", name="demo")
    assert json.loads(invoke(reader, "show", "alice", "--json").stdout)["name"] == "demo"


@pytest.mark.parametrize("text", ["a" * 5_000, "a" * 5_000 + "@example.com"], ids=["name", "address"])
def test_long_text_is_no_author(reader: Path, text: str) -> None:
    done = invoke(reader, "fetch", text)
    assert (done.returncode, "too long" in only_line(done.stderr)) == (2, False)


def test_unreachable_relay_is_named(reader: Path, shelf: ScriptedRelay) -> None:
    done = invoke(reader, "search", "--relay", shelf.url, "--relay", "ws://127.0.0.1:1", "--json")
    assert "incomplete: ws://127.0.0.1:1" in only_line(done.stderr)
    assert len(json.loads(done.stdout)) == 4
    assert invoke(reader, "search", "--relay", "ws://127.0.0.1:1").returncode == 4


def test_words_are_sent_to_relays_that_search(reader: Path, shelf: ScriptedRelay) -> None:
    shelf.description = {"supported_nips": [1, 50]}
    assert invoke(reader, "search", "old", "tales").returncode == 0
    assert [wanted["search"] for wanted in shelf.requests if "search" in wanted] == ["old tales"]


def test_search_without_a_key_asks_for_no_follow_list(tmp_path: Path, shelf: ScriptedRelay) -> None:
    done = invoke(tmp_path, "search", "--relay", shelf.url, "--json")
    assert len(json.loads(done.stdout)) == 4
    assert not [wanted for wanted in shelf.requests if wanted.get("kinds") == [3]]


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999"), (11_232, "11.2K"), (10_700_000, "10.7M"), (999_999_999, "1.0B")], ids=str
)
def test_counts_take_six_characters(count: int, text: str) -> None:
    assert format_count(count) == text
