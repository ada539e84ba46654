"""Model swaps: real releases in a real store, requests over real HTTP."""

import asyncio
import json
import re
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from support.memory import memory_for
from support.models import CONFIG, TOKENIZER, Gated, has_weights
from support.release_store import ReleaseStore, checkpoint, weights, without_checkpoint
from support.scrape import scrape, until_sequences
from support.serving import config

from distribution.installed import InstalledRelease
from randygpt.checkpoint.header import CheckpointHeader
from randygpt.model.config import ModelConfig
from server.app import run_server
from server.errors import Superseded
from server.models import ActiveModel, LoadedModel, load_release
from server.reloader import Reloader, ReloadTiming

WAIT_S = 60
AT_ONCE = pytest.mark.parametrize("timing", [ReloadTiming(retry_s=1e-9)], ids=["retry at once"])


@dataclass(slots=True, kw_only=True)
class Server:
    """A running server whose reloader checks the store only on demand."""

    address: str
    session: aiohttp.ClientSession
    reloader: Reloader
    active: ActiveModel

    async def ask(self, prompt: str = "the", max_tokens: int = 20) -> tuple[str, str]:
        """Return the release and the text of a completion."""
        fields = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        async with self.session.post(self.address, json=fields) as response:
            assert response.status == 200
            return response.headers["X-Release"], (await response.json())["text"]

    async def health(self) -> dict[str, str | None]:
        async with self.session.get(f"{self.address}/health") as response:
            assert response.status == 200
            found: dict[str, str | None] = await response.json()
            return found


@pytest.fixture
def timing() -> ReloadTiming:
    return ReloadTiming()


@pytest.fixture
async def server(releases: ReleaseStore, timing: ReloadTiming) -> AsyncIterator[Server]:
    active = ActiveModel()
    async with (
        run_server(active, None, config()) as address,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
    ):
        reloader = Reloader(releases.store, active, timing)
        yield Server(address=address, session=session, reloader=reloader, active=active)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 (there is nothing to wait on)
            await asyncio.sleep(0.001)


async def swap(releases: ReleaseStore, server: Server, release: InstalledRelease) -> None:
    releases.store.activate(release.id)
    await server.reloader.check()


async def test_first_release_becomes_active(releases: ReleaseStore, server: Server) -> None:
    await server.reloader.check()
    assert (await server.health())["status"] == "waiting for a first model"
    first = releases.install()
    await server.reloader.check()
    active = server.active.current
    assert active is None
    await swap(releases, server, first)
    assert await server.health() == {
        "status": "ok",
        "model": "tiny",
        "serving": "tiny version 1",
        "release": first.id.hex(),
        "failure": None,
    }
    assert (await server.ask())[0] == first.id.hex()
    assert server.active.current is not None
    assert has_weights(server.active.current.language_model.decoder, weights(1))


async def test_running_requests_finish_on_their_model(
    releases: ReleaseStore, server: Server, gate: threading.Event
) -> None:
    first, second = releases.install(), releases.install()
    await swap(releases, server, first)
    expected = await server.ask(max_tokens=600)
    assert server.active.current is not None
    language_model = server.active.current.language_model
    slow = replace(language_model, decoder=Gated(language_model.decoder, gate))
    server.active.current = LoadedModel(language_model=slow, release_id=first.id.hex(), label="gated")
    early = [asyncio.create_task(server.ask(max_tokens=600)) for _ in range(3)]
    await until_sequences(server.address, 3)
    await swap(releases, server, second)
    assert (await server.health())["release"] == second.id.hex()
    late = [asyncio.create_task(server.ask(max_tokens=600)) for _ in range(3)]
    await until_sequences(server.address, 6)
    gate.set()
    assert set(await asyncio.gather(*early)) == {expected}
    others = set(await asyncio.gather(*late))
    assert {release for release, _ in others} == {second.id.hex()}
    assert len(others) == 1
    assert expected[1] not in {text for _, text in others}


async def test_no_request_fails_or_mixes_models_during_swaps(releases: ReleaseStore, server: Server) -> None:
    pair = [releases.install(), releases.install()]
    texts = {}
    for release in pair:
        await swap(releases, server, release)
        texts[release.id.hex()] = (await server.ask(max_tokens=60))[1]
    assert len(set(texts.values())) == 2
    tasks = []
    for turn in range(12):
        tasks += [asyncio.create_task(server.ask(max_tokens=60)) for _ in range(4)]
        await until_submitted(server, 2 + 4 * turn + 1)
        await swap(releases, server, pair[turn % 2])
    replies = await asyncio.gather(*tasks)
    assert {release for release, _ in replies} == set(texts)
    assert all(text == texts[release] for release, text in replies)


async def until_submitted(server: Server, count: int) -> None:
    """Wait until this many requests reached the engine, each with a prompt of three tokens."""
    async with asyncio.timeout(WAIT_S):
        while (await scrape(server.address))["randygpt_prompt_tokens_total"] < 3 * count:
            pass


async def test_third_model_waits_for_the_first_to_drain(releases: ReleaseStore, server: Server) -> None:
    await swap(releases, server, releases.install())
    with server.active.lease() as oldest:
        await swap(releases, server, releases.install())
        second = server.active.current
        assert second is not oldest
        releases.store.activate(releases.install().id)
        third = asyncio.create_task(server.reloader.check())
        await asyncio.wait([third], timeout=0.3)  # long enough for a load that does not wait
        assert not third.done()
        assert server.active.current is second
    await third
    assert (await server.health())["serving"] == "tiny version 3"


async def test_active_release_is_not_loaded_again(releases: ReleaseStore, server: Server) -> None:
    first = releases.install()
    await swap(releases, server, first)
    loaded = server.active.current
    signal = releases.store.current_path
    signal.write_bytes(signal.read_bytes() + b" ")
    await server.reloader.check()
    assert server.active.current is loaded
    assert server.active.failure is None


@pytest.mark.skipif(sys.platform != "linux", reason="what a thread reads is counted on Linux only")
def test_optimizer_state_is_not_read(releases: ReleaseStore) -> None:
    moments = np.full(2 * CONFIG.parameter_count, np.nan, np.float32)
    header = CheckpointHeader(magic="RGPT0003", vocab_size=CONFIG.vocab_size, iteration=0, step=1, best_loss=1.0)
    release = releases.install(checkpoint=header.encode() + weights(1).tobytes() + moments.tobytes())
    before = bytes_read()
    loaded = load_release(release)
    assert moments.nbytes > bytes_read() - before > weights(1).nbytes
    assert has_weights(loaded.language_model.decoder, weights(1))


def bytes_read() -> int:
    """Return the number of bytes that this thread has read from files."""
    return int(Path("/proc/thread-self/io").read_text(encoding="ascii").split()[1])


def with_a_damaged_record(releases: ReleaseStore) -> InstalledRelease:
    release = releases.install()
    (release.folder / "release.json").write_bytes(b"{}")
    return release


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


SHAPE = CONFIG.to_json("char")
WITH_NAN = np.where(np.arange(CONFIG.parameter_count) == 5, np.float32("nan"), weights(9))
HUGE = weights(9) * np.float32(1e37)
BROKEN: dict[str, tuple[Callable[[ReleaseStore], InstalledRelease], str]] = {
    "a NaN": (lambda releases: releases.install(checkpoint=checkpoint(WITH_NAN)), "NaN or infinity in wte"),
    "infinite logits": (lambda releases: releases.install(checkpoint=checkpoint(HUGE)), "its logits are not finite"),
    "an extra byte": (
        lambda releases: releases.install(checkpoint=checkpoint(weights(9)) + b"!"),
        "44953 bytes, but RGPT0002",
    ),
    "no checkpoint": (lambda releases: releases.install(checkpoint=b"GGUF"), "truncated"),
    "another shape": (lambda releases: releases.install(config=as_json(SHAPE | {"n_layer": 3})), "shape randygpt-3L"),
    "an impossible shape": (
        lambda releases: releases.install(config=as_json(SHAPE | {"n_head": 3})),
        "does not divide",
    ),
    "no shape": (lambda releases: releases.install(config=b"{"), "config.json: not JSON"),
    "a short vocabulary": (
        lambda releases: releases.install(vocab=as_json({"chars": TOKENIZER.chars[:-1]})),
        "the model has 31 tokens, the vocabulary 30",
    ),
    "no vocabulary": (lambda releases: releases.install(vocab=b"[]"), "vocab.json: "),
    "a missing file": (without_checkpoint, "No such file"),
    "a damaged record": (with_a_damaged_record, "release.json: damaged"),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_broken_release_leaves_the_old_one_active(releases: ReleaseStore, server: Server, how: str) -> None:
    make, words = BROKEN[how]
    await swap(releases, server, releases.install())
    before, healthy = await server.ask(), await server.health()
    await swap(releases, server, make(releases))
    found = await server.health()
    assert words in (found["failure"] or "")
    assert found | {"failure": None} == healthy
    assert await server.ask() == before
    later = releases.install()
    await swap(releases, server, later)
    found = await server.health()
    assert (found["release"], found["failure"]) == (later.id.hex(), None)


@AT_ONCE
async def test_broken_release_is_tried_once(
    releases: ReleaseStore, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    await swap(releases, server, releases.install(checkpoint=checkpoint(WITH_NAN)))
    await server.reloader.check()
    assert caplog.text.count("model swap failed: tiny version 1") == 1


@AT_ONCE
async def test_unreadable_release_is_retried(releases: ReleaseStore, server: Server) -> None:
    first, second = releases.install(), releases.install()
    await swap(releases, server, first)
    path = second.file("checkpoint").local_path
    path.rename(releases.home / "aside")
    await swap(releases, server, second)
    for failures in (2, 3):
        await server.reloader.check()
        assert server.active.failures == failures
        assert "No such file" in ((await server.health())["failure"] or "")
    (releases.home / "aside").rename(path)
    await server.reloader.check()
    found = await server.health()
    assert (found["release"], found["failure"], server.active.failures) == (second.id.hex(), None, 3)
    await server.reloader.check()
    assert server.active.swaps == 2


async def test_repaired_release_is_loaded(releases: ReleaseStore, server: Server) -> None:
    await swap(releases, server, releases.install())
    release = releases.install()
    path = release.file("checkpoint").local_path
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:-1])
    await swap(releases, server, release)
    await server.reloader.check()
    assert "44951 bytes" in (server.active.failure or "")
    assert server.active.failures == 1
    releases.version -= 1
    assert releases.install().id == release.id
    await server.reloader.check()
    assert ((await server.health())["release"], server.active.failure) == (release.id.hex(), None)


async def test_retry_waits_double_up_to_a_limit(
    releases: ReleaseStore, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = asyncio.get_running_loop()
    now = float(int(clock.time()))  # an integer, so that sums are exact
    monkeypatch.setattr(clock, "time", lambda: now)
    waits = []
    await swap(releases, server, without_checkpoint(releases))
    for _ in range(9):
        before, failures = now, server.active.failures
        while server.active.failures == failures:
            now += 0.5
            await server.reloader.check()
        waits.append(now - before)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@AT_ONCE
async def test_chosen_release_survives_a_retry(releases: ReleaseStore, server: Server) -> None:
    chosen, broken = releases.install(), without_checkpoint(releases)
    await swap(releases, server, broken)
    await server.reloader.use(chosen.id)
    await server.reloader.check()
    assert ((await server.health())["release"], server.active.failures) == (chosen.id.hex(), 1)


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory is kept on Linux only")
async def test_model_too_large_for_memory_leaves_the_old_one(releases: ReleaseStore, server: Server) -> None:
    await swap(releases, server, releases.install())
    before = await server.ask()
    config = replace(CONFIG, n_embd=32, n_layer=256, block_size=4096)  # 13 MB of weights, 268 MB of KV cache
    large = releases.install(
        checkpoint=checkpoint(np.zeros(config.parameter_count, dtype="<f4"), config),
        config=as_json(config.to_json("char")),
    )
    with memory_for(128 << 20):
        await swap(releases, server, large)
    failure = (await server.health())["failure"] or ""
    assert failure.startswith("tiny version 2: ")
    assert "memory" in failure
    assert await server.ask() == before


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "refs/current: damaged"),
        (b'{"release": "ab', "refs/current: damaged"),
        (b"[]", "refs/current: damaged"),
        (b'{"release": 5}', "refs/current: damaged"),
        (b'{"release": "zz"}', "refs/current: damaged"),
        (b'{"release": "' + b"ab" * 32 + b'"}', f"release {'ab' * 32} is not installed"),
    ],
)
async def test_damaged_ref_leaves_the_old_model(
    releases: ReleaseStore, server: Server, contents: bytes, words: str
) -> None:
    first = releases.install()
    await swap(releases, server, first)
    releases.store.current_path.write_bytes(contents)
    await server.reloader.check()
    assert words in ((await server.health())["failure"] or "")
    assert (await server.ask())[0] == first.id.hex()
    releases.store.current_path.unlink()
    await swap(releases, server, first)
    assert (await server.health())["failure"] is None


@pytest.mark.parametrize("place", ["refs/current", "refs"])
async def test_damaged_store_leaves_the_old_model(releases: ReleaseStore, server: Server, place: str) -> None:
    first = releases.install()
    await swap(releases, server, first)
    path = releases.home / "store" / place
    path.rename(releases.home / "aside")
    path.mkdir() if place == "refs/current" else path.write_bytes(b"")
    await server.reloader.check()
    assert (await server.health())["failure"]
    assert (await server.ask())[0] == first.id.hex()


async def test_removed_ref_leaves_the_model(releases: ReleaseStore, server: Server) -> None:
    first = releases.install()
    await swap(releases, server, first)
    releases.store.current_path.unlink()
    await server.reloader.check()
    assert (await server.ask())[0] == first.id.hex()


async def test_server_polls_the_store(releases: ReleaseStore) -> None:
    active = ActiveModel()
    reloader = Reloader(releases.store, active, ReloadTiming(poll_s=0.001))
    async with run_server(active, reloader, config()):
        first = releases.install()
        releases.store.activate(first.id)
        await until(lambda: active.current is not None)
        releases.store.activate(without_checkpoint(releases).id)
        await until(lambda: active.failure is not None)
        third = releases.install()
        releases.store.activate(third.id)
        await until(lambda: active.failure is None)
        assert active.current is not None
        assert active.current.release_id == third.id.hex()


async def test_current_release_is_loaded_before_listening(releases: ReleaseStore) -> None:
    first = releases.install()
    releases.store.activate(first.id)
    active = ActiveModel()
    async with run_server(active, Reloader(releases.store, active), config()):
        assert active.current is not None
        assert active.current.release_id == first.id.hex()


def _zero_release(releases: ReleaseStore, config: ModelConfig) -> InstalledRelease:
    """Install a valid release of any shape whose weights are zeros."""
    vocab = {"chars": [chr(0x10000 + char) for char in range(config.vocab_size)]}
    return releases.install(
        checkpoint=checkpoint(np.zeros(config.parameter_count, "<f4"), config),
        vocab=json.dumps(vocab, ensure_ascii=False).encode(),
        config=json.dumps(config.to_json("char")).encode(),
    )


async def test_small_release_with_many_logits_takes_little_memory(releases: ReleaseStore, server: Server) -> None:
    wide = ModelConfig(n_embd=1, n_head=1, n_layer=1, vocab_size=1 << 16, block_size=1 << 12)  # 1 GiB of logits
    release = _zero_release(releases, wide)
    tracemalloc.start()
    await swap(releases, server, release)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert server.active.current is not None
    assert peak < 128 << 20


async def test_newer_release_interrupts_a_load(
    releases: ReleaseStore, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    slow = _zero_release(releases, ModelConfig(n_embd=32, n_head=32, n_layer=64, vocab_size=4, block_size=1 << 12))
    mended = releases.install()
    server.reloader = Reloader(releases.store, server.active, ReloadTiming(poll_s=0.001))
    caplog.set_level("INFO")
    releases.store.activate(slow.id)
    loading = asyncio.create_task(server.reloader.check())
    await asyncio.sleep(0.01)
    await swap(releases, server, mended)
    await loading
    assert (await server.health())["release"] == mended.id.hex()
    assert (server.active.swaps, server.active.failures) == (1, 0)
    assert "model swap ended early" in caplog.text


def test_superseded_load_ends(releases: ReleaseStore) -> None:
    superseded = threading.Event()
    superseded.set()
    with pytest.raises(Superseded):
        load_release(releases.install(), superseded=superseded)


async def test_model_over_the_memory_limit_is_refused(releases: ReleaseStore, server: Server) -> None:
    release = releases.install()
    server.reloader = Reloader(releases.store, server.active, max_memory=1 << 20)
    await swap(releases, server, release)
    failure = (await server.health())["failure"]
    assert failure is not None
    assert re.fullmatch(r"tiny version 1: a model of this shape takes about .* raise it with --max-memory", failure)


async def test_large_configuration_is_refused(releases: ReleaseStore, server: Server) -> None:
    await swap(releases, server, releases.install(config=b"[" + b"{}," * 400_000 + b"{}]"))
    assert str((await server.health())["failure"]).endswith("config.json: larger than 1 MiB")
