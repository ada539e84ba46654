"""The remote signer of another project: npm's `@nostr-dev-kit/ndk`, as people run it as a bunker."""

import asyncio
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import background, invoke
from support.models import write_tiny
from support.relays import NPM_MODULES, npm_bunker

from distribution.events import chunk_draft
from distribution.publish_record import PART_SIZE
from randygpt.remote_signing import remote_signer
from randygpt.user.home import Home
from randygpt.user.pairing import read_pairing
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub
from relay_client.nip46.remote_signer import RemoteSigner
from relay_client.timeouts import Timeouts

pytestmark = pytest.mark.full
SECRET = bytes.fromhex("5eed" * 16)
USER = SecretKey(SECRET)
CREATED_AT = 1_790_000_000
TOKEN = "5eed-of-the-pairing"  # noqa: S105 (planted)


@pytest.fixture
def relay(tmp_path: Path, free_port: int, unused_port: int) -> Iterator[str]:
    """A relay and a Blossom server in a process of their own: commands block this one."""
    assert (NPM_MODULES / "@nostr-dev-kit/ndk").exists(), "run make tests/relays/node_modules/.installed"
    with background(tmp_path, "relay", "--open", "--port", free_port, "--blobs", unused_port) as (_, url):
        yield url


@pytest.fixture
def home(tmp_path: Path, relay: str) -> Path:
    """A home that is paired with a signer, which has ended."""
    home = tmp_path / "home"
    home.mkdir()
    write_tiny(home / "checkpoint_best.bin", name="demo")
    with npm_bunker(tmp_path, relay, "signs", key=SECRET, token=TOKEN) as address:
        wrong = invoke(home, "keys", "bunker", address.replace(TOKEN, "other"))
        assert wrong.returncode == 4
        assert "your signer refuses the connection" in wrong.stderr.splitlines()[-1]
        done = invoke(home, "keys", "bunker", address)
    assert (done.returncode, done.stdout) == (0, f"{encode_npub(USER.pubkey)}\n"), done.stderr
    return home


def publish(home: Path, relay: str) -> tuple[int, str, str]:
    done = invoke(home, "publish", "checkpoint_best.bin", "--relay", relay, "--yes", "--json", "--quiet")
    return done.returncode, done.stdout, done.stderr


def test_ndk_signer_publishes_a_release(home: Path, tmp_path: Path, relay: str) -> None:
    with npm_bunker(tmp_path, relay, "signs", key=SECRET, token=TOKEN):
        code, out, err = publish(home, relay)
        assert code == 0, err
        release = json.loads(out)["release"]
        fetched = invoke(home, "fetch", release, "--relay", relay, "--json")
        assert json.loads(fetched.stdout)["author"] == encode_npub(USER.pubkey)
        assert invoke(home, "revoke", release, "--relay", relay).returncode == 0


def test_ndk_signer_gives_tokens_to_upload_and_delete(home: Path, tmp_path: Path, relay: str, unused_port: int) -> None:
    server = f"http://127.0.0.1:{unused_port}"
    words = ("--relay", relay, "--server", server)
    with npm_bunker(tmp_path, relay, "signs", key=SECRET, token=TOKEN):
        sent = invoke(home, "publish", "checkpoint_best.bin", *words, "--no-relay-chunks", "--yes", "--json")
        assert sent.returncode == 0, sent.stderr
        result = json.loads(sent.stdout)
        assert result["servers"][server]["uploaded"] > 0
        revoked = invoke(home, "revoke", result["release"], *words, "--delete-blobs", "--json")
        assert revoked.returncode == 0, revoked.stderr
        assert json.loads(revoked.stdout)["servers"][server]["deleted"] == result["servers"][server]["uploaded"]


def test_ndk_signer_that_refuses_is_one_line(home: Path, tmp_path: Path, relay: str) -> None:
    with npm_bunker(tmp_path, relay, "refuses", key=SECRET, token=TOKEN):
        code, out, err = publish(home, relay)
    assert (code, out) == (4, "")
    assert "your signer refuses " in err.splitlines()[-1]


def test_slow_ndk_signer_is_waited_for(home: Path, tmp_path: Path, relay: str) -> None:
    with npm_bunker(tmp_path, relay, "waits", key=SECRET, token=TOKEN):
        code, _, err = publish(home, relay)
    assert code == 0, err
    assert "waiting for your signer to approve: release demo 1" in err.splitlines()


def test_publish_continues_after_ndk_signer_ended(
    home: Path, tmp_path: Path, relay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RemoteSigner.__init__.__kwdefaults__, "timeouts", Timeouts(sign_s=5))  # type: ignore[arg-type]
    with npm_bunker(tmp_path, relay, "1", key=SECRET, token=TOKEN):
        code, _, err = publish(home, relay)
    assert code == 4
    assert "did not answer in time: approve release demo 1 there, and run this again" in err
    with npm_bunker(tmp_path, relay, "signs", key=SECRET, token=TOKEN):
        assert publish(home, relay)[0] == 0


def test_largest_part_of_a_manifest_is_signed(home: Path, tmp_path: Path, relay: str) -> None:
    data = random.Random(1).randbytes(PART_SIZE)  # noqa: S311 (no key)
    draft = chunk_draft(data, sha256=hashlib.sha256(data).digest(), created_at=CREATED_AT, expires=2 * CREATED_AT)
    signer = remote_signer(read_pairing(Home(home)), lambda _text: None)
    with npm_bunker(tmp_path, relay, "signs", key=SECRET, token=TOKEN):
        event = asyncio.run(signer.sign_event(draft))
    assert event.id == draft.id_for(USER.pubkey)
