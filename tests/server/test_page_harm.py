"""Attacks on the page in Chromium: hostile releases, injections, third-party pages."""

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web
from support.browser import Tab
from support.page import facts, shows_version
from support.release_store import ReleaseStore
from support.serving import serving_releases

from distribution.trust_list import TrustStore
from randygpt.user.home import Home
from relay_client.keys import SecretKey

pytestmark = pytest.mark.full

ACTIVE_ELEMENTS = "[...document.querySelectorAll('script, img, iframe, [onerror], [onclick]')].length"


STOPPED = ["require-trusted-types-for", "connect-src", "img-src", "frame-src", "style-src-elem", "style-src-attr"]


async def test_content_security_policy_blocks_injections(page: Tab, releases: ReleaseStore) -> None:
    asked = []

    async def anything(request: web.Request) -> web.Response:
        asked.append(request.path)
        headers = {"Access-Control-Allow-Origin": "*"}
        return web.Response(text="window.harmed = 1", content_type="text/javascript", headers=headers)

    async with serving_releases(releases) as address, elsewhere(anything) as other_site:
        await page.go(address)
        assert page.console == []
        await page.run(
            "window.add = (tag) => document.body.appendChild(document.createElement(tag)); window.stopped = [];"
            "addEventListener('securitypolicyviolation', (event) => stopped.push(event.effectiveDirective))"
        )
        for code in (
            "document.body.innerHTML = '<img src=x onerror=\"window.harmed = 1\">'",
            f"add('script').src = '{other_site}/s'",
            f"fetch('{other_site}/f')",
            "setTimeout('window.harmed = 1', 0)",
        ):
            with pytest.raises(AssertionError):
                await page.run(code)
        await page.run(f"navigator.sendBeacon('{other_site}/b')")
        for tag, name in (("img", "i"), ("iframe", "e")):
            await page.run(f"add('{tag}').src = '{other_site}/{name}'")
        await page.run("add('style').append('body { color: red }')")
        await page.run("document.body.setAttribute('style', 'color: red')")
        await page.run("add('script').append('window.harmed = 1')")
        await page.until(f"{STOPPED}.every((directive) => stopped.includes(directive))")
        assert await page.run("window.harmed") is None
        assert await page.run("getComputedStyle(document.body).color") != "rgb(255, 0, 0)"
        await page.complains("Content Security Policy")
    assert asked == []


@contextlib.asynccontextmanager
async def elsewhere(handler: Any) -> AsyncIterator[str]:  # noqa: ANN401 (aiohttp's)
    """Run a server of another origin; gives its address."""
    application = web.Application()
    application.router.add_route("*", "/{path}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_third_party_pages_cannot_frame_or_read_it(page: Tab, releases: ReleaseStore) -> None:
    releases.store.activate(releases.install().id)

    async def framing(request: web.Request) -> web.Response:
        frame = f'<iframe src="{request.query["of"]}" width=600></iframe>'
        return web.Response(text=f"<!doctype html><link rel=icon href=data:,>{frame}", content_type="text/html")

    async with serving_releases(releases) as address, elsewhere(framing) as other_site:
        await page.go(f"{other_site}/f?of={address}")
        await page.until("document.querySelector('iframe') !== null")
        with pytest.raises(AssertionError):
            await page.run(f"fetch('{address}/provenance')")
        await page.complains("frame-ancestors")


HOSTILE = "<img src=x onerror='window.harmed=1'><script>harmed=1</script>\u202egnp.exe\u2066\u0007\u001b[31m\ufeff"


async def test_hostile_release_is_shown_as_text(page: Tab, releases: ReleaseStore, key: SecretKey) -> None:
    nested: object = "deep"
    for _ in range(60):
        nested = {"deeper": [nested]} if isinstance(nested, str) else [nested]
    card = {
        HOSTILE: HOSTILE,
        "__proto__": {"harmed": 1},
        "about": "w" * 20_000,
        "nested": nested,
        **{f"field_{number}": number for number in range(1000)},
        "config": [HOSTILE],
        "training": {
            "toString": HOSTILE,
            "loss": -0.0,
            "large": 1e300,
            "history": [
                *([number, HOSTILE, 2] for number in range(3)),
                *([], [1], [1, 2, None], [1e300, 1e300, 1e300], 5, None, {"0": 1}, ["1", "2", "3"]),
                *([9, 2, 3], [1, 1.5, -7]),
            ],
        },
    }
    releases.store.activate(releases.install(card=card).id)
    await TrustStore(releases.home).add(key.pubkey, "<b onclick='harmed=1'>eve</b>")
    status = {"running": True, "updated_at": 10**18, "relays": {HOSTILE: {"connected": "yes", "reason": HOSTILE}}}
    Home(releases.home).follow_path.write_bytes(orjson.dumps({f"ab/{HOSTILE}": status, "ab/x": {"updated_at": -1}}))
    async with serving_releases(releases) as address:
        await page.size(360, 740)
        await page.go(address)
        before = await page.run(ACTIVE_ELEMENTS)
        await shows_version(page, 1)
        await page.until("document.querySelectorAll('#relay-list li').length === 3")
        await page.fill("#prompt", HOSTILE)
        await page.click("#generate")
        await page.until("document.querySelector('#status').innerText.includes('token limit reached')")
        shown = await page.run("document.querySelector('aside').textContent")
        assert await page.run("document.querySelectorAll('#card dt').length") == 60
        assert "<img src=x onerror='window.harmed=1'>" in shown
        assert "\\u{202e}gnp.exe\\u{2066}\\u{7}\\u{1b}[31m\\u{feff}" in shown
        assert not re.search("[\u202e\u2066\u0007\u001b\ufeff]", shown)
        assert "unknown time" in shown
        assert (await facts(page, "#origin"))["Signed by"].startswith("<b onclick='harmed=1'>eve</b> (npub1")
        assert await page.run("document.querySelector('#prompt-echo').textContent") == HOSTILE
        lines = await page.run("[...document.querySelectorAll('polyline')].map((line) => line.getAttribute('points'))")
        assert [line.count(",") for line in lines] == [2, 2]
        assert await page.run(ACTIVE_ELEMENTS) == before == 2  # its own scripts
        assert await page.run("document.documentElement.scrollWidth") == 360
    assert await page.run("[window.harmed, {}.harmed]") == [None, None]
    assert page.console == []
