"""Commands with a real relay that requires authentication (NIP-42) for reading and writing."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.bunker import bunker_on_thread
from support.command import invoke, only_line
from support.models import write_tiny
from support.releases import visible
from support.scripted_relay import ScriptedRelay

from randygpt.user import signing_key
from randygpt.user.home import Home
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.subscription import Subscription


def said(home: Path, *words: object) -> dict[str, Any]:
    done = invoke(home, *words, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))  # follow tells of a revocation before it


@pytest.fixture
def author(tmp_path: Path) -> Path:
    home = tmp_path / "author"
    home.mkdir()
    write_tiny(home / "m.bin", seed=1, name="demo")
    said(home, "keys", "new")
    return home


def test_release_lifecycle_on_nip42_relay(nip42_relay: str, author: Path, tmp_path: Path) -> None:
    friend = tmp_path / "friend"
    friend.mkdir()
    said(friend, "keys", "new")
    for home in (author, friend):
        said(home, "relays", "add", nip42_relay)
    name = f"{(said(author, 'keys', 'show'))['npub']}/demo"
    first = (said(author, "publish", "m.bin"))["release"]
    assert (said(friend, "fetch", name))["release"] == first
    write_tiny(author / "m.bin", seed=2, name="demo")
    second = (said(author, "publish", "m.bin"))["release"]
    assert (said(friend, "follow", name, "--once"))["release"] == second
    assert (said(friend, "verify", second, "--remote"))["nowhere"] == 0
    assert (said(friend, "reseed", second))["relays"][nip42_relay]["reason"] == ""
    assert (said(author, "revoke", second))["latest"]["release"] == first
    assert (said(friend, "follow", name, "--once"))["release"] == first


def test_remote_signer_leaves_authentication_to_the_chunk_key(
    nip42_relay: str, threaded_relay: ScriptedRelay, author: Path, tmp_path: Path, free_port: int
) -> None:
    home = tmp_path / "remote"
    home.mkdir()
    write_tiny(home / "m.bin", name="demo")
    threaded_relay.members = ["another key"]
    with bunker_on_thread(free_port) as bunker:
        said(home, "keys", "bunker", bunker.uri)
        done = said(home, "publish", "m.bin", "--relay", nip42_relay, "--relay", threaded_relay.url)
        assert set(bunker.signed_kinds) == {1064, 4181, 34181}
    assert done["relays"][nip42_relay]["accepted"] == done["events"]
    assert done["chunk_author"] in threaded_relay.identities
    assert bunker.user.pubkey.hex() not in threaded_relay.identities
    assert said(author, "fetch", done["release"], "--relay", nip42_relay)["release"] == done["release"]


def test_fetch_without_key_says_authentication_is_required(nip42_relay: str, author: Path, tmp_path: Path) -> None:
    release = (said(author, "publish", "m.bin", "--relay", nip42_relay))["release"]
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    done = invoke(stranger, "fetch", release, "--relay", nip42_relay)
    assert (done.returncode, done.stdout) == (4, "")
    assert "auth-required" in only_line(done.stderr)
    assert visible(stranger) == {}


def test_key_is_read_only_for_nip42_relays(
    nip42_relay: str, threaded_relay: ScriptedRelay, author: Path, tmp_path: Path
) -> None:
    release = (said(author, "publish", "m.bin", "--relay", nip42_relay, "--relay", threaded_relay.url))["release"]
    friend = tmp_path / "friend"
    (friend / "keys").mkdir(parents=True)
    (friend / "keys" / "nsec").write_text("no key at all")
    assert (said(friend, "fetch", release, "--relay", threaded_relay.url))["release"] == release
    both = said(friend, "fetch", release, "--relay", nip42_relay, "--relay", threaded_relay.url)
    assert both["release"] == release  # the other relay is enough
    done = invoke(friend, "fetch", release, "--relay", nip42_relay)
    assert done.returncode == 4
    assert "cannot authenticate" in only_line(done.stderr)


async def test_following_continues_with_unusable_key(nip42_relay: str, relay: str, tmp_path: Path) -> None:
    home = Home(tmp_path)
    signing_key.store(home, "no key at all")
    signer, told = signing_key.signer(home), asyncio.Event()
    subscription = Subscription(
        [nip42_relay, relay], Filter(limit=1), lambda *_: True, signer=signer, on_change=lambda _: told.set()
    )
    task = asyncio.create_task(subscription.run())
    async with asyncio.timeout(60):
        while not (subscription.statuses[relay].connected and subscription.statuses[nip42_relay].reason):
            told.clear()
            await told.wait()
    assert not task.done()
    assert "cannot authenticate" in subscription.statuses[nip42_relay].reason
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_fetch_never_asks_for_a_password(nip42_relay: str, author: Path, tmp_path: Path, key: SecretKey) -> None:
    release = (said(author, "publish", "m.bin", "--relay", nip42_relay))["release"]
    friend = Home(tmp_path / "friend")
    signing_key.store(friend, key.reveal_ncryptsec("a password"))
    done = invoke(friend.folder, "fetch", release, "--relay", nip42_relay)
    assert done.returncode == 4
    assert "is encrypted with a password" in only_line(done.stderr)
