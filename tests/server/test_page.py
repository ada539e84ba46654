"""The page without a browser: its files and their headers, and the facts it polls."""

import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from support.release_store import ReleaseStore, without_checkpoint
from support.serving import serving_releases

from distribution.ancestors import Ancestor, Lineage
from distribution.events import RELEASE_KIND
from distribution.trust_list import TrustStore
from randygpt.user.home import Home
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_nevent, encode_npub
from server.provenance import STALE_S

CARD = {"license": "MIT", "training": {"iteration": 5, "history": [[0, 2.5, 2.6], [5, 2.0, 2.1]]}}
ROOT = Path(__file__).parents[2]
FILES = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript", "/model.js": "text/javascript"}


async def get_facts(
    session: aiohttp.ClientSession, address: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    async with session.get(f"{address}/provenance", headers=headers) as response:
        return response.status, await response.json()


def write_follow_status(releases: ReleaseStore, content: object) -> Path:
    path = Home(releases.home).follow_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else orjson.dumps(content))
    return path


# --- files


@pytest.mark.parametrize(("path", "kind"), FILES.items())
async def test_page_files_are_cached_and_restricted(
    session: aiohttp.ClientSession, address: str, path: str, kind: str
) -> None:
    async with session.get(address + path) as response:
        headers, body = response.headers, await response.read()
    assert (response.status, headers["Content-Type"], headers["Cache-Control"]) == (
        200,
        f"{kind}; charset=utf-8",
        "no-cache",
    )
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    async with session.head(address + path) as response:
        assert (response.status, response.headers["Content-Length"]) == (200, str(len(body)))
    for known in (headers["ETag"], f'"x", W/{headers["ETag"]}', "*"):
        async with session.get(address + path, headers={"If-None-Match": known}) as response:
            assert (response.status, await response.read()) == (304, b"")
            assert response.headers["ETag"] == headers["ETag"]
    async with session.get(address + path, headers={"If-None-Match": '"x"'}) as response:
        assert (response.status, await response.read()) == (200, body)


async def test_page_loads_only_its_own_files(session: aiohttp.ClientSession, address: str) -> None:
    async with session.get(address) as response:
        html = await response.text()
    assert set(re.findall(r'(?:src|href)="([^"]*)"', html)) == {"/page.css", "/page.js", "/model.js", "data:,"}
    assert not re.search(r"<style|<script>|\sstyle=|\son[a-z]+=", html)
    for path in ("/page.css", "/page.js", "/model.js"):
        async with session.get(address + path) as response:
            text = await response.text()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(|innerHTML|insertAdjacentHTML", text)


async def test_page_needs_an_allowed_host(releases: ReleaseStore, session: aiohttp.ClientSession) -> None:
    async with serving_releases(releases, hosts={"127.0.0.1"}) as address:
        for path in [*FILES, "/provenance"]:
            async with session.get(address + path, headers={"Host": "evil.example"}) as response:
                assert response.status == 403


# --- facts


async def test_facts_before_the_first_release(releases: ReleaseStore, session: aiohttp.ClientSession) -> None:
    async with serving_releases(releases) as address:
        assert await get_facts(session, address) == (
            200,
            {"model": None, "failure": None, "release": None, "releases": [], "followed": [], "unread": None}
            | {"needs_key": False},
        )


async def test_facts_of_a_model_file(session: aiohttp.ClientSession, address: str) -> None:
    status, facts = await get_facts(session, address)
    assert (status, facts["model"]["label"], facts["release"], facts["releases"]) == (200, "tiny version 1", None, [])


async def test_facts_of_a_release(releases: ReleaseStore, key: SecretKey, session: aiohttp.ClientSession) -> None:
    first, second = releases.install(), releases.install(card=CARD)
    releases.store.activate(second.id)
    await TrustStore(releases.home).add(key.pubkey, "alice")
    async with serving_releases(releases) as address:
        _, facts = await get_facts(session, address)
    npub = encode_npub(key.pubkey)
    release = facts["release"]
    assert (release["release"], release["author"], release["author_name"]) == (second.id.hex(), npub, "alice")
    assert (release["name"], release["version"], release["created_at"]) == ("tiny", 2, second.created_at)
    assert (release["sha256"], release["partial"]) == (second.file("checkpoint").sha256.hex(), False)
    assert release["card"] == CARD
    assert [(each["version"], each["serving"], each["current"]) for each in facts["releases"]] == [
        (2, True, True),
        (1, False, False),
    ]
    assert facts["releases"][1]["release"] == first.id.hex()


@pytest.mark.parametrize(
    ("relays", "hints", "flags"),
    [
        ([], [], ""),
        (["ws://10.0.0.1", "wss://a.example", "wss://b.example/?token=secret"], ["wss://a.example"], ""),
        (["ws://10.0.0.1"], ["ws://10.0.0.1"], " --relay ws://10.0.0.1"),
    ],
)
async def test_facts_say_how_to_fetch_the_release(
    releases: ReleaseStore, session: aiohttp.ClientSession, relays: list[str], hints: list[str], flags: str
) -> None:
    Home(releases.home).write_relays(relays)
    release = releases.install()
    releases.store.activate(release.id)
    async with serving_releases(releases) as address:
        _, facts = await get_facts(session, address)
    nevent = encode_nevent(release.id, author=release.author, kind=RELEASE_KIND, relays=hints)
    assert facts["release"]["nevent"] == nevent
    assert facts["release"]["fetch"] == f"randygpt fetch {nevent}{flags}"


async def test_facts_have_what_the_release_was_made_from(
    releases: ReleaseStore, session: aiohttp.ClientSession
) -> None:
    base = Ancestor(release_id=bytes(32), hint="wss://relay.example", author=releases.key.pubkey)
    releases.store.activate(releases.install(tags=Lineage(base=base).tags).id)
    async with serving_releases(releases) as address:
        _, facts = await get_facts(session, address)
    assert facts["release"]["ancestors"] == [
        {
            "release": "00" * 32,
            "author": encode_npub(base.author),
            "author_name": None,
            "role": "base",
            "nevent": encode_nevent(base.release_id, author=base.author, kind=RELEASE_KIND, relays=[base.hint]),
        }
    ]


async def test_unchanged_facts_give_304(releases: ReleaseStore, session: aiohttp.ClientSession) -> None:
    releases.store.activate(releases.install().id)
    async with serving_releases(releases) as address:
        async with session.get(f"{address}/provenance") as response:
            known = {"If-None-Match": response.headers["ETag"]}
        async with session.get(f"{address}/provenance", headers=known) as response:
            assert (response.status, await response.read()) == (304, b"")
        releases.install()
        async with session.get(f"{address}/provenance", headers=known) as response:
            assert (response.status, len((await response.json())["releases"])) == (200, 2)


async def test_list_has_the_latest_releases_and_the_active_one(
    releases: ReleaseStore, session: aiohttp.ClientSession
) -> None:
    first = releases.install()
    releases.store.activate(first.id)
    for _ in range(4):
        releases.install()
    async with serving_releases(releases, max_releases=3) as address:
        _, facts = await get_facts(session, address)
    assert [(each["version"], each["serving"]) for each in facts["releases"]] == [(5, False), (4, False), (1, True)]


async def test_facts_need_the_key(releases: ReleaseStore, session: aiohttp.ClientSession) -> None:
    releases.store.activate(releases.install().id)
    async with serving_releases(releases, api_keys=["s3cret"]) as address:
        assert await get_facts(session, address) == (401, {"error": "a valid API key is required"})
        assert (await get_facts(session, address, {"Authorization": "Bearer s3cret"}))[1]["release"]["version"] == 1
        for path in FILES:
            async with session.get(address + path) as response:
                assert response.status == 200


async def test_facts_have_the_swap_failure(releases: ReleaseStore, session: aiohttp.ClientSession) -> None:
    releases.store.activate(without_checkpoint(releases).id)
    async with serving_releases(releases) as address:
        _, facts = await get_facts(session, address)
    assert (facts["model"], facts["release"]) == (None, None)
    assert "No such file" in facts["failure"]


@pytest.mark.parametrize("damaged", ["store/refs/current", "state/trust.json", "state/follow.json"])
async def test_damaged_file_is_reported_as_unread(
    releases: ReleaseStore, session: aiohttp.ClientSession, damaged: str
) -> None:
    releases.store.activate(releases.install().id)
    write_follow_status(releases, {})
    async with serving_releases(releases) as address:
        (releases.home / damaged).write_bytes(b"{")
        status, facts = await get_facts(session, address)
    assert (status, facts["model"] is not None) == (200, True)
    assert damaged in facts["unread"]
    assert (facts["release"] is None) is (damaged == "state/trust.json")


# --- follow status


async def test_follow_status(releases: ReleaseStore, session: aiohttp.ClientSession) -> None:
    now = int(time.time())
    links = {"ws://a": {"connected": True, "reason": ""}, "ws://b": {"connected": False, "reason": "refused"}}
    entry = {"running": True, "process": 1, "relays": links, "version": 2, "last_install": None, "updated_at": now}
    stale, ended = entry | {"updated_at": now - STALE_S}, entry | {"running": False}
    write_follow_status(releases, {"ab/tiny": entry, "ab/stale": stale, "ab/ended": ended})
    async with serving_releases(releases) as address:
        _, facts = await get_facts(session, address)
    assert facts["followed"][0] == {
        "name": "tiny",
        "running": True,
        "updated_at": now,
        "relays": [
            {"url": "ws://a", "connected": True, "reason": ""},
            {"url": "ws://b", "connected": False, "reason": "refused"},
        ],
    }
    assert [each["running"] for each in facts["followed"]] == [True, False, False]


@pytest.mark.parametrize(
    ("content", "followed"),
    [
        ([], []),
        (b"", []),
        (b"\xff{", []),
        ({"a/b": 5, "c": None, "": []}, []),
        ({"noslash": {}}, [{"name": "", "running": False, "updated_at": None, "relays": []}]),
        (
            {"a/b": {"running": "yes", "updated_at": "now", "relays": ["x"]}},
            [{"name": "b", "running": False, "updated_at": None, "relays": []}],
        ),
        (
            {"a/b": {"running": 1, "updated_at": 1e300, "relays": {"x": 5, "y": {"connected": 1, "reason": {}}}}},
            [
                {
                    "name": "b",
                    "running": False,
                    "updated_at": None,
                    "relays": [{"url": "y", "connected": False, "reason": None}],
                }
            ],
        ),
    ],
)
async def test_malformed_follow_status_is_tolerated(
    releases: ReleaseStore, session: aiohttp.ClientSession, content: object, followed: list[object]
) -> None:
    releases.store.activate(releases.install().id)
    write_follow_status(releases, content)
    async with serving_releases(releases) as address:
        status, facts = await get_facts(session, address)
    assert (status, facts["followed"], facts["release"]["version"]) == (200, followed, 1)


# --- packaging


@pytest.mark.full
def test_page_files_are_in_the_wheel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=600)
    [wheel] = tmp_path.glob("randygpt-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for path in (ROOT / "server" / "web").iterdir():
            assert archive.read(f"server/web/{path.name}") == path.read_bytes()
