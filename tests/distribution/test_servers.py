"""Releases on Blossom servers: published to them, fetched from them, with honest and lying servers."""

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from support.blossom import FAST, PIECE, cut_small_files
from support.blossom_server import Answer, Asked, BlossomServer, blossom_server
from support.releases import WEIGHTS_ONLY, clock, fetch, many_sources, publish, tiny_sources, visible
from support.scripted_relay import ScriptedRelay

from distribution.blob_deletion import delete_blobs
from distribution.chunking import CHUNK_SIZE
from distribution.errors import ChunksMissing, InvalidManifest, NotFound, NotPublished
from distribution.events import CHUNK_KIND, Release, head_draft
from distribution.fetch import Fetcher
from distribution.local_release import read_manifest
from distribution.nip94 import file_drafts
from distribution.publish import Published
from distribution.server_hints import read_servers
from distribution.source import HashedSource, SourceFile
from distribution.store import Store
from distribution.trust import TrustPolicy
from relay_client.blossom.token import TOKEN_KIND
from relay_client.errors import SignerRefused
from relay_client.event import Event, EventDraft
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference
from relay_client.pool import Pool

CHUNKS = 11


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the small checkpoints of these tests, as large ones are."""
    cut_small_files(monkeypatch)


@pytest.fixture
async def servers() -> AsyncIterator[list[BlossomServer]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(blossom_server()) for _ in range(3)]


@pytest.fixture
async def server(servers: list[BlossomServer]) -> BlossomServer:
    return servers[0]


def urls(servers: Sequence[BlossomServer]) -> list[str]:
    return [each.url for each in servers]


def data_of(files: Sequence[SourceFile]) -> bytes:
    return files[0].read(0, files[0].size)


async def blossom_only(
    relay: ScriptedRelay, home: Path, key: SecretKey, servers: Sequence[BlossomServer], files: Sequence[SourceFile] = ()
) -> Published:
    return await publish(
        [relay.url],
        home / "author",
        key,
        files or many_sources(CHUNKS),
        servers=urls(servers),
        send_chunks=False,
        timeouts=FAST,
    )


def chunk_events(relay: ScriptedRelay) -> list[str]:
    """Return the contents of chunk events of files, not of manifests."""
    events = relay.events.values()
    named = {tag[1] for event in events for tag in event["tags"] if tag[0] == "e"}
    return [event["content"] for event in events if event["kind"] == CHUNK_KIND and event["id"] not in named]


# --- publishing


async def test_release_is_on_relays_and_servers(
    scripted: ScriptedRelay, servers: list[BlossomServer], tmp_path: Path, key: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path, key, many_sources(CHUNKS), servers=urls(servers), timeouts=FAST)
    assert len(chunk_events(scripted)) == CHUNKS + 2
    for each in servers:
        report = published.servers[each.url]
        assert (report.uploaded, report.present, report.refused) == (6, 0, 0)  # 3 pieces, 2 side files, the manifest
        assert max(map(len, each.blobs.values())) == PIECE
    manifest = published.manifest
    pieces = [blob for file in manifest.files for blob in manifest.blobs(file)]
    assert {blob.sha256.hex() for blob in pieces} < servers[0].blobs.keys()
    assert published.release.manifest_sha256.hex() in servers[0].blobs


class RefusingSigner(SecretKey):
    """A remote signer whose user refuses tokens."""

    async def sign_event(self, draft: EventDraft) -> Event:
        if draft.kind == TOKEN_KIND:
            raise SignerRefused("your signer refuses a token")
        return draft.sign(self)


async def test_refused_token_is_not_the_servers_fault(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path
) -> None:
    signer = RefusingSigner.generate()
    with pytest.raises(SignerRefused, match="refuses a token"):
        await blossom_only(scripted, tmp_path, signer, [server])
    with pytest.raises(SignerRefused, match="refuses a token"):
        await delete_blobs([server.url], [bytes(32)], signer=signer, now=clock, timeouts=FAST)
    assert (server.count("PUT"), server.count("DELETE")) == (0, 0)


async def test_blob_that_a_server_has_is_not_sent_again(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey
) -> None:
    first = await blossom_only(scripted, tmp_path, key, [server])
    lost = next(iter(server.blobs))
    del server.blobs[lost]
    server.asked.clear()
    again = await blossom_only(scripted, tmp_path, key, [server])
    report = again.servers[server.url]
    assert (again.release.id, report.uploaded, report.present) == (first.release.id, 1, 5)
    assert server.count("PUT") == 1


async def test_release_on_relays_is_added_to_a_server(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey
) -> None:
    first = await publish([scripted.url], tmp_path, key, many_sources(CHUNKS), timeouts=FAST)
    again = await publish([scripted.url], tmp_path, key, many_sources(CHUNKS), servers=[server.url], timeouts=FAST)
    assert again.release.id == first.release.id
    assert first.manifest.files[0].sha256.hex() in server.blobs  # its manifest names no pieces
    later = await publish([scripted.url], tmp_path, key, many_sources(CHUNKS + 1), servers=[server.url], timeouts=FAST)
    without = await publish([scripted.url], tmp_path, key, many_sources(CHUNKS + 1), timeouts=FAST)
    assert (without.release.id, later.resumed, without.resumed) == (later.release.id, False, True)


async def test_servers_are_asked_about_a_file_that_is_not_cut(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey
) -> None:
    await publish([scripted.url], tmp_path, key, many_sources(CHUNKS), timeouts=FAST)
    whole = str(CHUNKS * CHUNK_SIZE)
    server.script = lambda asked: Answer(status=413) if asked.headers.get("x-content-length") == whole else None
    again = await publish([scripted.url], tmp_path, key, many_sources(CHUNKS), servers=[server.url], timeouts=FAST)
    assert (again.servers[server.url].refused, server.count("PUT")) == (1, 0)


@pytest.mark.parametrize(
    "script",
    [
        lambda _: Answer(status=415, headers={"X-Reason": "images only"}),
        lambda asked: Answer(status=413) if asked.method == "PUT" else None,
        lambda asked: Answer(status=402, headers={"X-Lightning": "lnbc1u1x"}) if asked.method == "PUT" else None,
        lambda asked: Answer(status=404) if asked.method == "GET" else None,
        lambda asked: Answer(body=bytes(PIECE)) if asked.method == "GET" else None,
        lambda asked: Answer(status=200) if asked.method == "PUT" else None,
    ],
    ids=["type", "size", "payment", "forgets", "other bytes", "empty success"],
)
async def test_server_that_does_not_store_is_left_out(
    scripted: ScriptedRelay,
    servers: list[BlossomServer],
    tmp_path: Path,
    key: SecretKey,
    monkeypatch: pytest.MonkeyPatch,
    script: Callable[[Asked], Answer | None],
) -> None:
    monkeypatch.setattr("distribution.upload._READ_WAIT_S", 0.001)
    bad, good, _ = servers
    bad.script = script
    published = await blossom_only(scripted, tmp_path, key, [bad, good])
    assert bad.url in published.servers[bad.url].reason
    assert published.servers[good.url].uploaded == 6


async def test_without_a_server_nothing_is_visible(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey
) -> None:
    server.script = lambda asked: Answer(status=413) if asked.method == "PUT" else None
    with pytest.raises(NotPublished, match="takes no file of this size"):
        await blossom_only(scripted, tmp_path, key, [server])
    assert not scripted.events
    complete = await publish([scripted.url], tmp_path / "b", key, many_sources(CHUNKS), servers=[server.url])
    assert len(chunk_events(scripted)) == CHUNKS + 2
    assert complete.servers[server.url].refused


async def test_head_and_release_name_public_servers_only(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey
) -> None:
    await blossom_only(scripted, tmp_path, key, [server])
    assert not [tag for event in scripted.events.values() for tag in event["tags"] if tag[0] == "server"]


async def test_file_events_leave_pieces_out_and_prefer_public_servers(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey
) -> None:
    published = await blossom_only(scripted, tmp_path, key, [server])
    whole = [file.sha256.hex() for file in published.manifest.files if file.role != "checkpoint"]
    origins = [server.url, "https://a.example", "https://b.example"]
    drafts = file_drafts(published.release, published.manifest, origins, created_at=clock())
    urls_of = [[tag[1] for tag in draft.tags if tag[0] in {"url", "fallback"}] for draft in drafts]
    assert urls_of == [[f"{origin}/{sha256}.bin" for origin in origins[1:]] for sha256 in whole]
    assert file_drafts(published.release, published.manifest, [], created_at=clock()) == []


# --- fetching


async def test_release_on_servers_only_is_fetched(
    scripted: ScriptedRelay, servers: list[BlossomServer], tmp_path: Path, key: SecretKey
) -> None:
    published = await blossom_only(scripted, tmp_path, key, servers)
    fetched = await fetch([scripted.url], tmp_path / "b", published.release.id, servers=urls(servers), timeouts=FAST)
    assert fetched.release.file("checkpoint").local_path.read_bytes() == data_of(many_sources(CHUNKS))
    counts = fetched.chunks.servers
    assert sum(each.bytes for each in counts.values()) == published.release.size
    assert all(each.rejected == 0 for each in counts.values())
    archive = Store(tmp_path / "b").event_archive
    assert archive.manifest(published.release.id)  # its signed events came from the relay


def named_servers(relay: ScriptedRelay, release: Release, key: SecretKey, *servers: str) -> None:
    """Publish a head of a release that names servers."""
    draft = head_draft(release, hint=relay.url, created_at=clock() + 1, servers=servers)
    put(relay, draft.sign(key))


def server_list(key: SecretKey, *servers: str, created_at: int) -> Event:
    tags = tuple(("server", origin) for origin in servers)
    return EventDraft(kind=10063, created_at=created_at, tags=tags).sign(key)


def put(relay: ScriptedRelay, event: Event) -> None:
    relay.events[event.id.hex()] = json.loads(event.to_json())


async def servers_to_ask(relay: ScriptedRelay, home: Path, key: SecretKey) -> tuple[list[str], list[str]]:
    """Return the servers that a fetch of the latest release would ask, and the relays that are in use then."""
    async with Pool([relay.url], timeouts=FAST, wait_for_all=False) as pool:
        chosen = ["http://127.0.0.1:1"]
        fetcher = Fetcher(pool=pool, store=Store(home), policy=TrustPolicy(), now=clock, servers=chosen)
        release = await fetcher.find(AddressReference(author=key.pubkey, name="demo"))
        return await fetcher.servers_for(release), pool.urls


async def test_authors_list_of_servers_is_asked_last(scripted: ScriptedRelay, tmp_path: Path, key: SecretKey) -> None:
    release = (await publish([scripted.url], tmp_path / "author", key, tiny_sources())).release
    listed = ["http://a.example", "https://127.0.0.1", *(f"https://{name}.example" for name in "bcde")]
    put(scripted, server_list(key, *listed, created_at=1))
    scripted.requests.clear()
    assert await servers_to_ask(scripted, tmp_path, key) == (["http://127.0.0.1:1"], [scripted.url])
    assert not [wanted for wanted in scripted.requests if 10063 in wanted.get("kinds", [])]
    named_servers(scripted, release, key, "https://named.example")
    few = ["http://127.0.0.1:1", "https://named.example"]
    assert (await servers_to_ask(scripted, tmp_path, key))[0] == [*few, "https://b.example", "https://c.example"]
    scripted.refuse = lambda wanted: "blocked: kind" if 10063 in wanted.get("kinds", []) else ""
    assert await servers_to_ask(scripted, tmp_path, key) == (few, [scripted.url])


def test_list_of_servers_counts_if_its_author_signed_it(key: SecretKey, stranger: SecretKey) -> None:
    signed = server_list(key, "https://a.example", created_at=1)
    others = server_list(stranger, "https://b.example", created_at=2)
    answers = [("wss://relay.example", json.loads(event.to_json())) for event in (others, signed)]
    forged = answers[1][1] | {"tags": [["server", "https://c.example"]], "created_at": 3}
    assert read_servers([*answers, ("wss://relay.example", forged)], key.pubkey) == ["https://a.example"]
    assert read_servers(answers[:1], key.pubkey) == []


async def test_reader_without_servers_says_what_is_missing(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey
) -> None:
    published = await blossom_only(scripted, tmp_path, key, [server])
    with pytest.raises(ChunksMissing, match="13 of 13 chunks"):
        await fetch([scripted.url], tmp_path / "b", published.release.id, timeouts=FAST)
    assert not visible(tmp_path / "b").keys() - {"state/seen.json"}


def changed(honest: Answer, body: bytes) -> Answer:
    return Answer(status=honest.status, headers=honest.headers, body=body)


BAD: dict[str, Callable[[Answer], Answer]] = {
    "lies": lambda honest: changed(honest, bytes(len(honest.body))),
    "lies at the end": lambda honest: changed(honest, honest.body[:-1] + b"\xff"),
    "short": lambda honest: Answer(status=206, headers={**honest.headers, "Content-Length": ""}, body=honest.body[:9]),
    "silent": lambda _: Answer(headers={"Content-Length": "9"}, hang=True),
    "wrong range": lambda _: Answer(status=206, headers={"Content-Range": "bytes 0-9/10"}, body=bytes(10)),
    "gzip": lambda honest: Answer(headers={"Content-Encoding": "gzip"}, body=honest.body),
    "empty": lambda _: Answer(status=404),
    "forbidden": lambda _: Answer(status=403),
    "no such range": lambda _: Answer(status=416),
    "broken": lambda _: Answer(status=500),
    "busy": lambda _: Answer(status=503),
    "redirects": lambda _: Answer(status=302, headers={"Location": f"/{'00' * 32}"}),
}


def misbehave(server: BlossomServer, how: str) -> None:
    server.script = lambda asked: BAD[how](server.honest(asked)) if asked.method == "GET" else None


@pytest.mark.parametrize("how", BAD)
async def test_two_bad_servers_do_not_stop_a_third(
    scripted: ScriptedRelay, servers: list[BlossomServer], tmp_path: Path, key: SecretKey, how: str
) -> None:
    published = await blossom_only(scripted, tmp_path, key, servers)
    for bad in servers[:2]:
        misbehave(bad, how)
    fetched = await fetch([scripted.url], tmp_path / "b", published.release.id, servers=urls(servers), timeouts=FAST)
    assert fetched.release.file("checkpoint").local_path.read_bytes() == data_of(many_sources(CHUNKS))
    counts = fetched.chunks.servers
    assert counts[servers[2].url].rejected == 0
    assert all((counts[bad.url].rejected > 0) == how.startswith("lies") for bad in servers[:2])
    assert set(fetched.misbehaving) == ({bad.url for bad in servers[:2]} if how.startswith("lies") else set())


async def test_lie_costs_one_range(
    scripted: ScriptedRelay, servers: list[BlossomServer], tmp_path: Path, key: SecretKey
) -> None:
    published = await blossom_only(scripted, tmp_path, key, servers[:2])
    misbehave(servers[0], "lies")
    fetched = await fetch(
        [scripted.url], tmp_path / "b", published.release.id, servers=urls(servers[:2]), timeouts=FAST
    )
    assert 1 <= fetched.chunks.servers[servers[0].url].rejected <= 2  # ranges in flight at once


async def test_server_without_ranges_is_used(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey
) -> None:
    published = await blossom_only(scripted, tmp_path, key, [server])
    server.script = lambda asked: Answer(body=server.blobs[asked.path[1:]]) if asked.method == "GET" else None
    server.asked.clear()
    fetched = await fetch([scripted.url], tmp_path / "b", published.release.id, servers=[server.url], timeouts=FAST)
    assert fetched.chunks.servers[server.url].bytes == published.release.size


async def test_relays_give_what_servers_lack(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey
) -> None:
    published = await publish([scripted.url], tmp_path, key, many_sources(CHUNKS), servers=[server.url], timeouts=FAST)
    piece = next(iter(published.manifest.blobs(published.manifest.files[0])))
    del server.blobs[piece.sha256.hex()]
    fetched = await fetch([scripted.url], tmp_path / "b", published.release.id, servers=[server.url], timeouts=FAST)
    assert fetched.chunks.servers[server.url].bytes == published.release.size - piece.size
    assert sum(fetched.chunks.relays.values()) == 4


async def test_only_missing_ranges_are_asked_for_again(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey
) -> None:
    published = await blossom_only(scripted, tmp_path, key, [server])
    pieces = list(published.manifest.blobs(published.manifest.files[0]))
    kept = server.blobs.pop(pieces[1].sha256.hex())
    with pytest.raises(ChunksMissing, match="4 of 13 chunks"):
        await fetch([scripted.url], tmp_path / "b", published.release.id, servers=[server.url], timeouts=FAST)
    server.add(kept)
    server.asked.clear()
    fetched = await fetch([scripted.url], tmp_path / "b", published.release.id, servers=[server.url], timeouts=FAST)
    assert {asked.path for asked in server.asked} == {f"/{pieces[1].sha256.hex()}"}
    assert (fetched.chunks.reused, fetched.chunks.servers[server.url].bytes) == (9, PIECE)


@pytest.mark.parametrize("piece", [PIECE, 1 << 20], ids=["pieces", "one blob"])
async def test_weights_alone_need_their_bytes_only(
    scripted: ScriptedRelay,
    server: BlossomServer,
    tmp_path: Path,
    key: SecretKey,
    monkeypatch: pytest.MonkeyPatch,
    piece: int,
) -> None:
    monkeypatch.setattr("distribution.source.CUT_ABOVE", piece)
    published = await blossom_only(scripted, tmp_path, key, [server], tiny_sources())
    server.served = 0
    fetched = await fetch(
        [scripted.url],
        tmp_path / "b",
        published.release.id,
        weights=WEIGHTS_ONLY,
        servers=[server.url],
        timeouts=FAST,
    )
    weights = published.manifest.files[0].segments[0]
    assert fetched.release.file("checkpoint").size == weights.size
    assert fetched.release.partial
    assert server.served == weights.size + sum(file.size for file in published.manifest.files[1:])


async def test_manifest_that_contradicts_its_blobs_is_refused(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = bytes(PIECE)
    digest, honest = hashlib.sha256(wrong).digest(), SourceFile.hash

    def forged(file: SourceFile, blob_size: int | None = None) -> HashedSource:
        hashed = honest(file, blob_size)
        return replace(hashed, pieces=digest + hashed.pieces[32:]) if hashed.pieces else hashed

    monkeypatch.setattr(SourceFile, "hash", forged)
    server.blobs[digest.hex()] = data_of(many_sources(CHUNKS))[:PIECE]  # as the author's program expects
    published = await blossom_only(scripted, tmp_path, key, [server])
    server.blobs[digest.hex()] = wrong
    with pytest.raises(InvalidManifest, match="a chunk in it does not"):
        await fetch([scripted.url], tmp_path / "b", published.release.id, servers=[server.url], timeouts=FAST)


async def test_manifest_that_relays_lost_comes_from_a_server(
    scripted: ScriptedRelay, server: BlossomServer, tmp_path: Path, key: SecretKey
) -> None:
    published = await blossom_only(scripted, tmp_path, key, [server])
    for event_id in published.release.manifest_ids:
        del scripted.events[event_id.hex()]
    fetched = await fetch([scripted.url], tmp_path / "b", published.release.id, servers=[server.url], timeouts=FAST)
    assert read_manifest(Store(tmp_path / "b"), published.release) == published.manifest
    server.blobs[published.release.manifest_sha256.hex()] = bytes(99)
    with pytest.raises(NotFound, match="no relay has the manifest"):
        await fetch([scripted.url], tmp_path / "c", published.release.id, servers=[server.url], timeouts=FAST)
    assert fetched.release.id == published.release.id
