"""docs/threat-model.md names tests that exist; tests of attacks that belong to no other module."""

import ast
import functools
import re
import tracemalloc
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from relay_client.connection import Connection
from relay_client.errors import TransportError
from relay_client.filter import Filter

TESTS = Path(__file__).parents[1]
ROWS = [
    line
    for line in (TESTS.parent / "docs/threat-model.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| attack"))
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_every_row_names_existing_tests(row: str) -> None:
    attack, answer, shown_by = (cell.strip() for cell in row.strip("|").split("|"))
    named = re.findall(r"`([a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`", shown_by)
    assert attack
    assert answer
    assert shown_by == ", ".join(f"`{path}::{name}`" for path, name in named) != ""
    for path, name in named:
        assert name in functions(path)


@functools.cache
def functions(path: str) -> set[str]:
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


async def test_compressed_bomb_is_not_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = b"x" * (64 << 20)
    packed: list[str] = []

    async def handler(peer: ServerConnection) -> None:
        await peer.recv()
        packed.extend(type(extension).__name__ for extension in peer.protocol.extensions)
        tracemalloc.start()
        await peer.send(bomb, text=True)
        await peer.wait_closed()

    monkeypatch.setenv("no_proxy", "*")
    async with serve(handler, "127.0.0.1", 0) as server:
        # Another spelling of 127.0.0.1, since frames of relays on this machine are not compressed.
        connection = await Connection.open(f"ws://127.1:{next(iter(server.sockets)).getsockname()[1]}")
        try:
            with pytest.raises(TransportError, match="too big"):
                await connection.query(Filter(kinds=(1,), limit=1), lambda _event: None)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            await connection.close()
    assert packed == ["PerMessageDeflate"]
    assert peak < 4 << 20


RUNS_CODE = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "eval", "exec", "torch.load"}


@pytest.mark.parametrize("package", ["relay_client", "distribution", "randygpt", "server"])
def test_no_module_runs_code_from_files(package: str) -> None:
    modules = list((TESTS.parent / package).rglob("*.py"))
    assert modules
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Call):
                names = [ast.unparse(node.func)]
                assert not any(keyword.arg == "allow_pickle" for keyword in node.keywords), module
            assert not RUNS_CODE.intersection(names), module
