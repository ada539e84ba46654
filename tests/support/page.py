"""The model card of page tests, and readers of the server's page."""

from support.browser import Tab
from support.models import CONFIG

CARD = {
    "license": "MIT",
    "config": CONFIG.to_json("char"),
    "training": {
        "iteration": 1000,
        "best_loss": "1.4",  # not a number
        "val_loss": 1.4821,
        "history": [[0, 4.1, 4.2], [250, 2.5, 2.6], [500, 1.9, 2.0], [1000, 1.4, 1.5]],
    },
}


async def facts(page: Tab, lists: str = "#facts") -> dict[str, str]:
    """Return the terms of a description list with their descriptions, after opening what is folded."""
    await unfold(page)
    pairs = f"[...document.querySelectorAll('{lists} dt')].map((term) => [term.innerText, term.nextSibling.innerText])"
    return dict(await page.run(pairs))


async def unfold(page: Tab) -> None:
    await page.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")


async def shows_version(page: Tab, version: int) -> None:
    await page.until(f"document.querySelector('#headline').innerText === 'tiny, version {version}'")
