"""The public names of `distribution`: lazy, complete, and enough to publish and fetch."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from support.releases import clock

import distribution
from distribution import Fetcher, Journal, Publisher, ReleaseSpec, SourceFile, Store, TrustPolicy, resolve_reference
from distribution.trust_list import TrustList
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub
from relay_client.pool import Pool


@pytest.mark.parametrize("name", distribution.__all__)
def test_public_name_exists(name: str) -> None:
    assert getattr(distribution, name).__name__ == name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Unknown'"):
        distribution.Unknown  # type: ignore[attr-defined] # noqa: B018 (the access is the test)


def test_import_loads_no_submodule() -> None:
    code = "import sys, distribution; print([name for name in sys.modules if name.startswith('distribution.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


async def test_another_tool_publishes_and_fetches(relay: str, tmp_path: Path, key: SecretKey) -> None:
    contents = {"model.bin": b"weights", "vocab.json": b"[]", "config.json": b"{}"}
    roles = {"model.bin": "checkpoint", "vocab.json": "tokenizer", "config.json": "config"}
    files = tuple(
        SourceFile(
            path=path,
            role=roles[path],
            file=io.BytesIO(data),
            segments=(("weights" if roles[path] == "checkpoint" else "data", len(data)),),
        )
        for path, data in contents.items()
    )
    spec = ReleaseSpec(files=files, name="demo", format="custom-1", card={"license": "MIT"})
    with Journal(tmp_path / "author" / "journal.sqlite") as journal:
        async with Pool([relay], signer=key) as pool:
            publisher = Publisher(pool=pool, journal=journal, key=key, now=clock)
            estimate = await publisher.dry_run(spec)
            published = await publisher.publish(spec)
    assert (estimate.version, estimate.events) == (published.release.version, published.events) == (1, 6)
    store = Store(tmp_path / "reader")
    async with Pool([relay]) as pool:
        fetcher = Fetcher(pool=pool, store=store, policy=TrustPolicy(), now=clock)
        fetched = await fetcher.fetch(resolve_reference(store, TrustList(), f"{encode_npub(key.pubkey)}/demo"))
    assert store.current() == fetched.release.id == published.release.id
    assert {file.path: file.local_path.read_bytes() for file in fetched.release.files} == contents
