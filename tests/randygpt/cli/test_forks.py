"""`randygpt forks`: who built on a model."""

import asyncio
import json
from pathlib import Path

import pytest
from support.command import invoke, only_line
from support.family import make_release, store_on
from support.models import write_tiny
from support.scripted_relay import ScriptedRelay

from distribution.trust_list import TrustStore
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

AUTHOR, FRIEND, STRANGER = (SecretKey(bytes([number]) * 32) for number in (1, 2, 3))
BASE = make_release(AUTHOR, "base")
FORK = make_release(FRIEND, "verse", version=3, base=BASE, card={"training": {"val_loss": 1.5, "bits_per_byte": 2.25}})
MERGE = make_release(STRANGER, "both", base=make_release(AUTHOR, "other"), merged=[BASE, FORK])


@pytest.fixture
def home(tmp_path: Path, threaded_relay: ScriptedRelay) -> Path:
    asyncio.run(TrustStore(tmp_path).add(FRIEND.pubkey, "bob"))
    store_on(threaded_relay, [BASE, FORK, MERGE])
    return tmp_path


def test_forks_lists_trusted_authors_first(home: Path, threaded_relay: ScriptedRelay) -> None:
    done = invoke(home, "forks", BASE.id.hex(), "--relay", threaded_relay.url)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = (line.split("  ") for line in done.stdout.splitlines())
    assert first == [FORK.short_id, "verse@3", "bob", first[3], "loss 1.5000, 2.250 bits/byte"]
    assert (second[:2], second[-1]) == ([MERGE.short_id, "both@1"], "(a merge of it)")


def test_forks_as_json(home: Path, threaded_relay: ScriptedRelay) -> None:
    done = invoke(home, "forks", BASE.id.hex(), "--relay", threaded_relay.url, "--trusted", "--json")
    assert json.loads(done.stdout) == {
        "release": BASE.id.hex(),
        "forks": [
            {
                "release": FORK.id.hex(),
                "author": encode_npub(FRIEND.pubkey),
                "author_name": "bob",
                "claimed_name": None,
                "name": "verse",
                "version": 3,
                "role": "base",
                "trusted": True,
                "created_at": FORK.created_at,
                "losses": {"bits_per_byte": 2.25, "val_loss": 1.5},
            }
        ],
        "complete": True,
    }


def test_forks_beyond_the_limit_are_counted(home: Path, threaded_relay: ScriptedRelay) -> None:
    done = invoke(home, "forks", BASE.id.hex(), "--relay", threaded_relay.url, "--limit", "1")
    assert only_line(done.stderr) == "1 more: pass --limit 2"
    assert done.stdout.startswith(FORK.short_id)


def test_release_without_forks_says_so(home: Path, threaded_relay: ScriptedRelay) -> None:
    done = invoke(home, "forks", MERGE.id.hex(), "--relay", threaded_relay.url)
    assert (done.returncode, done.stdout, only_line(done.stderr)) == (0, "", "no forks of both version 1 found")


def test_file_has_no_forks(home: Path, threaded_relay: ScriptedRelay) -> None:
    write_tiny(home / "mine.bin")
    done = invoke(home, "forks", "mine.bin", "--relay", threaded_relay.url)
    assert (done.returncode, only_line(done.stderr)) == (2, "randygpt: mine.bin is a file: only a release has forks")
