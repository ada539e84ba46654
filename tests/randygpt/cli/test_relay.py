"""`randygpt relay`: who may write, where events are kept, and what the user is warned of."""

import json
import subprocess
from pathlib import Path

import pytest
from support.command import background, invoke, only_line

from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub
from relay_client.pool import Pool

EVERYWHERE = "0.0.0.0"  # noqa: S104 (what the option is for)
NPUB = encode_npub(SecretKey(bytes.fromhex("22" * 32)).pubkey)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--host", EVERYWHERE), "pass --allow NPUB, or --open"),
        (("--host", "mine.example"), "expected an IP address"),
        (("--allow", "npub1x"), "--allow"),
        (("--allow", NPUB, "--open"), "exclude each other"),
        (("--memory", "--data", "x"), "exclude each other"),
        (("--open", "--max-event-size", "65K"), "65,536"),
    ],
    ids=["no author", "name", "author", "both", "memory and disk", "too large"],
)
def test_wrong_relay_options_are_one_line(tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    done = invoke(tmp_path, "relay", *words)
    assert done.returncode == 2
    assert reason in only_line(done.stderr)


async def test_network_relay_accepts_own_key_and_trusted_authors(tmp_path: Path, free_port: int) -> None:
    own, friend, other = (SecretKey.generate() for _ in range(3))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/nsec").write_text(own.reveal_nsec())
    (tmp_path / "keys/nsec").chmod(0o600)
    (tmp_path / "state").mkdir()
    (tmp_path / "state/trust.json").write_text(json.dumps({"authors": {friend.pubkey.hex(): "friend"}}))
    words = ("relay", "--host", EVERYWHERE, "--port", free_port, "--json")
    with background(tmp_path, *words, stderr=subprocess.PIPE) as (process, line):
        shown = json.loads(line)
        assert shown["relay"] == f"ws://127.0.0.1:{free_port}"
        assert shown["data"] == str(tmp_path / "relay")
        assert shown["authors"] == sorted(map(encode_npub, (own.pubkey, friend.pubkey)))
        async with Pool([shown["relay"]]) as pool:
            events = [EventDraft(kind=1, created_at=1).sign(key) for key in (own, friend, other)]
            await pool.publish((event, pool.urls) for event in events)
        async with Pool([shown["relay"]]) as pool:
            stored = (await pool.stored_ids([event.id for event in events]))[shown["relay"]]
        assert stored == {event.id for event in events[:2]}
        assert process.stderr is not None
        notes = "".join(process.stderr.readline() for _ in range(4))
        assert "accepts events of 2 author(s): up to 65.5 kB each, 2.1 GB in all" in notes
        assert "WARNING: the network reaches this relay at ws://" in notes
