"""End to end under load: releases are published and fetched while clients read streams."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest
from support.releases import fetch, publish, tiny_sources
from support.serving import config

import randygpt
from distribution.store import Store
from randygpt.model.sampling import Sampling
from relay_client.keys import SecretKey
from server.app import run_server
from server.models import ActiveModel
from server.reloader import Reloader, ReloadTiming

FIELDS = {"prompt": "the", "max_tokens": 120, "temperature": 0, "ignore_eos": True, "stream": True}
CLIENTS = 6


async def stream(session: aiohttp.ClientSession, address: str) -> tuple[str, str]:
    """Return the release and the text of a stream; check that it names one release."""
    async with session.post(f"{address}/v1/completions", json=FIELDS) as response:
        assert response.status == 200
        release, events = response.headers["X-Release"], (await response.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    parts = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert {part["system_fingerprint"] for part in parts} == {f"fp_{release[:16]}"}
    assert parts[-1]["choices"][0]["finish_reason"] == "length"
    return release, "".join(part["choices"][0]["text"] for part in parts)


@pytest.mark.full
async def test_streams_survive_published_releases(relay: str, tmp_path: Path, key: SecretKey) -> None:
    author, home = tmp_path / "author", tmp_path / "home"
    ids = [(await publish([relay], author, key, tiny_sources(seed=seed))).release.id for seed in range(4)]
    await fetch([relay], home, ids[0])
    store, active = Store(home), ActiveModel()
    answers: list[tuple[str, str]] = []
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        run_server(active, Reloader(store, active, ReloadTiming(poll_s=0.01)), config(threads=2)) as address,
    ):

        async def keep_asking() -> None:
            while True:
                answers.append(await stream(session, address))

        clients = [asyncio.create_task(keep_asking()) for _ in range(CLIENTS)]
        try:
            for release_id in ids:
                await fetch([relay], home, release_id)
                async with asyncio.timeout(60):
                    while (await stream(session, address))[0] != release_id.hex():
                        pass
                begun = len(answers)
                async with asyncio.timeout(60):
                    while len(answers) < begun + CLIENTS:
                        assert not any(client.done() for client in clients)
                        await stream(session, address)
        finally:
            for client in clients:
                client.cancel()
            ended = await asyncio.gather(*clients, return_exceptions=True)
    assert {type(error) for error in ended} == {asyncio.CancelledError}
    sampling = Sampling(max_tokens=120, temperature=0, ignore_eos=True)
    expected = {}
    for release_id in ids:
        release = store.release(release_id)
        assert release
        model = randygpt.load(release.folder)
        expected[release_id.hex()] = "".join(model.stream("the", sampling))
    assert len({*expected.values()}) == len(ids)
    assert {release for release, _ in answers} == expected.keys()
    assert all(text == expected[release] for release, text in answers)
    assert (active.swaps, active.failures) == (len(ids), 0)
