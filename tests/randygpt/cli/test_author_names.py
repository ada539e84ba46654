"""Authors as people read them: petname, else the name that their profile claims, always with the key."""

import json
import os
from pathlib import Path

import pytest
from support.command import invoke
from support.scripted_relay import ScriptedRelay

from distribution.author_claims import MAX_CLAIMS, ClaimStore
from distribution.trust_list import TrustList, TrustStore
from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

NOW = 1_790_000_000


def put_profile(relay: ScriptedRelay, key: SecretKey, name: str, *, created_at: int = NOW) -> None:
    content = json.dumps({"name": name})
    event = json.loads(EventDraft(kind=0, created_at=created_at, content=content).sign(key).to_json())
    relay.events[event["id"]] = event


def test_claimed_name_is_shown_as_a_claim(friend: Path, threaded_relay: ScriptedRelay, key: SecretKey) -> None:
    npub = encode_npub(key.pubkey)
    short = f"{npub[:9]}…{npub[-4:]}"
    put_profile(threaded_relay, key, "older", created_at=NOW - 1)
    put_profile(threaded_relay, key, "ali\x1b[2Jce\nof \u202eWonderland")
    shown = invoke(friend, "show", f"{npub}/demo")
    assert f'{npub}, calls itself "ali[2Jce of Wonderland"' in shown.stdout
    fetched = invoke(friend, "fetch", f"{npub}/demo")
    assert f'signed by {npub}, calls itself "ali[2Jce of Wonderland"' in fetched.stdout
    assert f'"ali[2Jce of …"? {short}' in invoke(friend, "list").stdout
    (listed,) = json.loads(invoke(friend, "list", "--json").stdout)["releases"]
    assert (listed["author_name"], listed["claimed_name"]) == (None, "ali[2Jce of Wonderland")
    assert invoke(friend, "trust", "add", npub, "bob").returncode == 0
    (listed,) = json.loads(invoke(friend, "list", "--json").stdout)["releases"]
    assert (listed["author_name"], listed["claimed_name"]) == ("bob", None)
    assert "ali" not in invoke(friend, "list").stdout


def test_forged_profile_is_ignored(friend: Path, threaded_relay: ScriptedRelay, key: SecretKey) -> None:
    put_profile(threaded_relay, key, "alice")
    (forged,) = (event for event in threaded_relay.events.values() if event["kind"] == 0)
    forged["content"] = '{"name":"forged"}'
    done = invoke(friend, "show", f"{encode_npub(key.pubkey)}/demo")
    assert (done.returncode, "calls itself" in done.stdout) == (0, False)


def test_author_without_a_profile_is_asked_for_once_a_day(
    friend: Path, threaded_relay: ScriptedRelay, key: SecretKey
) -> None:
    def asked() -> int:
        return sum(wanted.get("kinds") == [0] for wanted in threaded_relay.requests)

    npub = encode_npub(key.pubkey)
    for _ in range(2):
        assert invoke(friend, "fetch", f"{npub}/demo").returncode == 0
    assert asked() == 1


def test_relay_that_fails_to_give_a_profile_changes_nothing(
    friend: Path, threaded_relay: ScriptedRelay, key: SecretKey
) -> None:
    threaded_relay.refuse = lambda wanted: "error: no profiles" if wanted.get("kinds") == [0] else ""
    done = invoke(friend, "fetch", f"{encode_npub(key.pubkey)}/demo")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("claim", ["alice", "Alice", "\u0430lic\u0435", "a l i c e", "ALlCE", "álice"])
def test_imitated_petname_is_named_as_such(claim: str, key: SecretKey, stranger: SecretKey) -> None:
    trusted = TrustList(names={key.pubkey: "alice"}, claims={stranger.pubkey: claim, key.pubkey: "mallory"})
    npub = encode_npub(stranger.pubkey)
    assert trusted.display_name(stranger.pubkey) == f"{npub}, calls itself like your alice, and is another key"
    assert trusted.short_name(stranger.pubkey) == f"{npub[:9]}…{npub[-4:]} (not your alice)"
    assert trusted.short_name(key.pubkey) == "alice"


async def test_claims_are_bounded_and_the_oldest_leave(tmp_path: Path) -> None:
    store = ClaimStore(tmp_path)
    await store.record({bytes([7]) * 32: "first"}, now=1)
    await store.record({os.urandom(32): "x" for _ in range(MAX_CLAIMS)}, now=2)
    names = store.read()
    assert (len(names), bytes([7]) * 32 in names) == (MAX_CLAIMS, False)


@pytest.mark.parametrize("content", ["not JSON", "[]", '{"schema_version":9}', '{"zz":{"name":"x"}}', '{"00":7}'])
async def test_damaged_claims_count_as_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state" / "profiles.json"
    path.parent.mkdir()
    path.write_text(content)
    assert TrustStore(tmp_path).read() == TrustList()
    path.write_text(json.dumps({"11" * 32: {"name": "\x1b[2Jx\n" + "y" * 100, "asked_at": "never"}}))
    assert ClaimStore(tmp_path).read() == {b"\x11" * 32: "[2Jx " + "y" * 18 + "…"}
