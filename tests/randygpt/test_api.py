"""The public functions: publish, fetch and follow with a real relay, and the errors they raise."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import TIMEOUT_S
from support.models import CONFIG, write_tiny
from support.releases import clock
from support.scripted_relay import ScriptedRelay

import randygpt
from distribution.events import CHUNK_KIND, Release
from distribution.head_writer import HeadWriter
from randygpt import aio
from randygpt.errors import CallerError, NotTrusted, PeerError, RandyGPTError, StorageError, TransportError
from randygpt.user import signing_key
from randygpt.user.home import Home
from relay_client.event import Event
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub, parse_reference
from relay_client.pool import Pool

DEADLINE_S = 120
NOWHERE = "ws://127.0.0.1:1"


@pytest.fixture
def author(tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The author's home, which has a key."""
    for name in ("CREDENTIALS_DIRECTORY", "RANDYGPT_NSEC", "RANDYGPT_HOME", "RANDYGPT_RELAYS"):
        monkeypatch.delenv(name, raising=False)
    signing_key.store(Home(tmp_path / "author"), key.reveal_nsec())
    return tmp_path / "author"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "checkpoint_best.bin", seed=1)


@pytest.fixture
def friend(tmp_path: Path) -> Path:
    return tmp_path / "friend"


async def test_fetch_returns_what_was_published(
    relay: str, author: Path, friend: Path, checkpoint: Path, key: SecretKey
) -> None:
    published = await aio.publish(checkpoint, name="demo", relays=[relay], home=author)
    fetched = await aio.fetch(published.nevent, home=friend, relays=[relay])
    assert (
        (fetched.release, fetched.name, fetched.version)
        == (published.release, "demo", 1)
        == (
            parse_reference(published.nevent).id.hex(),  # type: ignore[union-attr]
            published.name,
            published.version,
        )
    )
    assert fetched.author == published.author == encode_npub(key.pubkey)
    assert fetched.checkpoint.parent == fetched.path
    assert friend in fetched.path.parents
    assert fetched.checkpoint.read_bytes() == await asyncio.to_thread(checkpoint.read_bytes)
    text = {"prompt": "ab", "max_tokens": 5, "seed": 1}
    assert fetched.load().generate(**text) == randygpt.load(checkpoint).generate(**text)  # type: ignore[arg-type]


async def test_blocking_functions_do_the_same(
    relay: str, author: Path, friend: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANDYGPT_RELAYS", relay)
    monkeypatch.setenv("RANDYGPT_HOME", str(author))
    published = await asyncio.to_thread(randygpt.publish, checkpoint, name="demo")
    monkeypatch.setenv("RANDYGPT_HOME", str(friend))
    fetched = await asyncio.to_thread(randygpt.fetch, f"{published.author}/demo")
    assert fetched.release == published.release
    assert fetched.path.is_relative_to(friend)


@pytest.mark.parametrize("name", ["publish", "fetch", "search"])
async def test_blocking_functions_refuse_an_event_loop(name: str) -> None:
    with pytest.raises(CallerError, match=rf"await randygpt\.aio\.{name} instead"):
        getattr(randygpt, name)("m.bin")


async def test_follow_yields_each_new_version(relay: str, author: Path, friend: Path, tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "first.bin", seed=1)
    second = write_tiny(tmp_path / "second.bin", seed=2)
    published = await aio.publish(first, name="demo", relays=[relay], home=author)
    async with (
        asyncio.timeout(DEADLINE_S),
        contextlib.aclosing(aio.follow(f"{published.author}/demo", relays=[relay], home=friend)) as releases,
    ):
        assert (await anext(releases)).version == 1
        await aio.publish(second, name="demo", relays=[relay], home=author)
        newest = await anext(releases)
    assert (newest.version, newest.checkpoint.read_bytes()) == (2, second.read_bytes())
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("follow")]


async def test_servers_of_the_author_may_be_left_out(
    scripted: ScriptedRelay, author: Path, friend: Path, checkpoint: Path, key: SecretKey
) -> None:
    published = await aio.publish(checkpoint, name="demo", relays=[scripted.url], home=author)
    release = Release.parse(Event.parse(scripted.events[published.release]), now=clock())
    async with Pool([scripted.url]) as pool:
        writer = HeadWriter(pool, key, "demo", now=clock)
        await writer.read()
        await writer.send(release, hint=scripted.url, servers=["https://blobs.example.invalid"])
    manifest = [event_id.hex() for event_id in release.manifest_ids]
    for event in [*scripted.events.values()]:
        if event["kind"] == CHUNK_KIND and event["id"] not in manifest:
            del scripted.events[event["id"]]
    for follow_servers in (True, False):
        with pytest.raises(TransportError, match="chunks missing") as failed:
            await aio.fetch(published.naddr, home=friend, relays=[scripted.url], follow_servers=follow_servers)
        assert ("blobs.example.invalid" in str(failed.value)) == follow_servers


async def test_file_of_events_carries_a_release(author: Path, friend: Path, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "release.jsonl"
    published = await aio.publish(checkpoint, name="demo", events=file, home=author)
    fetched = [await aio.fetch(which, events=file, home=friend) for which in (None, "demo", published.release)]
    assert [(each.release, each.version) for each in fetched] == 3 * [(published.release, 1)]
    with pytest.raises(CallerError, match="leave out relays"):
        await aio.fetch(events=file, relays=[NOWHERE], home=friend)
    with pytest.raises(CallerError, match="name a model"):
        await aio.fetch(home=friend)


async def test_search_finds_what_was_published(
    relay: str, author: Path, friend: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = {"license": "MIT", "about": "tales"}
    published = await aio.publish(checkpoint, name="demo", card=card, tags=["verse"], relays=[relay], home=author)
    (found,) = await aio.search("TALES", tag="verse", author=published.author, relays=[relay, NOWHERE], home=friend)
    assert isinstance(found, randygpt.ModelInfo)
    assert (found.release, found.author, found.version) == (published.release, published.author, 1)
    assert (found.license, found.params, found.loss, found.base) == ("MIT", CONFIG.parameter_count, 2.5, None)
    assert found.relays == [relay]
    assert "incomplete search: ws://127.0.0.1:1" in caplog.text
    with pytest.raises(CallerError, match="no author 'bob'"):
        await aio.search(author="bob", relays=[relay], home=friend)


async def test_weights_only_and_card_reach_the_release(
    relay: str, author: Path, friend: Path, checkpoint: Path
) -> None:
    published = await aio.publish(
        checkpoint, name="demo", relays=[relay], home=author, weights_only=True, card={"license": "MIT"}
    )
    fetched = await aio.fetch(published.release, relays=[relay], home=friend)
    assert fetched.checkpoint.read_bytes().startswith(b"RGPT0002")
    assert '"license":"MIT"' in (fetched.path / "release.json").read_text().replace(": ", ":")


async def test_progress_ends_with_all_bytes(relay: str, author: Path, friend: Path, checkpoint: Path) -> None:
    sent: list[tuple[int, int]] = []
    came: list[tuple[int, int]] = []
    published = await aio.publish(
        checkpoint, name="demo", relays=[relay], home=author, on_progress=lambda *done: sent.append(done)
    )
    await aio.fetch(published.release, relays=[relay], home=friend, on_progress=lambda *done: came.append(done))
    for steps in (sent, came):
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1] > 0


async def test_key_may_be_given(
    relay: str, author: Path, checkpoint: Path, stranger: SecretKey, tmp_path: Path
) -> None:
    file = tmp_path / "key.txt"
    signing_key.write_secret(file, stranger.reveal_nsec(), "taken")
    for key in (stranger, file):
        published = await aio.publish(checkpoint, name="demo", relays=[relay], home=author, key=key)
        assert published.author == encode_npub(stranger.pubkey)


async def test_secret_key_as_text_is_refused_and_not_repeated(checkpoint: Path, author: Path, key: SecretKey) -> None:
    with pytest.raises(CallerError, match=r"SecretKey\.from_nsec") as caught:
        await aio.publish(checkpoint, name="demo", relays=[NOWHERE], home=author, key=key.reveal_nsec())  # type: ignore[arg-type]
    assert key.reveal_nsec() not in str(caught.value)


async def test_encrypted_key_needs_its_password(checkpoint: Path, tmp_path: Path, key: SecretKey) -> None:
    signing_key.store(Home(tmp_path), key.reveal_ncryptsec("a password"))
    with pytest.raises(CallerError, match="is encrypted: pass key="):
        await aio.publish(checkpoint, name="demo", relays=[NOWHERE], home=tmp_path)


@pytest.mark.usefixtures("author")
async def test_key_from_the_environment_warns(
    relay: str, friend: Path, checkpoint: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing_key, "_taken_from_environment", "")
    monkeypatch.setenv("RANDYGPT_NSEC", key.reveal_nsec())
    for _ in range(2):
        with pytest.warns(UserWarning, match="RANDYGPT_NSEC"):
            published = await aio.publish(checkpoint, name="demo", relays=[relay], home=friend)
        assert published.author == encode_npub(key.pubkey)


MISTAKES: dict[str, tuple[type[RandyGPTError], str, Callable[[Path], object]]] = {
    "no checkpoint": (CallerError, "none.bin: No such file", lambda _: aio.publish("none.bin", name="demo")),
    "not a checkpoint": (
        CallerError,
        "RGPT",
        lambda home: aio.publish(home / "keys" / "nsec", name="demo"),
    ),
    "folder": (CallerError, "Is a directory", lambda home: aio.publish(home, name="demo")),
    "bad name": (CallerError, "not a name for a model", lambda home: aio.publish(home / "m.bin", name="Bad Name")),
    "one relay as text": (CallerError, "a list of URLs", lambda _: aio.fetch("0" * 64, relays=NOWHERE)),
    "not a relay": (
        CallerError,
        "http://relay.example",
        lambda _: aio.fetch("0" * 64, relays=["http://relay.example"]),
    ),
    "not a reference": (CallerError, "shakespeare", lambda _: aio.fetch("shakespeare")),
    "follow an id": (CallerError, "follow a name", lambda _: anext(aio.follow("0" * 64))),
    "unreachable": (TransportError, "no relay can be reached", lambda _: aio.fetch("0" * 64)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_mistakes_raise_the_category(mistake: str, author: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANDYGPT_HOME", str(author))
    monkeypatch.setenv("RANDYGPT_RELAYS", NOWHERE)
    write_tiny(author / "m.bin")
    category, words, call = MISTAKES[mistake]
    with pytest.raises(category, match=words):
        await call(author)  # type: ignore[misc]


async def test_no_relay_names_the_way_to_add_one(author: Path, checkpoint: Path) -> None:
    with pytest.raises(CallerError, match="randygpt relays add"):
        await aio.publish(checkpoint, name="demo", home=author)


async def test_untrusted_author_is_a_peer_error(relay: str, author: Path, friend: Path, checkpoint: Path) -> None:
    published = await aio.publish(checkpoint, name="demo", relays=[relay], home=author)
    (friend / "state").mkdir(parents=True)
    (friend / "state" / "trust.json").write_text('{"policy": "allowlist", "authors": {}}')
    with pytest.raises(NotTrusted) as caught:
        await aio.fetch(published.release, relays=[relay], home=friend)
    assert isinstance(caught.value, PeerError)
    with pytest.raises(NotTrusted):
        await anext(aio.follow(f"{published.author}/demo", relays=[relay], home=friend))


async def test_damaged_state_is_a_storage_error(friend: Path) -> None:
    (friend / "state").mkdir(parents=True)
    (friend / "state" / "trust.json").write_text("not JSON")
    with pytest.raises(StorageError, match=r"trust\.json"):
        await aio.fetch("0" * 64, relays=[NOWHERE], home=friend)


@pytest.mark.parametrize(
    ("use", "forbidden"),
    [
        ("randygpt.__all__", ["torch", "numpy", "nostr_sdk", "aiohttp", "websockets", "asyncio", "distribution"]),
        ("randygpt.load", ["torch", "nostr_sdk", "aiohttp", "websockets"]),
        ("randygpt.publish, randygpt.fetch, randygpt.aio.follow, randygpt.search", ["torch"]),
    ],
    ids=["import", "load", "publish"],
)
def test_imports_only_what_is_used(use: str, forbidden: list[str]) -> None:
    code = f"import sys, randygpt; {use}; print(sorted({{*sys.modules}} & {{*{forbidden}}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = randygpt.nothing  # type: ignore[attr-defined]
