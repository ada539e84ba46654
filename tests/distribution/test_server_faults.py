"""Releases on the built-in Blossom server through a network with faults: slow, cut, reset, a byte a second."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.blossom import FAST, blob_server, cut_small_files
from support.proxy import Proxy, proxy_to
from support.releases import fetch, many_sources, publish
from support.scripted_relay import ScriptedRelay

from distribution.chunking import CHUNK_SIZE
from distribution.fetch import Fetched
from distribution.publish import Published
from relay_client.keys import SecretKey

CHUNKS = 11
RANGE = 2 * CHUNK_SIZE
TRICKLE = pytest.param({"trickle": True}, id="byte a second", marks=pytest.mark.full)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small_files(monkeypatch)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    async with blob_server(tmp_path / "blobs") as origin:
        yield origin


@pytest.fixture
async def proxy(server: str) -> AsyncIterator[Proxy]:
    async with proxy_to(server) as running:
        yield running


async def publish_to(relay: ScriptedRelay, home: Path, key: SecretKey, *servers: str) -> Published:
    files = many_sources(CHUNKS)
    return await publish([relay.url], home, key, files, servers=servers, send_chunks=False, timeouts=FAST)


async def fetch_from(relay: ScriptedRelay, home: Path, published: Published, *servers: str) -> Fetched:
    fetched = await fetch([relay.url], home, published.release.id, servers=servers, timeouts=FAST)
    files = many_sources(CHUNKS)
    assert fetched.release.file("checkpoint").local_path.read_bytes() == files[0].read(0, files[0].size)
    return fetched


def break_network(proxy: Proxy, faults: dict[str, object]) -> None:
    for name, value in faults.items():
        setattr(proxy, name, value)


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param({"delay_s": 0.01}, id="slow"),
        pytest.param({"cut_after": RANGE + 5_000}, id="cut"),
        pytest.param({"cut_after": RANGE + 5_000, "reset": True}, id="reset"),
    ],
)
async def test_fetch_succeeds_from_one_server(
    scripted: ScriptedRelay, server: str, proxy: Proxy, tmp_path: Path, key: SecretKey, faults: dict[str, object]
) -> None:
    published = await publish_to(scripted, tmp_path / "author", key, server)
    break_network(proxy, faults)
    fetched = await fetch_from(scripted, tmp_path / "reader", published, proxy.url)
    assert fetched.chunks.servers[proxy.url].rejected == 0
    assert bool(proxy.cuts) == ("cut_after" in faults)


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param({"cut_after": RANGE // 2}, id="cut in each range"),
        pytest.param({"cut_after": RANGE // 2, "reset": True}, id="reset in each range"),
        pytest.param({"cut_after": RANGE // 2, "dies": True}, id="dies"),
        TRICKLE,
    ],
)
async def test_faults_cost_their_own_range_only(
    scripted: ScriptedRelay, server: str, proxy: Proxy, tmp_path: Path, key: SecretKey, faults: dict[str, object]
) -> None:
    published = await publish_to(scripted, tmp_path / "author", key, server)
    break_network(proxy, faults)
    async with proxy_to(server) as good:
        fetched = await fetch_from(scripted, tmp_path / "reader", published, proxy.url, good.url)
        assert good.passed < published.release.size + RANGE + 20_000  # with the headers of responses
    assert proxy.cuts or proxy.trickle
    assert sum(each.bytes for each in fetched.chunks.servers.values()) == published.release.size
    assert fetched.misbehaving == []


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param({"delay_s": 0.01}, id="slow"),
        pytest.param({"cut_after": CHUNK_SIZE + 5_000}, id="cut"),
        pytest.param({"cut_after": CHUNK_SIZE + 5_000, "reset": True}, id="reset"),
    ],
)
async def test_publish_succeeds_through_faults(
    scripted: ScriptedRelay, server: str, proxy: Proxy, tmp_path: Path, key: SecretKey, faults: dict[str, object]
) -> None:
    break_network(proxy, faults)
    published = await publish_to(scripted, tmp_path / "author", key, proxy.url)
    report = published.servers[proxy.url]
    assert (report.uploaded + report.present, report.refused) == (6, 0)
    assert bool(proxy.cuts) == ("cut_after" in faults)
    await fetch_from(scripted, tmp_path / "reader", published, server)


@pytest.mark.parametrize("faults", [pytest.param({"cut_after": 20}, id="cut in each answer"), TRICKLE])
async def test_publish_leaves_out_a_server_without_answers(
    scripted: ScriptedRelay, proxy: Proxy, tmp_path: Path, key: SecretKey, faults: dict[str, object]
) -> None:
    async with blob_server(tmp_path / "others") as other:
        break_network(proxy, faults)
        published = await publish_to(scripted, tmp_path / "author", key, proxy.url, other)
        assert published.servers[proxy.url].reason
        assert proxy.connections
        assert published.servers[other].uploaded == 6
        await fetch_from(scripted, tmp_path / "reader", published, other)
