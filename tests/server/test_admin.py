"""Operator routes: reload, and use of another release."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from support.release_store import ReleaseStore, without_checkpoint
from support.serving import config

from server.app import run_server
from server.models import ActiveModel
from server.reloader import Reloader

KEY = {"Authorization": "Bearer s3cret"}


@dataclass(slots=True, kw_only=True)
class Admin:
    """A server of the installed releases, called with its API key."""

    address: str
    session: aiohttp.ClientSession

    async def post(
        self, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str | None]]:
        async with self.session.post(f"{self.address}/admin/{path}", json=body, headers=headers or KEY) as response:
            return response.status, await response.json()


@pytest.fixture
async def admin(releases: ReleaseStore) -> AsyncIterator[Admin]:
    releases.store.activate(releases.install().id)
    active = ActiveModel()
    async with (
        run_server(active, Reloader(releases.store, active), config(api_keys=["s3cret"])) as address,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
    ):
        yield Admin(address=address, session=session)


async def test_reload_checks_the_current_release(releases: ReleaseStore, admin: Admin) -> None:
    second = releases.install()
    releases.store.activate(second.id)
    status, health = await admin.post("reload")
    assert (status, health["release"], health["failure"]) == (200, second.id.hex(), None)
    releases.store.activate(without_checkpoint(releases).id)
    status, health = await admin.post("reload")
    assert (status, health["release"]) == (200, second.id.hex())
    assert "No such file" in (health["failure"] or "")


async def test_use_swaps_without_changing_the_store(releases: ReleaseStore, admin: Admin) -> None:
    first, second = releases.store.current(), releases.install()
    assert first is not None
    before = releases.store.current_path.read_bytes()
    status, health = await admin.post("use", {"release": second.id.hex()})
    assert (status, health["release"]) == (200, second.id.hex())
    assert releases.store.current_path.read_bytes() == before
    assert (await admin.post("reload"))[1]["release"] == first.hex()


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"release": "ab" * 32}, 409, f"release {'ab' * 32} is not installed"),
        ({"release": "ab"}, 400, "release must be an event id, 64 hex digits"),
        ({"release": "zz" * 32}, 400, "release must be an event id"),
        ({"release": 5}, 400, "release must be an event id"),
        ([], 400, "must be a JSON object"),
    ],
)
async def test_use_refuses_a_release_that_is_not_installed(
    releases: ReleaseStore, admin: Admin, body: object, status: int, words: str
) -> None:
    found, reply = await admin.post("use", body)
    assert found == status
    assert words in (reply["error"] or "")
    async with admin.session.get(f"{admin.address}/health") as response:
        health = await response.json()
    assert (health["release"], health["failure"]) == ((releases.store.current() or b"").hex(), None)


async def test_use_refuses_a_damaged_release(releases: ReleaseStore, admin: Admin) -> None:
    release = releases.install()
    (release.folder / "release.json").write_bytes(b"{}")
    status, reply = await admin.post("use", {"release": release.id.hex()})
    assert status == 409
    assert "release.json: damaged" in (reply["error"] or "")


async def test_admin_routes_need_the_key(releases: ReleaseStore, admin: Admin) -> None:
    second = releases.install()
    releases.store.activate(second.id)
    assert (await admin.post("reload", headers={"X": "y"}))[0] == 401
    assert (await admin.post("use", {"release": second.id.hex()}, headers={"X": "y"}))[0] == 401
    async with admin.session.get(f"{admin.address}/health") as response:
        assert (await response.json())["release"] != second.id.hex()


async def test_admin_routes_are_off_without_keys(session: aiohttp.ClientSession, address: str) -> None:
    async with session.post(f"{address}/admin/reload") as response:
        assert response.status == 403
        assert "needs an API key" in (await response.json())["error"]
