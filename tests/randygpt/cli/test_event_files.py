"""Releases as files of events: `publish --out`, `fetch --from` and `export --events`."""

import json
from pathlib import Path

import pytest
from support.command import invoke, invoke_with_input, only_line
from support.models import write_tiny
from support.scripted_relay import ScriptedRelay

from distribution.events import CHUNK_KIND, HEAD_KIND, RELEASE_KIND
from distribution.store import Store
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub


@pytest.fixture
def friend(tmp_path: Path) -> Path:
    """An empty home."""
    home = tmp_path / "friend"
    home.mkdir()
    return home


@pytest.fixture
def written(author: Path) -> Path:
    """A file with the events of a release."""
    done = invoke(author, "publish", "checkpoint_best.bin", "--out", "release.jsonl", "--quiet")
    assert done.returncode == 0, done.stderr
    return author / "release.jsonl"


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def checkpoint(home: Path) -> bytes:
    store = Store(home)
    current = store.current()
    installed = store.release(current) if current else None
    assert installed
    return installed.file("checkpoint").local_path.read_bytes()


def test_published_file_is_fetched_without_a_relay(author: Path, written: Path, friend: Path, key: SecretKey) -> None:
    done = invoke(friend, "fetch", "--from", written, "--json")
    assert done.returncode == 0, done.stderr
    assert checkpoint(friend) == (author / "checkpoint_best.bin").read_bytes()
    for name in ("demo", f"{encode_npub(key.pubkey)}/demo", json.loads(done.stdout)["release"]):
        assert invoke(friend, "fetch", name, "--from", written).returncode == 0


def test_fetch_ends_with_the_next_command(written: Path, friend: Path) -> None:
    (release,) = [event["id"] for event in map(json.loads, lines(written)) if event["kind"] == RELEASE_KIND]
    last = invoke(friend, "fetch", "--from", written, "--no-activate").stdout.splitlines()[-1]
    assert last == f"next     randygpt use {release[:8]}"
    assert invoke(friend, "use", release[:8]).returncode == 0
    last = invoke(friend, "fetch", "--from", written).stdout.splitlines()[-1]
    assert last == 'next     randygpt generate "Once upon a time"'
    assert "next  " not in invoke(friend, "fetch", "--from", written, "--quiet").stdout


def test_events_are_in_the_order_of_sending(written: Path) -> None:
    events = [json.loads(line) for line in lines(written)]
    kinds = [event["kind"] for event in events]
    assert kinds[-2:] == [RELEASE_KIND, HEAD_KIND]
    assert set(kinds[:-2]) == {CHUNK_KIND}
    release = events[-2]
    manifest = [tag[1] for tag in release["tags"] if tag[0] == "e"]
    assert [event["id"] for event in events[-2 - len(manifest) : -2]] == manifest


def test_same_files_keep_their_ids(author: Path, written: Path) -> None:
    before = [json.loads(line)["id"] for line in lines(written)]
    assert invoke(author, "publish", "checkpoint_best.bin", "--out", "release.jsonl").returncode == 0
    assert [json.loads(line)["id"] for line in lines(written)] == before


def test_pipe_carries_a_release(author: Path, friend: Path) -> None:
    published = invoke(author, "publish", "checkpoint_best.bin", "--out", "-")
    assert published.returncode == 0, published.stderr
    assert "demo version 1" in published.stderr
    done = invoke_with_input(friend, published.stdout.encode(), "fetch", "--from", "-")
    assert done.returncode == 0, done.stderr
    assert checkpoint(friend) == (author / "checkpoint_best.bin").read_bytes()


def test_cut_file_is_completed_from_another_copy(author: Path, written: Path, friend: Path) -> None:
    *events, release, head = lines(written)
    cut = friend / "cut.jsonl"
    cut.write_bytes(b"".join([release, head, events[-1], *events[1:3], events[0][:1000]]))
    done = invoke(friend, "fetch", "--from", cut, "--quiet")
    assert done.returncode == 4
    assert "missing on" in only_line(done.stderr)
    assert "another copy" in done.stderr
    done = invoke(friend, "fetch", "--from", written, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["chunks"]["reused"] == 2
    assert checkpoint(friend) == (author / "checkpoint_best.bin").read_bytes()


def test_older_version_than_installed_is_refused(author: Path, written: Path, friend: Path) -> None:
    write_tiny(author / "checkpoint_best.bin", name="demo", seed=2)
    newer = invoke(author, "publish", "checkpoint_best.bin", "--out", "newer.jsonl")
    assert newer.returncode == 0, newer.stderr
    assert invoke(friend, "fetch", "--from", author / "newer.jsonl").returncode == 0
    done = invoke(friend, "fetch", "--from", written)
    assert done.returncode == 3
    assert "version 1 of demo is older than 2" in only_line(done.stderr)
    heads = [json.loads(lines(path)[-1])["created_at"] for path in (written, author / "newer.jsonl")]
    assert heads[0] < heads[1]


@pytest.mark.parametrize(
    ("content", "code", "reason"),
    [
        pytest.param(b"", 4, "has no model", id="empty"),
        pytest.param(b"\x1f\x8b\x08\x00" + bytes(range(256)) * 8, 3, "line 1 is no event", id="gzip"),
        pytest.param(b"x" * 600_000, 3, "line 1 is no event: above 262,144 bytes", id="endless-line"),
        pytest.param(b'["EVENT"]\n' * 9, 3, "line 1 is no event", id="not-events"),
        pytest.param(
            b'{"kind":34181}\n{"kind":4181,"tags":[[]]}\n{"kind":1}\n', 4, "has no model", id="fields-missing"
        ),
    ],
)
def test_file_without_a_release_is_one_line(friend: Path, content: bytes, code: int, reason: str) -> None:
    (friend / "junk.jsonl").write_bytes(content)
    done = invoke(friend, "fetch", "--from", "junk.jsonl")
    assert (done.returncode, reason in only_line(done.stderr)) == (code, True), done.stderr
    assert not (friend / "store" / "releases").exists()


def test_wrong_name_is_said_in_spite_of_junk(written: Path, friend: Path) -> None:
    written.write_bytes(b"junk\n" + written.read_bytes())
    done = invoke(friend, "fetch", "--from", written, "other")
    assert (done.returncode, only_line(done.stderr)) == (4, f"randygpt: {written} has no model called other")


def test_junk_among_the_events_is_skipped(author: Path, written: Path, friend: Path) -> None:
    events = lines(written)
    mixed = b"\0\xff\n{}\n[]\n\n".join([b'{"kind":1,"content":"hi"}\n', *events, events[0].replace(b"sig", b"gis")])
    done = invoke_with_input(friend, mixed, "fetch", "--from", "-")
    assert done.returncode == 0, done.stderr
    assert checkpoint(friend) == (author / "checkpoint_best.bin").read_bytes()


def test_altered_chunk_is_refused(written: Path, friend: Path) -> None:
    first, *rest = lines(written)
    content = json.loads(first)
    content["content"] = "A" * len(content["content"])
    (friend / "bad.jsonl").write_bytes(b"".join([json.dumps(content).encode() + b"\n", *rest]))
    done = invoke(friend, "fetch", "--from", "bad.jsonl", "--quiet")
    assert done.returncode == 3
    assert "did not verify" in only_line(done.stderr)
    assert invoke(friend, "fetch", "--from", written).returncode == 0


def test_strangers_events_are_refused(author: Path, written: Path, friend: Path) -> None:
    stranger = SecretKey.generate()
    assert invoke(friend, "trust", "add", encode_npub(stranger.pubkey), "friend").returncode == 0
    assert invoke(friend, "trust", "policy", "allowlist").returncode == 0
    done = invoke(friend, "fetch", "--from", written)
    assert done.returncode == 3
    assert "not on your trust list" in only_line(done.stderr)
    (author / "keys" / "nsec").write_text(stranger.reveal_nsec())
    assert invoke(author, "publish", "checkpoint_best.bin", "--out", "other.jsonl").returncode == 0
    both = written.read_bytes() + (author / "other.jsonl").read_bytes()
    done = invoke_with_input(friend, both, "fetch", "--from", "-", "--json")
    assert json.loads(done.stdout)["author"] == encode_npub(stranger.pubkey)
    assert invoke(friend, "trust", "policy", "explicit").returncode == 0
    done = invoke_with_input(friend, both, "fetch", "--from", "-")
    assert done.returncode == 2
    assert "several models, name one: npub1" in only_line(done.stderr)


def test_large_release_and_pipe_are_refused(written: Path, friend: Path) -> None:
    assert invoke(friend, "fetch", "--from", written, "--max-size", "1K").returncode == 2
    done = invoke_with_input(friend, written.read_bytes(), "fetch", "--from", "-", "--max-size", "1K")
    assert done.returncode == 2
    assert "more than 4,096 bytes of events" in only_line(done.stderr)


def test_dry_run_names_the_file(written: Path, friend: Path) -> None:
    done = invoke(friend, "fetch", "--from", written, "--dry-run")
    assert f"events    {written} has the release" in done.stdout
    assert not (friend / "store" / "releases").exists()


def test_installed_release_is_exported_with_its_signatures(written: Path, friend: Path) -> None:
    assert invoke(friend, "fetch", "--from", written).returncode == 0
    done = invoke(friend, "export", "--events", "demo", "copy.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["copies"] == 0
    assert sorted(lines(friend / "copy.jsonl")) == sorted(lines(written))
    assert lines(friend / "copy.jsonl")[-2:] == lines(written)[-2:]
    piped = invoke(friend, "export", "--events", "demo")
    assert piped.stdout.encode() == (friend / "copy.jsonl").read_bytes()


def test_export_of_weights_names_what_is_missing(written: Path, friend: Path) -> None:
    assert invoke(friend, "fetch", "--from", written, "--weights-only").returncode == 0
    done = invoke(friend, "export", "--events", "demo", "copy.jsonl", "--quiet")
    assert done.returncode == 4
    assert "2 chunks are missing" in only_line(done.stderr)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(["fetch"], "MODEL", id="no-model"),
        pytest.param(["fetch", "--from", "no.jsonl"], "no.jsonl", id="no-file"),
        pytest.param(["fetch", "--from", "x", "--relay", "ws://127.0.0.1:9"], "--relay", id="relay"),
        pytest.param(["publish", "checkpoint_best.bin", "--out", "x/y"], "x does not exist", id="no-folder"),
        pytest.param(["publish", "checkpoint_best.bin", "--out", "/dev/null"], "regular", id="device"),
        pytest.param(["publish", "checkpoint_best.bin", "--out", "x", "--dry-run"], "--dry-run", id="dry-run"),
        pytest.param(["publish", "checkpoint_best.bin", "--out", "x", "--server", "http://h"], "--server", id="server"),
        pytest.param(
            ["publish", "checkpoint_best.bin", "--out", "x", "--no-relay-chunks"], "relay-chunks", id="chunks"
        ),
        pytest.param(["publish", "checkpoint_best.bin", "--out", "-", "--json"], "--json", id="json"),
        pytest.param(["export", "checkpoint_best.bin"], "DIR", id="export-folder"),
    ],
)
def test_wrong_flags_are_one_line(author: Path, words: list[str], reason: str) -> None:
    done = invoke(author, *words)
    assert (done.returncode, reason in only_line(done.stderr)) == (2, True), done.stderr


def test_later_publish_sends_the_same_events(author: Path, written: Path, threaded_relay: ScriptedRelay) -> None:
    done = invoke(author, "publish", "checkpoint_best.bin", "--relay", threaded_relay.url)
    assert done.returncode == 0, done.stderr
    ids = [json.loads(line)["id"] for line in lines(written)]
    assert threaded_relay.received[:-1] == ids[:-1]
