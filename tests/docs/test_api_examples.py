"""The examples in docs/api.md, run as they are with a relay, a key and a checkpoint."""

import re
from pathlib import Path

import pytest
from support.models import write_tiny

from randygpt import blocking
from randygpt.user import signing_key
from randygpt.user.home import Home
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
EXAMPLES = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
OUTPUT = {
    "Publish and fetch": r"nevent1\w+ 1\n.*checkpoint_best\.bin npub1\w+\n",
    "Search": r"tales 1 npub1\w+ \d+ \d+ 2\.5 None\n",
    "Generate text": r"(?s).*torch\.Size\(\[1, 3, \d+\]\)\n\d+ \[.*\]\n",
    "With asyncio": r"latest: 1\ninstalled: 1 .*checkpoint_best\.bin\n",
    "Errors": r"try again later: .*0{64}.*\n",
    "Nostr events": r"ws://.* hello\n",
    "Releases of other files": r"(?s)checkpoint 100000 home.*model\.bin\ntokenizer 2 .*config 2 .*",
}


def test_each_section_has_an_example() -> None:
    assert [section for section, _ in EXAMPLES] == list(OUTPUT)


def test_publish_and_fetch_takes_ten_lines() -> None:
    assert len([line for line in dict(EXAMPLES)["Publish and fetch"].splitlines() if line]) <= 10


@pytest.mark.parametrize(("section", "code"), EXAMPLES, ids=OUTPUT)
def test_example_runs(
    section: str, code: str, relay: str, at_home: Path, key: SecretKey, capsys: pytest.CaptureFixture[str]
) -> None:
    signing_key.store(Home(at_home), key.reveal_nsec())
    checkpoint = write_tiny(at_home / "checkpoint_best.bin")
    if "npub1…" in code or "search(" in code:
        name = "tales" if "search(" in code else "shakespeare"
        blocking.publish(checkpoint, name=name, relays=[relay], home=at_home)
    code = code.replace("ws://127.0.0.1:7777", relay).replace("npub1…", encode_npub(key.pubkey))
    exec(compile(code, f"{PAGE.name}: {section}", "exec"), {"__name__": "__main__"})  # noqa: S102 (our own page)
    out, err = capsys.readouterr()
    assert err == ""
    assert re.match(OUTPUT[section], out), out
