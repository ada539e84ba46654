"""A release that a version of this program without servers published, recorded as the events it sent."""

import hashlib
import json
from pathlib import Path

from support.releases import clock, fetch
from support.scripted_relay import ScriptedRelay

from distribution.event_file import open_event_file
from distribution.fetch import Fetched, Fetcher
from distribution.store import Store
from distribution.trust import TrustPolicy
from relay_client.nip19 import AddressReference

RECORDED = Path(__file__).with_name("data") / "release-before-servers.jsonl"
DEMO = AddressReference(
    author=bytes.fromhex("d793631af7aa0e709439dd47fc001acd0b0727670b6670ea528ac83cb0127f4a"), name="demo"
)
HASHES = {
    "checkpoint_best.bin": "27daf277629c2bd3b37653df1d9271e42c6d5661db9010da5cba98f57ae4abea",
    "vocab.json": "f2794a077cd3deba05e686184ec5440ccc868b343c56d05187ef31ce95a34ff9",
    "config.json": "f3c1108b25d498713dfab6405bc106d200d360c6437b3c1db6f0165c1a4cfe02",
}


def hashes(fetched: Fetched) -> dict[str, str]:
    return {file.path: hashlib.sha256(file.local_path.read_bytes()).hexdigest() for file in fetched.release.files}


async def test_old_release_is_installed_from_its_file(tmp_path: Path) -> None:
    with open_event_file(RECORDED, folder=tmp_path, max_size=1 << 20) as events:
        fetcher = Fetcher(pool=events, store=Store(tmp_path), policy=TrustPolicy(), now=clock)
        assert hashes(await fetcher.fetch(DEMO)) == HASHES


async def test_old_release_is_installed_from_a_relay(scripted: ScriptedRelay, tmp_path: Path) -> None:
    for line in RECORDED.read_text().splitlines():
        event = json.loads(line)
        scripted.events[event["id"]] = event
    assert hashes(await fetch([scripted.url], tmp_path, DEMO)) == HASHES
