"""Accessibility of the page: keyboard, screen reader, contrast, small screens."""

import re

import pytest
from support.browser import SHIFT, Tab
from support.page import CARD, shows_version
from support.release_store import ReleaseStore, without_checkpoint
from support.serving import serving_releases

pytestmark = pytest.mark.full


async def test_page_works_with_a_keyboard(page: Tab, releases: ReleaseStore) -> None:
    releases.store.activate(releases.install(card=CARD).id)
    releases.install()
    async with serving_releases(releases) as address:
        await page.go(address)
        await shows_version(page, 1)
        order = []
        for _ in range(8):
            await page.press("Tab")
            order.append(await page.focused())
            outline = await page.run("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", order
        assert [name.split(" ")[0] for name in order] == [
            *("Prompt", "Generate", "Sampling", "Text"),
            *("Hashes", "copy", "Open", "For"),
        ]
        for _ in range(5):
            await page.press("Tab", SHIFT)
        await page.press("Enter")
        inside = []
        for _ in range(7):
            await page.press("Tab")
            inside.append(await page.focused())
        more = ["Top-k (0: all)", "Min-p (0: all)", "Repeat penalty (1: off)", "Max tokens", "Seed"]
        assert inside == ["Temperature", "Top-p", *more]
    assert page.console == []


async def test_page_works_with_a_screen_reader(page: Tab, releases: ReleaseStore) -> None:
    releases.store.activate(releases.install(card=CARD).id)
    releases.install()
    async with serving_releases(releases) as address:
        await page.go(address)
        await shows_version(page, 1)
        await page.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")
        for role in ("textbox", "spinbutton", "button", "heading", "image", "form", "region", "complementary"):
            names = await page.names(role)
            assert names, role
            assert all(names), (role, names)
        parts = ["The model", "Get this model"]
        assert await page.names("heading") == ["randygpt", "Text", *parts, "Installed releases"]
        await page.run(
            "window.announced = [];"
            "new MutationObserver(() => announced.push(document.querySelector('#status').getAttribute('aria-live')))"
            ".observe(document.querySelector('#status'), { childList: true })"
        )
        await page.click("#generate")
        await page.until("document.querySelector('#status').innerText.includes('token limit reached')")
        announced = await page.run("announced")
    assert announced[-1] == "polite"
    assert set(announced[1:-1]) == {"off"}


CONTRASTS = """
  (() => {
    const part = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const light = (colour) => {
      const [red, green, blue] = colour.match(/[\\d.]+/g).map((value) => part(value / 255));
      return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const ground = (element) => {
      const colour = getComputedStyle(element).backgroundColor;
      return colour !== "rgba(0, 0, 0, 0)" || !element.parentElement ? colour : ground(element.parentElement);
    };
    return [...document.querySelectorAll("h1, h2, p, label, summary, small, dt, dd, code, button:enabled, span")]
      .filter((element) => element.checkVisibility() && element.innerText)
      .map((element) => {
        const [one, two] = [getComputedStyle(element).color, ground(element)].map(light);
        return [element.innerText.slice(0, 30), (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05)];
      });
  })()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_page_is_readable_in_both_schemes_and_small(page: Tab, releases: ReleaseStore, scheme: str) -> None:
    releases.store.activate(releases.install(card=CARD).id)
    releases.store.activate(without_checkpoint(releases).id)
    await page.scheme(scheme)
    await page.size(360, 740)
    async with serving_releases(releases) as address:
        await page.go(address)
        await page.until("document.querySelector('#failure').textContent")
        await page.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")
        await page.fill("#prompt", "the " * 100 + "w" * 500)
        await page.click("#generate")
        await page.until("document.querySelector('#error').innerText")
        contrasts = await page.run(CONTRASTS)
        ground = await page.run("getComputedStyle(document.documentElement).backgroundColor")
        assert await page.run("document.documentElement.scrollWidth") == 360
    assert len(contrasts) > 15
    assert [(text, ratio) for text, ratio in contrasts if ratio < 4.5] == []
    assert (sum(map(int, re.findall(r"\d+", ground))) > 3 * 128) is (scheme == "light")
