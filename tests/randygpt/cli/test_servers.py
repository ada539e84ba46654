"""Blossom servers on the command line: the user's list, publish and fetch with servers."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.blossom_server import Answer, Asked, BlossomServer, blossom_on_thread
from support.command import TIMEOUT_S, environment, invoke, only_line
from support.models import write_tiny
from support.releases import clock
from support.scripted_relay import RawEvent, ScriptedRelay, relay_on_thread

from distribution.events import CHUNK_KIND
from randygpt.user.home import Home
from randygpt.user.signing_key import find
from relay_client.blossom.token import Token, Verb
from relay_client.event import EventDraft
from relay_client.keys import SecretKey

ORIGIN = "https://blobs.example"


@pytest.fixture
def server() -> Iterator[BlossomServer]:
    with blossom_on_thread() as running:
        yield running


@pytest.fixture
def threaded_relay() -> Iterator[ScriptedRelay]:
    with relay_on_thread() as running:
        yield running


@pytest.fixture
def author(tmp_path: Path) -> Path:
    home = tmp_path / "author"
    home.mkdir()
    write_tiny(home / "checkpoint_best.bin")
    assert invoke(home, "keys", "new").returncode == 0
    return home


def key_of(home: Path) -> SecretKey:
    return find(Home(home), None, lambda _: "").key


def test_list_of_servers(tmp_path: Path) -> None:
    assert invoke(tmp_path, "servers", "add", "https://Blobs.example/").returncode == 0
    added = invoke(tmp_path, "servers", "add", "http://127.0.0.1:3000", "--json")
    assert json.loads(added.stdout) == {"servers": [ORIGIN, "http://127.0.0.1:3000"]}
    assert invoke(tmp_path, "servers", "remove", ORIGIN).returncode == 0
    assert invoke(tmp_path, "servers", "list").stdout == "http://127.0.0.1:3000\n"
    again = invoke(tmp_path, "servers", "remove", ORIGIN)
    assert (again.returncode, only_line(again.stderr)) == (2, f"randygpt: {ORIGIN} is not on your list")
    assert invoke(tmp_path, "servers", "add", "wss://blobs.example").returncode == 2


def test_wrong_entry_of_the_list_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "servers.json").write_text('["blobs.example"]')
    done = invoke(tmp_path, "servers", "list")
    assert done.returncode == 2
    assert only_line(done.stderr).startswith(f"randygpt: {tmp_path / 'servers.json'}: not a server's address: ")


def test_check_asks_and_uploads_nothing(tmp_path: Path, server: BlossomServer) -> None:
    good = invoke(tmp_path, "servers", "check", server.url, "--json")
    assert (good.returncode, json.loads(good.stdout)["servers"][server.url]["accepts"]) == (0, True)
    server.script = lambda _: Answer(status=415, headers={"X-Reason": "images only"})
    bad = invoke(tmp_path, "servers", "check", server.url)
    assert bad.returncode == 4
    assert "takes no model files (application/octet-stream): images only" in bad.stdout
    assert {asked.method for asked in server.asked} == {"HEAD"}


def test_published_list_is_merged_with_what_relays_have(tmp_path: Path, threaded_relay: ScriptedRelay) -> None:
    words = ("servers", "publish", "--relay", threaded_relay.url, "--json")
    assert invoke(tmp_path, "keys", "new").returncode == 0
    assert invoke(tmp_path, *words).returncode == 2
    for origin in ("http://127.0.0.1:3000", ORIGIN):
        assert invoke(tmp_path, "servers", "add", origin).returncode == 0
    key = key_of(tmp_path)
    tags = (("server", "https://other.example"), ("client", "another program"))
    before = EventDraft(kind=10063, created_at=clock() + 60, tags=tags, content="note").sign(key)
    with relay_on_thread() as second:
        second.events[before.id.hex()] = json.loads(before.to_json())
        published = invoke(tmp_path, *words, "--relay", second.url)
        assert only_line(published.stderr).startswith("not published: http://127.0.0.1:3000 ")
        done = json.loads(published.stdout)
        assert (done["servers"], done["added"]) == (["https://other.example", ORIGIN], 1)
        assert done["not_public"] == ["http://127.0.0.1:3000"]
        (event,) = threaded_relay.events.values()
        assert event in second.events.values()
        assert (event["tags"], event["content"]) == ([*map(list, tags), ["server", ORIGIN]], "note")
        assert event["created_at"] == before.created_at + 1
        sent = len(second.received)
        assert json.loads(invoke(tmp_path, *words, "--relay", second.url).stdout)["added"] == 0
        assert len(second.received) == sent


def test_list_is_not_published_past_a_silent_relay(tmp_path: Path, threaded_relay: ScriptedRelay) -> None:
    assert invoke(tmp_path, "keys", "new").returncode == 0
    assert invoke(tmp_path, "servers", "add", ORIGIN).returncode == 0
    with relay_on_thread() as second:
        second.refuse = lambda _: "error: no memory"
        done = invoke(tmp_path, "servers", "publish", "--relay", threaded_relay.url, "--relay", second.url)
    assert done.returncode == 4
    assert "may have a newer version" in only_line(done.stderr)
    assert not threaded_relay.received


def test_publish_uploads_to_the_published_list(
    author: Path, server: BlossomServer, threaded_relay: ScriptedRelay
) -> None:
    words = ("publish", "checkpoint_best.bin", "--name", "tiny", "--relay", threaded_relay.url, "--yes", "--json")
    none = invoke(author, *words, "--my-servers")
    assert (none.returncode, "servers publish" in only_line(none.stderr)) == (4, True)
    event = EventDraft(kind=10063, created_at=1, tags=(("server", server.url + "/"),)).sign(key_of(author))
    threaded_relay.events[event.id.hex()] = json.loads(event.to_json())
    published = json.loads(invoke(author, *words, "--my-servers", "--no-relay-chunks").stdout)
    assert published["servers"] == {server.url: {"uploaded": 4, "present": 0, "refused": 0}}
    assert invoke(author, *words, "--my-servers", "--no-servers").returncode == 2


def test_file_events_describe_whole_files(author: Path, server: BlossomServer, threaded_relay: ScriptedRelay) -> None:
    words = ("publish", "checkpoint_best.bin", "--name", "tiny", "--relay", threaded_relay.url, "--yes", "--nip94")
    without = invoke(author, *words)
    assert (without.returncode, "pass --server" in only_line(without.stderr)) == (2, True)
    planned = json.loads(invoke(author, *words, "--server", server.url, "--dry-run", "--json").stdout)
    assert invoke(author, *words, "--server", server.url).returncode == 0
    assert planned["relays"][threaded_relay.url]["events"] == len(threaded_relay.events)
    done = json.loads(invoke(author, *words, "--server", server.url, "--json").stdout)  # the relay has them
    assert planned["file_events"] == len(done["file_events"]["ids"])
    events = [event for event in threaded_relay.events.values() if event["kind"] == 1063]
    assert {event["id"] for event in events} == set(done["file_events"]["ids"])
    assert done["file_events"]["relays"] == {threaded_relay.url: ""}
    found = {tags["x"]: tags for tags in (dict(event["tags"]) for event in events)}
    assert {sha256: int(tags["size"]) for sha256, tags in found.items()} == {
        file["sha256"]: file["size"] for file in done["files"]
    }
    for sha256, tags in found.items():
        assert tags["url"] == f"{server.url}/{sha256}.bin"
        assert (tags["e"], tags["m"]) == (done["release"], "application/octet-stream")


def test_relay_without_file_events_keeps_the_release(
    author: Path, server: BlossomServer, threaded_relay: ScriptedRelay
) -> None:
    threaded_relay.accept = lambda event: (event["kind"] != 1063, "blocked: kind")
    words = ("publish", "checkpoint_best.bin", "--name", "tiny", "--relay", threaded_relay.url, "--yes", "--nip94")
    done = invoke(author, *words, "--server", server.url, "--json")
    result = json.loads(done.stdout)
    assert "blocked: kind" in result["file_events"]["relays"][threaded_relay.url]
    assert "file events (--nip94) not stored" in done.stderr
    assert "reason" not in result["relays"][threaded_relay.url]


def test_publish_and_fetch_with_the_users_servers(
    author: Path, tmp_path: Path, server: BlossomServer, threaded_relay: ScriptedRelay
) -> None:
    relay = threaded_relay.url
    assert invoke(author, "servers", "add", server.url).returncode == 0
    words = ("checkpoint_best.bin", "--name", "tiny", "--relay", relay, "--no-relay-chunks", "--yes", "--json")
    estimate = json.loads(invoke(author, "publish", *words, "--dry-run").stdout)
    assert estimate["servers"][server.url]["blobs"] == 4
    assert not server.asked
    done = invoke(author, "publish", *words)
    published = json.loads(done.stdout)
    assert published["servers"] == {server.url: {"uploaded": 4, "present": 0, "refused": 0}}
    assert sum(event["kind"] == CHUNK_KIND for event in threaded_relay.events.values()) == 1  # the manifest
    reader = tmp_path / "reader"
    reader.mkdir()
    fetch = ("fetch", published["release"], "--relay", relay, "--json")
    without = invoke(reader, *fetch)
    assert without.returncode == 4
    fetched = json.loads(invoke(reader, *fetch, "--server", server.url).stdout)
    size = sum(file["size"] for file in fetched["files"])
    assert fetched["servers"] == {server.url: {"bytes": size, "rejected": 0}}
    assert invoke(reader, *fetch, "--server", server.url, "--no-servers").returncode == 2


def test_without_a_willing_server_publish_ends_with_4(
    author: Path, server: BlossomServer, threaded_relay: ScriptedRelay
) -> None:
    server.script = lambda _: Answer(status=413, headers={"X-Reason": "at most 1 kB"})
    words = ("checkpoint_best.bin", "--name", "tiny", "--relay", threaded_relay.url, "--server", server.url, "--yes")
    refused = invoke(author, "publish", *words, "--no-relay-chunks", "--quiet")
    assert refused.returncode == 4
    assert "takes no file of this size: at most 1 kB" in only_line(refused.stderr)
    assert not threaded_relay.events
    with_relays = invoke(author, "publish", *words)
    assert with_relays.returncode == 0
    assert f"skipped server: {server.url}: takes no file of this size" in with_relays.stderr


def test_no_relay_chunks_needs_a_server(author: Path, threaded_relay: ScriptedRelay) -> None:
    words = ("checkpoint_best.bin", "--name", "tiny", "--relay", threaded_relay.url, "--no-relay-chunks", "--yes")
    done = invoke(author, "publish", *words)
    assert done.returncode == 2
    assert "pass --server" in done.stderr


def test_reader_moves_a_release_to_another_server(
    author: Path, tmp_path: Path, server: BlossomServer, threaded_relay: ScriptedRelay
) -> None:
    relay = ("--relay", threaded_relay.url)
    words = ("checkpoint_best.bin", "--name", "tiny", *relay, "--server", server.url, "--no-relay-chunks", "--yes")
    release = json.loads(invoke(author, "publish", *words, "--json").stdout)["release"]
    reader, third = tmp_path / "reader", tmp_path / "third"
    reader.mkdir()
    third.mkdir()
    assert invoke(reader, "fetch", release, *relay, "--server", server.url).returncode == 0
    assert invoke(reader, "keys", "new").returncode == 0
    with blossom_on_thread() as other:
        moved = json.loads(invoke(reader, "reseed", "tiny", "--server", other.url, "--json").stdout)
        assert moved["servers"][other.url] == {"uploaded": 4, "mirrored": 0, "present": 0, "reason": ""}
        assert other.blobs == server.blobs
        server.blobs.popitem()
        lost = invoke(reader, "verify", "tiny", "--remote", *relay, "--server", server.url, "--json")
        assert (lost.returncode, json.loads(lost.stdout)["servers"][server.url]["held"]) == (4, 3)
        assert invoke(reader, "verify", "tiny", "--remote", *relay, "--server", other.url).returncode == 0
        assert invoke(third, "fetch", release, *relay, "--server", other.url).returncode == 0
        changed = {name: bytes(len(data)) for name, data in other.blobs.items()}
        other.blobs.update(changed)
        lying = invoke(reader, "verify", "tiny", "--remote", *relay, "--server", other.url)
        assert lying.returncode == 4
        assert "do not match the release" in lying.stdout


def test_reseed_reports_a_server_that_refuses(
    author: Path, server: BlossomServer, threaded_relay: ScriptedRelay
) -> None:
    relay = ("--relay", threaded_relay.url)
    published = invoke(author, "publish", "checkpoint_best.bin", "--name", "tiny", *relay, "--yes", "--json")
    fetched = invoke(author, "fetch", json.loads(published.stdout)["release"], *relay, "--weights-only")
    assert fetched.returncode == 0
    server.script = lambda _: Answer(status=415)
    refused = invoke(author, "reseed", "tiny", "--server", server.url)
    assert refused.returncode == 4
    assert "takes no model files" in refused.stdout
    server.script = lambda _: None
    partial = invoke(author, "reseed", "tiny", "--server", server.url)
    assert (partial.returncode, len(server.blobs)) == (4, 3)  # the checkpoint is one blob, and its end is missing
    assert "1 files cannot be uploaded" in partial.stderr


def test_revoke_deletes_the_blobs_of_that_release_alone(
    author: Path, server: BlossomServer, threaded_relay: ScriptedRelay
) -> None:
    words = ("--name", "tiny", "--relay", threaded_relay.url, "--server", server.url, "--yes", "--json")
    assert invoke(author, "publish", "checkpoint_best.bin", *words).returncode == 0
    first = dict(server.blobs)
    write_tiny(author / "checkpoint_best.bin", seed=2)
    second = json.loads(invoke(author, "publish", "checkpoint_best.bin", *words).stdout)["release"]
    assert len(server.blobs) == 6  # another checkpoint and manifest, the same vocabulary and shape
    done = invoke(author, "revoke", second, *words[2:6], "--delete-blobs", "--json")
    assert json.loads(done.stdout)["servers"] == {server.url: {"deleted": 2, "absent": 0, "reason": ""}}
    assert server.blobs == first
    tokens = [
        Token.parse(asked.headers["authorization"], now=clock()) for asked in server.asked if asked.method == "DELETE"
    ]
    assert {(token.verb, token.hosts) for token in tokens} == {(Verb.DELETE, ("127.0.0.1",))}


@pytest.mark.full
@pytest.mark.parametrize("moment", ["second upload", "manifest on the relay"])
def test_publish_resumes_after_kill(
    author: Path, server: BlossomServer, threaded_relay: ScriptedRelay, moment: str
) -> None:
    words = ("checkpoint_best.bin", "--name", "tiny", "--relay", threaded_relay.url, "--server", server.url, "--yes")
    command = [sys.executable, "-m", "randygpt", "publish", *words, "--no-relay-chunks"]
    with subprocess.Popen(
        command, cwd=author, env=environment(author), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:

        def upload(_: Asked) -> Answer | None:
            if moment == "second upload" and server.count("PUT") == 2:
                process.kill()
                return Answer(status=500)
            return None

        def accept(_: RawEvent) -> tuple[bool, str]:
            process.kill()
            return True, ""

        server.script = upload
        if moment != "second upload":
            threaded_relay.accept = accept
        assert process.wait(TIMEOUT_S) == -signal.SIGKILL
    server.script, threaded_relay.accept = (lambda _: None), (lambda _: (True, ""))
    had = set(server.blobs)
    server.asked.clear()
    again = json.loads(invoke(author, "publish", *words, "--no-relay-chunks", "--json").stdout)
    assert again["servers"][server.url]["present"] == len(had) > 0
    sent = {asked.headers["x-sha-256"] for asked in server.asked if asked.method == "PUT"}
    assert sent == set(server.blobs) - had
    assert len(server.blobs) == 4


def test_follow_uses_the_users_servers(
    author: Path, tmp_path: Path, server: BlossomServer, threaded_relay: ScriptedRelay
) -> None:
    relay = ("--relay", threaded_relay.url)
    words = ("checkpoint_best.bin", "--name", "tiny", *relay, "--server", server.url, "--no-relay-chunks", "--yes")
    published = json.loads(invoke(author, "publish", *words, "--json").stdout)
    reader = tmp_path / "reader"
    reader.mkdir()
    assert invoke(reader, "follow", published["naddr"], *relay, "--once").returncode == 4
    assert invoke(reader, "servers", "add", server.url).returncode == 0
    assert invoke(reader, "follow", published["naddr"], *relay, "--once").returncode == 0
    assert json.loads(invoke(reader, "list", "--json").stdout)["releases"][0]["release"] == published["release"]
