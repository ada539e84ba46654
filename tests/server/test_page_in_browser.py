"""The page in Chromium, against a real server."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.browser import CTRL, GIVE_UP_S, Tab, tab
from support.following import Follow
from support.models import CONFIG, endless, write_tiny
from support.page import CARD, facts, shows_version, unfold
from support.release_store import ReleaseStore, without_checkpoint
from support.scrape import sequence_count
from support.serving import serving, serving_releases

from distribution.ancestors import Ancestor, Lineage
from distribution.events import RELEASE_KIND
from distribution.trust_list import TrustStore
from randygpt.model.decoder import Array, Decoder
from randygpt.user.home import Home
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_nevent, encode_npub
from server.models import LoadedModel, load_file

pytestmark = pytest.mark.full

KEY = "s3cret"


class Paced(Decoder):
    """A network that takes one decode step for each release of `turns`."""

    def __init__(self, other: Decoder) -> None:
        self.__dict__.update(other.__dict__)
        self.turns = threading.Semaphore(0)

    def forward(self, *facts: Any, **options: Any) -> Array:  # noqa: ANN401 (passed on)
        self.turns.acquire()
        return super().forward(*facts, **options)


@pytest.fixture
async def paced() -> AsyncIterator[tuple[Paced, str]]:
    """Give a paced network and the address of its server."""
    model = endless()
    decoder = Paced(model.decoder)
    loaded = LoadedModel(language_model=replace(model, decoder=decoder), release_id=None, label="paced")
    async with serving(loaded) as address:
        try:
            yield decoder, address
        finally:
            decoder.turns.release(10_000)


# --- generation


@pytest.mark.parametrize("way", ["button", "Escape"])
async def test_page_streams_and_stop_frees_the_slot(page: Tab, paced: tuple[Paced, str], way: str) -> None:
    decoder, address = paced
    await page.go(address)
    await page.fill("#prompt", "the quick")
    await page.click("#generate")
    for more in range(1, 4):
        decoder.turns.release()
        await page.until(f"document.querySelector('#output').textContent.length === {more}")
        assert re.fullmatch(rf"{more} tokens, \d+ tokens/s", await page.text("#status"))
    assert await page.text("#prompt-echo") == "the quick"
    assert await sequence_count(address) == 1
    assert await page.focused() == "Stop"
    if way == "button":
        await page.press("Enter")
    else:
        await page.press("Escape")
    await page.until("document.querySelector('#status').innerText.startsWith('stopped after 3 tokens, ')")
    async with asyncio.timeout(GIVE_UP_S):
        while await sequence_count(address):  # noqa: ASYNC110 (the server is asked)
            await asyncio.sleep(0.02)
    assert await page.focused() == "Generate"
    assert await page.run("document.querySelector('#stop').disabled")
    assert page.console == []


async def test_page_says_that_characters_were_dropped(page: Tab, releases: ReleaseStore) -> None:
    releases.store.activate(releases.install().id)
    async with serving_releases(releases) as address:
        await page.go(address)
        await page.fill("#prompt", "the λόγος")
        await page.click("#generate")
        await page.until("/: (end of text|token limit)/.test(document.querySelector('#status').innerText)")
        assert "; 5 characters of the prompt are not in the model's vocabulary" in await page.text("#status")


async def test_page_sends_the_sampling_controls(page: Tab, releases: ReleaseStore) -> None:
    release = releases.install()
    releases.store.activate(release.id)
    asked = {"temperature": 1.3, "top_p": 0.95, "top_k": 12, "min_p": 0.01, "repeat_penalty": 1.1}
    asked |= {"max_tokens": 300, "seed": -5}
    async with serving_releases(releases) as address, aiohttp.ClientSession() as session:
        async with session.post(f"{address}/v1/completions", json={"prompt": "the", **asked}) as response:
            expected = (await response.json())["choices"][0]["text"]
        await page.go(address)
        await page.click("#sampling summary")
        for name, value in asked.items():
            await page.fill(f"#{name}", str(value))
        await page.fill("#prompt", "the")
        await page.press("Enter", CTRL)
        await page.until("document.querySelector('#status').innerText.includes('token limit reached')")
    assert await page.run("document.querySelector('#output').textContent") == expected
    assert re.match(r"300 tokens, [1-9]\d* tokens/s", await page.text("#status"))
    assert f"release {release.id.hex()[:12]}" in await page.text("#status")
    assert page.console == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", "-1", "Temperature: Value must be greater than or equal to 0."),
        ("temperature", "", ""),
        ("max_tokens", "5000", "Max tokens: Value must be less than or equal to 4096."),
        ("top_k", "1.5", "Top-k (0: all): Please enter a valid value."),
        ("seed", "e", "Seed: Please enter a number."),
        ("top_p", "0", "top_p must be greater than 0 and at most 1"),
    ],
)
async def test_invalid_control_is_reported(
    page: Tab, releases: ReleaseStore, field: str, value: str, message: str
) -> None:
    releases.store.activate(releases.install().id)
    async with serving_releases(releases) as address:
        await page.go(address)
        await page.run("document.querySelector('#output').textContent = 'what was there'")
        await page.run("document.querySelector('#sampling').open = true")
        await page.fill(f"#{field}", value)
        await page.run("document.querySelector('#sampling').open = false")
        await page.click("#generate")
        if message:
            await page.until(f"document.querySelector('#error').innerText.startsWith({json.dumps(message)})")
        else:
            await page.until("document.querySelector('#status').innerText.includes('token limit reached')")
    if message.startswith("top_p"):
        return
    is_wrong = bool(message)
    assert await page.run(f"document.querySelector('#{field}').getAttribute('aria-invalid')") == str(is_wrong).lower()
    assert await page.run("document.querySelector('#sampling').open") is is_wrong
    assert (await page.text("#output") == "what was there") is is_wrong
    assert await page.run("document.activeElement.id") == (field if is_wrong else "generate")
    assert any(request["method"] == "POST" for request in page.requests) is not is_wrong


async def test_page_survives_a_server_restart(page: Tab, releases: ReleaseStore, free_port: int) -> None:
    releases.store.activate(releases.install().id)
    model = endless()
    decoder = Paced(model.decoder)
    loaded = LoadedModel(language_model=replace(model, decoder=decoder), release_id=None, label="paced")
    async with serving(loaded, port=free_port, shutdown_timeout_s=0.1) as address:
        await page.go(address)
        await page.run("window.marker = 1")
        await page.click("#generate")
        decoder.turns.release()
        await page.until("document.querySelector('#output').textContent.length === 1")
        threading.Timer(5, decoder.turns.release, [10_000]).start()  # lets its worker end
    await page.until("document.querySelector('#error').innerText.startsWith('the connection was lost before')")
    assert (await page.text("#status")).startswith("interrupted after 1 tokens")
    await page.until("document.querySelector('#headline').innerText === 'the server does not respond'")
    async with serving_releases(releases, port=free_port):
        await shows_version(page, 1)
        assert await page.run("window.marker") == 1


# --- provenance


async def test_page_shows_the_active_release(page: Tab, releases: ReleaseStore, key: SecretKey) -> None:
    release = releases.install(card=CARD)
    releases.store.activate(release.id)
    async with serving_releases(releases) as address:
        await page.go(address)
        await shows_version(page, 1)
        assert not await page.run("document.querySelector('#trust').checkVisibility()")  # the operator's business
        origin, first = await facts(page, "#origin"), await page.text("#trust")
        await TrustStore(releases.home).add(key.pubkey, "alice")
        await page.until("document.querySelector('#trust').innerText.includes('alice')")
        assert await page.run("document.title") == "tiny, version 1 · randygpt"
        found, card = await facts(page), await facts(page, "#card")
        named = await facts(page, "#origin")
        figures, words = await facts(page, "#figures"), await page.text("#words")
        await page.allow("clipboardReadWrite", "clipboardSanitizedWrite")
        await page.click("#facts button[aria-label^='copy " + release.id.hex()[:12] + "']")
        await page.until("[...document.querySelectorAll('#facts button')].some((each) => each.innerText === 'copied')")
        assert await page.run("navigator.clipboard.readText()") == release.id.hex()
    npub, sha256 = encode_npub(key.pubkey), release.file("checkpoint").sha256.hex()
    short = f"{npub[:12]}…{npub[-6:]}"
    assert first.endswith(f"not on your trust list. To add the key: randygpt trust add {npub} NAME")
    assert (origin["Signed by"], named["Signed by"], named["License"]) == (short, f"alice ({short})", "MIT")
    assert list(figures.items()) == [("parameters", "11.2K"), ("validation loss", "1.48"), ("iterations", "1,001")]
    assert "one character at a time, out of the 31 that it knows, and sees the last 256" in words
    assert found["Shape"] == CONFIG.name
    assert [found[name].split()[0] for name in ("Key", "Release", "SHA-256")] == [npub, release.id.hex(), sha256]
    signed = await page.run("document.querySelector('#origin time').dateTime")
    assert signed == "2026-09-21T14:13:20.000Z"
    assert (card["license"], card["iteration"], card["val loss"], card["n embd"]) == ("MIT", "1,000", "1.4821", "16")
    assert await page.names("image") == ["validation loss from 4.200 to 1.500"]
    assert "validation (bold) 1.500, training 1.400" in await page.text("figcaption")
    lines = await page.run("[...document.querySelectorAll('polyline')].map((line) => line.getAttribute('points'))")
    assert [line.count(",") for line in lines] == [4, 4]
    assert page.console == []


async def test_page_follows_a_swap(page: Tab, releases: ReleaseStore) -> None:
    releases.store.activate(releases.install(card=CARD).id)
    async with serving_releases(releases) as address:
        await page.go(address)
        await shows_version(page, 1)
        await page.run("window.marker = 1")
        assert not await page.run("document.querySelector('#curve').hidden")
        second = releases.install()
        releases.store.activate(second.id)
        await shows_version(page, 2)
        assert (await facts(page))["Release"].startswith(second.id.hex())
        assert await page.run("document.querySelector('#curve').hidden")
        releases.store.activate(without_checkpoint(releases).id)
        await page.until("document.querySelector('#failure').textContent.includes('No such file')")
        assert await page.text("#headline") == "tiny, version 2"
        assert await page.run("window.marker") == 1
    assert page.console == []


async def test_page_switches_to_an_earlier_release(page: Tab, releases: ReleaseStore) -> None:
    first, second = releases.install(), releases.install()
    releases.store.activate(second.id)
    ref = releases.store.current_path.read_bytes()
    async with serving_releases(releases, api_keys=[KEY]) as address:
        await page.go(address)
        await page.until("document.querySelector('#headline').innerText === 'an API key is required'")
        assert await page.run("document.querySelector('#access').open")
        await page.run("new Promise((go) => { setTimeout(go, 4000) })")  # it polls every 3 s
        assert poll_count(page) == 1  # and stops until it has a valid key
        await page.fill("#key", f" {KEY}")
        await page.press("Tab")
        await shows_version(page, 2)
        assert not await page.run("document.querySelector('#access').open")
        await unfold(page)
        await page.run("document.querySelector('#releases button').focus()")
        assert await page.focused() == "use tiny 1"
        await page.press("Enter")
        await shows_version(page, 1)
        assert [line.split("\n")[-1] for line in await release_lines(page)] == ["use", "active"]
        assert await page.run("document.activeElement.id") == "releases"
        assert releases.store.current_path.read_bytes() == ref
        await page.click("#generate")
        await page.until(f"document.querySelector('#status').innerText.includes('release {first.id.hex()[:12]}')")
        await page.fill("#key", "wrong")
        await page.click("#releases button")
        await page.until("document.querySelector('#use-error').innerText === 'a valid API key is required'")
        assert await page.run("document.activeElement.id") == "key"
        await page.click("#generate")
        await page.until("document.querySelector('#error').innerText === 'a valid API key is required'")


def poll_count(page: Tab) -> int:
    """Return the number of polls."""
    return sum(request["url"].endswith("/provenance") for request in page.requests)


async def release_lines(page: Tab) -> list[str]:
    return list(await page.run("[...document.querySelectorAll('#releases li')].map((line) => line.innerText)"))


async def test_key_is_kept_for_the_tab_only(page: Tab, browser: str, releases: ReleaseStore) -> None:
    releases.store.activate(releases.install().id)
    async with serving_releases(releases, api_keys=[KEY]) as address, tab(browser) as other:
        await page.go(address)
        await page.until("document.querySelector('#access').open")
        await page.fill("#key", KEY)
        await page.press("Tab")
        await shows_version(page, 1)
        await page.go(address)
        await shows_version(page, 1)
        await other.go(address)
        await other.until("document.querySelector('#headline').innerText === 'an API key is required'")


async def test_page_without_keys_has_no_key_field(page: Tab, releases: ReleaseStore) -> None:
    releases.store.activate(releases.install().id)
    releases.install()
    async with serving_releases(releases) as address:
        await page.go(address)
        await shows_version(page, 1)
        await unfold(page)
        assert not await page.run("document.querySelector('#key').checkVisibility()")
        assert await page.run("document.querySelectorAll('#releases button').length") == 0
        assert "--api-key-file" in await page.text("#switching")


async def test_page_shows_how_to_get_the_release(page: Tab, releases: ReleaseStore) -> None:
    Home(releases.home).write_relays(["wss://relay.example", "wss://private.example/?token=secret"])
    release = releases.install()
    releases.store.activate(release.id)
    nevent = encode_nevent(release.id, author=release.author, kind=RELEASE_KIND, relays=["wss://relay.example"])
    async with serving_releases(releases) as address:
        await page.go(address)
        await shows_version(page, 1)
        await page.allow("clipboardReadWrite", "clipboardSanitizedWrite")
        await page.click("#fetch button")
        await page.until("document.querySelector('#fetch button').innerText === 'copied'")
        assert await page.run("navigator.clipboard.readText()") == f"randygpt fetch {nevent}"
        assert await page.run("document.querySelector('#nostr').href") == f"nostr:{nevent}"
    assert page.console == []


async def test_page_links_what_the_release_was_made_from(page: Tab, releases: ReleaseStore) -> None:
    ids = [bytes([number]) * 32 for number in range(3)]
    base, *merged = (Ancestor(release_id=each, author=releases.key.pubkey) for each in ids)
    release = releases.install(tags=Lineage(base=base, merged=tuple(merged)).tags)
    releases.store.activate(release.id)
    async with serving_releases(releases) as address:
        await page.go(address)
        await shows_version(page, 1)
        links = await page.run("[...document.querySelectorAll('#origin a')].map((link) => link.href)")
        labels = await page.run("[...document.querySelectorAll('#origin dt')].map((term) => term.textContent)")
    assert links == [f"nostr:{encode_nevent(each, author=base.author, kind=RELEASE_KIND, relays=[])}" for each in ids]
    assert [label for label in labels if label in {"Made from", "Merges"}] == ["Made from", "Merges", "Merges"]
    assert page.console == []


async def test_continue_extends_a_text_that_the_limit_ended(page: Tab, releases: ReleaseStore) -> None:
    releases.store.activate(releases.install().id)
    async with serving_releases(releases) as address, aiohttp.ClientSession() as session:
        await page.go(address)
        await page.run("document.querySelector('#sampling').open = true")
        await page.fill("#temperature", "0")
        await page.fill("#max_tokens", "5")
        await page.fill("#prompt", "the")
        assert not await page.run("document.querySelector('#continue').checkVisibility()")
        await page.click("#generate")
        await page.until("!document.querySelector('#continue').hidden")
        await page.fill("#prompt", "another prompt")
        await page.run("document.querySelector('#continue').focus()")
        await page.press("Enter")
        await page.until("document.querySelector('#output').textContent.length === 10")
        await page.until("!document.querySelector('#continue').hidden")
        body = {"prompt": "the", "max_tokens": 10, "temperature": 0}
        async with session.post(f"{address}/v1/completions", json=body) as response:
            expected = (await response.json())["choices"][0]["text"]
        assert await page.text("#text") == f"the{expected}"
        assert await page.focused() == "Generate"


async def test_page_shows_relay_status(page: Tab, releases: ReleaseStore, relay: str, key: SecretKey) -> None:
    releases.store.activate(releases.install().id)
    away = "ws://127.0.0.1:1"
    async with serving_releases(releases) as address:
        await page.go(address)
        await shows_version(page, 1)
        assert await page.run("document.querySelector('#relays').hidden")
        await unfold(page)
        await page.run("document.querySelector('#facts button').focus()")
        async with Follow([relay, away], releases.home, key.pubkey).running():
            await page.until("document.querySelectorAll('#relay-list .good').length === 1")
            await page.until(
                "document.querySelectorAll('#relay-list small').length === 2"
            )  # time, and the reason of the disconnected one
            shown = "[...document.querySelectorAll('#relay-list li')].map((line) => line.innerText)"
            first, *lines = await page.run(shown)
            assert first.startswith("demo: following")
            assert sorted(line.split("\n")[:2] for line in lines) == [[away, "disconnected"], [relay, "connected"]]
            assert not await page.run("document.querySelector('#relays').hidden")
        await page.until("document.querySelector('#relay-list').innerText.startsWith('demo: no longer followed')")
        assert await page.run("document.querySelectorAll('#relay-list .good').length") == 0
        assert (await page.focused()).startswith("copy npub1")
    assert page.console == []


# --- missing models


async def test_page_waits_for_the_first_release(page: Tab, releases: ReleaseStore) -> None:
    async with serving_releases(releases) as address:
        await page.go(address)
        await page.until("document.querySelector('#headline').innerText.startsWith('no model yet')")
        await page.click("#generate")
        await page.until("document.querySelector('#error').innerText === 'no model is loaded yet'")
        parts = await page.run("[...document.querySelectorAll('aside > *')].map((each) => each.hidden)")
        assert parts == [True, True, True]
        releases.store.activate(releases.install().id)
        await shows_version(page, 1)
        await page.click("#generate")
        await page.until("document.querySelector('#status').innerText.includes('token limit reached')")
        assert await page.text("#error") == ""


async def test_page_shows_a_model_file(page: Tab, tmp_path: Path) -> None:
    loaded = load_file(write_tiny(tmp_path / "m.bin"))
    async with serving(loaded) as address:
        await page.go(address)
        await page.until("document.querySelector('#headline').innerText === 'm'")
        found, figures = await facts(page), await facts(page, "#figures")
        assert await page.text("#trust") == f"The model is the file {loaded.label}"
        assert not await page.run("document.querySelector('#get').checkVisibility()")
    assert list(figures) == ["parameters", "context length", "vocabulary"]
    assert found["Shape"] == CONFIG.name
    assert found["SHA-256"].startswith(loaded.sha256)
    assert page.console == []
