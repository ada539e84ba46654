"""`randygpt relay`: who may write, where events are kept, and what the user is warned of."""

import hashlib
import json
import subprocess
import time
from pathlib import Path

import aiohttp
import pytest
from support.command import background, invoke, only_line
from support.scripted_relay import ScriptedRelay
from support.terminal import Typist

from randygpt.cli.main import run
from randygpt.cli.relay_access import allowed_authors, may_write
from randygpt.user import signing_key
from randygpt.user.home import Home
from relay_client.blossom.token import Verb, encode_header, token_draft
from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub
from relay_client.pool import Pool

EVERYWHERE = "0.0.0.0"  # noqa: S104 (what the option is for)
NPUB = encode_npub(SecretKey(bytes.fromhex("22" * 32)).pubkey)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--host", EVERYWHERE), "pass --allow NPUB, or --open"),
        (("--host", "mine.example"), "expected an IP address"),
        (("--allow", "npub1x"), "--allow"),
        (("--allow", NPUB, "--open"), "exclude each other"),
        (("--memory", "--data", "x"), "exclude each other"),
        (("--open", "--max-event-size", "65K"), "65,536"),
        (("--blobs", "1", "--blobs-url", "https://blobs.example/x"), "without a path"),
        (("--blobs", "1", "--blob-type", "Text"), "application/octet-stream"),
    ],
    ids=["no author", "name", "author", "both", "memory and disk", "too large", "path", "type"],
)
def test_wrong_relay_options_are_one_line(tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    done = invoke(tmp_path, "relay", *words)
    assert done.returncode == 2
    assert reason in only_line(done.stderr)


def test_relay_that_cannot_listen_is_not_added(tmp_path: Path, threaded_relay: ScriptedRelay) -> None:
    port = threaded_relay.url.rpartition(":")[2]
    done = invoke(tmp_path, "relay", "--memory", "--port", port, "--add")
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot listen" in only_line(done.stderr)
    assert Home(tmp_path).relays() == []


def test_own_key_may_write_though_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANDYGPT_HOME", str(tmp_path))
    pubkey = SecretKey.generate().pubkey
    signing_key.store(Home.from_environment(), "ncryptsec1q", pubkey)
    assert allowed_authors(None, EVERYWHERE) == {pubkey}
    assert may_write(None)(pubkey)


async def test_network_relay_accepts_own_key_and_trusted_authors(tmp_path: Path, free_port: int) -> None:
    own, friend, other = (SecretKey.generate() for _ in range(3))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/nsec").write_text(own.reveal_nsec())
    (tmp_path / "keys/nsec").chmod(0o600)
    (tmp_path / "state").mkdir()
    (tmp_path / "state/trust.json").write_text(json.dumps({"authors": {friend.pubkey.hex(): "friend"}}))
    words = ("relay", "--host", EVERYWHERE, "--port", free_port, "--add", "--json")
    with background(tmp_path, *words, stderr=subprocess.PIPE) as (process, line):
        shown = json.loads(line)
        assert shown["relay"] == f"ws://127.0.0.1:{free_port}"
        assert shown["data"] == str(tmp_path / "relay")
        assert shown["authors"] == sorted(map(encode_npub, (own.pubkey, friend.pubkey)))
        async with Pool([shown["relay"]]) as pool:
            events = [EventDraft(kind=1, created_at=1).sign(key) for key in (own, friend, other)]
            await pool.publish((event, pool.urls) for event in events)
        async with Pool([shown["relay"]]) as pool:
            stored = (await pool.stored_ids([event.id for event in events]))[shown["relay"]]
        assert stored == {event.id for event in events[:2]}
        assert process.stderr is not None
        notes = "".join(process.stderr.readline() for _ in range(5))
        (added,) = json.loads((tmp_path / "relays.json").read_text())
        assert f"{added} is on your list of relays" in notes
        assert f"the network reaches this relay at {added}, unencrypted" in notes
        assert "accepts events of 2 author(s): up to 65.5 kB each, 2.1 GB in all" in notes
        assert "WARNING: the network reaches this relay at ws://" in notes


def test_relay_list_is_merged_with_what_relays_have(
    author: Path, threaded_relay: ScriptedRelay, key: SecretKey
) -> None:
    words = ("relays", "publish", "--relay", threaded_relay.url)
    nothing = invoke(author, *words)
    assert (nothing.returncode, "the list is empty" in only_line(nothing.stderr)) == (2, True)
    for url in ("ws://192.168.1.20:7777", "wss://new.example"):
        assert invoke(author, "relays", "add", url).returncode == 0
    tags = (("r", "wss://old.example"), ("client", "another program"))
    before = EventDraft(kind=10002, created_at=100, tags=tags).sign(key)
    threaded_relay.events[before.id.hex()] = before.to_dict()
    published = invoke(author, *words, "--json")
    assert only_line(published.stderr) == "not published: ws://192.168.1.20:7777 is not a public wss relay"
    done = json.loads(published.stdout)
    assert (done["write"], done["added"]) == (["wss://old.example", "wss://new.example"], 1)
    event = threaded_relay.events[threaded_relay.received[-1]]
    assert event["tags"] == [*map(list, tags), ["r", "wss://new.example", "write"]]
    assert json.loads(invoke(author, *words, "--json").stdout)["added"] == 0
    assert len(threaded_relay.received) == 1


@pytest.mark.parametrize(
    ("limit", "reason", "code", "words"),
    [
        (131_072, "", 0, ["a chunk fits", "signed with a new key: accepted"]),
        (65_536, "blocked: pay first", 4, ["demands   requires payment", "blocked: pay first"]),
        (16_384, "", 4, ["up to 16.4 kB; a chunk does NOT fit (61.8 kB)"]),
        (None, "", 0, ["no limit named; a chunk needs 61.8 kB", "test relay (strfry 1.0)"]),
    ],
)
def test_check_sends_one_ephemeral_event(
    tmp_path: Path,
    threaded_relay: ScriptedRelay,
    limit: int | None,
    reason: str,
    code: int,
    words: list[str],
) -> None:
    relay = threaded_relay
    relay.description = {"name": "test relay", "software": "git+https://host.example/x/strfry", "version": "1.0"}
    relay.description |= {"limitation": {"max_message_length": limit, "payment_required": bool(reason)}}
    relay.accept = lambda _event: (not reason, reason)
    done = invoke(tmp_path, "relays", "check", relay.url, "--send")
    assert (done.returncode, done.stderr) == (code, "")
    assert all(each in done.stdout for each in words), done.stdout
    assert len(relay.received) == 1
    assert all(20_000 <= event["kind"] < 30_000 for event in relay.events.values())


def test_check_sends_nothing_unasked(tmp_path: Path, threaded_relay: ScriptedRelay, unused_port: int) -> None:
    done = invoke(tmp_path, "relays", "check", threaded_relay.url)
    assert "nothing was sent" in done.stdout
    assert json.loads(invoke(tmp_path, "relays", "check", threaded_relay.url, "--json").stdout)["accepted"] is None
    assert threaded_relay.received == []
    assert invoke(tmp_path, "relays", "check", f"ws://127.0.0.1:{unused_port}").returncode == 4


@pytest.mark.parametrize("answer", ["", "y"], ids=["no", "yes"])
def test_check_asks_at_a_terminal(
    at_home: Path, threaded_relay: ScriptedRelay, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    assert at_home.exists()
    monkeypatch.setattr("sys.stdin", typist := Typist(answer))
    assert run(["relays", "check", threaded_relay.url]) == 0
    assert (typist.asked, len(threaded_relay.received)) == (1, len(answer))


def test_check_uses_the_own_key(tmp_path: Path, threaded_relay: ScriptedRelay) -> None:
    npub = invoke(tmp_path, "keys", "new").stdout.strip()
    done = invoke(tmp_path, "relays", "check", threaded_relay.url, "--send")
    assert "signed with your key" in done.stdout
    assert [encode_npub(bytes.fromhex(event["pubkey"])) for event in threaded_relay.events.values()] == [npub]


async def test_blossom_server_accepts_own_key_and_whom_it_trusts_meanwhile(
    tmp_path: Path, free_port: int, unused_port: int
) -> None:
    own, friend = SecretKey.generate(), SecretKey.generate()
    (tmp_path / "keys").mkdir()
    (tmp_path / "state").mkdir()
    words = ("relay", "--memory", "--port", free_port, "--blobs", unused_port, "--add", "--json")
    blob = b"a blob"
    sha256 = hashlib.sha256(blob).digest()

    async def upload(key: SecretKey) -> int:
        draft = token_draft(Verb.UPLOAD, hashes=[sha256], origins=[shown["blobs"]], now=int(time.time()))
        headers = {"Authorization": encode_header(draft.sign(key))}
        async with web.put(f"{shown['blobs']}/upload", data=blob, headers=headers) as response:
            return response.status

    async with aiohttp.ClientSession() as web:
        with background(tmp_path, *words) as (_, line):
            shown = json.loads(line)
            assert shown["blobs"] == f"http://127.0.0.1:{unused_port}"
            assert json.loads((tmp_path / "relays.json").read_text()) == [shown["relay"]]
            assert Home(tmp_path).servers() == [shown["blobs"]]
            assert await upload(own) == 403
            (tmp_path / "keys/nsec").write_text(own.reveal_nsec())
            (tmp_path / "keys/nsec").chmod(0o600)
            assert await upload(own) == 201
            assert await upload(friend) == 403
            (tmp_path / "state/trust.json").write_text(json.dumps({"authors": {friend.pubkey.hex(): "friend"}}))
            assert await upload(friend) == 200
            async with web.get(f"{shown['blobs']}/{sha256.hex()}") as response:
                assert await response.read() == blob
    assert not (tmp_path / "relay").exists()
