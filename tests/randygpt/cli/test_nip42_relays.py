"""Every command with a relay that wants to know who is there (NIP-42): a real one, for reading and for writing."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.command import only_line, randygpt
from support.models import write_tiny
from support.releases import visible
from support.scripted_relay import ScriptedRelay

from randygpt.user import signing_key
from randygpt.user.home import Home
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.subscription import Subscription


async def said(home: Path, *words: object) -> dict[str, Any]:
    done = await asyncio.to_thread(randygpt, home, *words, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
async def author(tmp_path: Path) -> Path:
    home = tmp_path / "author"
    home.mkdir()
    write_tiny(home / "m.bin", seed=1, name="demo")
    await said(home, "keys", "new")
    return home


async def test_the_life_of_a_release_among_members(nip42_relay: str, author: Path, tmp_path: Path) -> None:
    friend = tmp_path / "friend"
    friend.mkdir()
    await said(friend, "keys", "new")
    for home in (author, friend):
        await said(home, "relays", "add", nip42_relay)
    name = f"{(await said(author, 'keys', 'show'))['npub']}/demo"
    first = (await said(author, "publish", "m.bin"))["release"]
    assert (await said(friend, "fetch", name))["release"] == first
    write_tiny(author / "m.bin", seed=2, name="demo")
    second = (await said(author, "publish", "m.bin"))["release"]
    assert (await said(friend, "follow", name, "--once"))["release"] == second
    assert (await said(friend, "verify", second, "--remote"))["nowhere"] == 0
    assert (await said(friend, "reseed", second))["relays"][nip42_relay]["reason"] == ""
    assert (await said(author, "revoke", second))["latest"]["release"] == first
    assert (await said(friend, "follow", name, "--once"))["release"] == first


async def test_without_a_key_the_refusal_says_why(nip42_relay: str, author: Path, tmp_path: Path) -> None:
    release = (await said(author, "publish", "m.bin", "--relay", nip42_relay))["release"]
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    done = await asyncio.to_thread(randygpt, stranger, "fetch", release, "--relay", nip42_relay)
    assert (done.returncode, done.stdout) == (4, "")
    assert "auth-required" in only_line(done.stderr)
    assert visible(stranger) == {}


async def test_the_key_is_read_only_where_a_relay_insists(
    nip42_relay: str, scripted: ScriptedRelay, author: Path, tmp_path: Path
) -> None:
    release = (await said(author, "publish", "m.bin", "--relay", nip42_relay, "--relay", scripted.url))["release"]
    friend = tmp_path / "friend"
    (friend / "keys").mkdir(parents=True)
    (friend / "keys" / "nsec").write_text("no key at all")
    assert (await said(friend, "fetch", release, "--relay", scripted.url))["release"] == release
    both = await said(friend, "fetch", release, "--relay", nip42_relay, "--relay", scripted.url)
    assert both["release"] == release  # the other relay is enough
    done = await asyncio.to_thread(randygpt, friend, "fetch", release, "--relay", nip42_relay)
    assert done.returncode == 4
    assert "cannot authenticate" in only_line(done.stderr)


async def test_following_goes_on_with_a_key_that_cannot_be_used(nip42_relay: str, relay: str, tmp_path: Path) -> None:
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


async def test_nobody_is_asked_for_the_password_of_a_locked_key(
    nip42_relay: str, author: Path, tmp_path: Path, key: SecretKey
) -> None:
    release = (await said(author, "publish", "m.bin", "--relay", nip42_relay))["release"]
    friend = Home(tmp_path / "friend")
    signing_key.store(friend, key.reveal_ncryptsec("a password"))
    done = await asyncio.to_thread(randygpt, friend.folder, "fetch", release, "--relay", nip42_relay)
    assert done.returncode == 4
    assert "is encrypted with a password" in only_line(done.stderr)
