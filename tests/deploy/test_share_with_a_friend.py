"""docs/share-with-a-friend.md: the relay behind Caddy, and the configuration of a full relay, tried with both."""

import hashlib
import json
import ssl
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from support.caddy import caddy, proxied
from support.command import TIMEOUT_S, background, environment, invoke
from support.models import write_tiny
from support.relays import configured_python_relay, find_free_port

from relay_client.blossom.token import Verb, encode_header, token_draft
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

pytestmark = pytest.mark.full
PAGE = "share-with-a-friend.md"
CONFIG = Path(__file__).parents[2] / "deploy/nostr-relay.yaml"


@pytest.fixture
def author(tmp_path: Path) -> Path:
    home = tmp_path / "author"
    home.mkdir()
    invoke(home, "keys", "new")
    write_tiny(home / "tiny_best.bin", seed=1, name="tiny")
    return home


@pytest.fixture
def friend(tmp_path: Path) -> Path:
    home = tmp_path / "friend"
    home.mkdir()
    return home


def run(home: Path, authority: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a command that trusts Caddy's authority."""
    return subprocess.run(
        [sys.executable, "-m", "randygpt", *map(str, words)],
        cwd=home,
        env=environment(home) | {"SSL_CERT_FILE": str(authority)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.skipif(not caddy(), reason="NOT CHECKED: Caddy is not installed (apt-get install caddy)")
def test_relay_works_through_caddy(
    tmp_path: Path, author: Path, friend: Path, free_port: int, unused_port: int
) -> None:
    npub = json.loads(invoke(author, "keys", "show", "--json").stdout)["npub"]
    invoke(friend, "keys", "new")
    write_tiny(friend / "tiny_best.bin", seed=2, name="tiny")
    url = f"wss://localhost:{unused_port}"
    with (
        background(author, "relay", "--allow", npub, "--port", free_port),
        proxied(tmp_path, PAGE, "relay.example", unused_port, {"127.0.0.1:7777": f"127.0.0.1:{free_port}"}) as trusted,
    ):
        published = run(author, trusted, "publish", "tiny_best.bin", "--relay", url, "--yes", "--json")
        assert published.returncode == 0, published.stderr
        fetched = run(friend, trusted, "fetch", json.loads(published.stdout)["release"], "--relay", url, "--json")
        assert fetched.returncode == 0, fetched.stderr
        refused = run(friend, trusted, "publish", "tiny_best.bin", "--relay", url, "--yes")
        assert refused.returncode == 4
        assert "not on the relay's list" in refused.stderr


def test_full_relay_limits_authors_and_says_so(tmp_path: Path, author: Path, friend: Path, free_port: int) -> None:
    pubkey = json.loads(invoke(author, "keys", "show", "--json").stdout)["pubkey"]
    invoke(friend, "keys", "new")
    write_tiny(friend / "tiny_best.bin", seed=2, name="tiny")
    text = CONFIG.read_text()
    for written, meant in (("0" * 64, pubkey), ("6969", str(free_port))):
        assert written in text
        text = text.replace(written, meant)
    with configured_python_relay(tmp_path, free_port, text) as url:
        published = invoke(author, "publish", "tiny_best.bin", "--relay", url, "--yes", "--json")
        assert published.returncode == 0, published.stderr
        done = invoke(friend, "fetch", json.loads(published.stdout)["release"], "--relay", url)
        assert done.returncode == 0, done.stderr
        refused = invoke(friend, "publish", "tiny_best.bin", "--relay", url, "--yes")
        assert refused.returncode == 4
        assert "no relay accepted" in refused.stderr
        checked = invoke(author, "relays", "check", url, "--send")
        assert checked.returncode == 0, checked.stdout
        assert "models of friends" in checked.stdout


@pytest.mark.skipif(not caddy(), reason="NOT CHECKED: Caddy is not installed (apt-get install caddy)")
async def test_blossom_server_works_through_caddy(
    tmp_path: Path, free_port: int, unused_port: int, key: SecretKey
) -> None:
    url, blob, port = f"https://localhost:{unused_port}", bytes(range(256)) * 3_000, find_free_port()
    sha256 = hashlib.sha256(blob).digest()
    words = ("relay", "--memory", "--port", port, "--allow", encode_npub(key.pubkey), "--blobs", free_port)
    with (
        background(tmp_path, *words, "--blobs-url", url),
        proxied(tmp_path, PAGE, "blobs.example", unused_port, {"127.0.0.1:3000": f"127.0.0.1:{free_port}"}) as trusted,
    ):
        tls = ssl.create_default_context(cafile=str(trusted))
        draft = token_draft(Verb.UPLOAD, hashes=[sha256], origins=[url], now=int(time.time()))
        headers = {"Authorization": encode_header(draft.sign(key))}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as web:
            async with web.put(f"{url}/upload", data=blob, headers=headers, expect100=True) as response:
                assert response.status == 201
                assert (await response.json())["url"] == f"{url}/{sha256.hex()}.bin"
            async with web.get(f"{url}/{sha256.hex()}", headers={"Range": "bytes=10-99"}) as response:
                assert (response.status, await response.read()) == (206, blob[10:100])
