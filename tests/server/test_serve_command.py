"""`randygpt serve`: flags, keys, signals, memory."""

import json
import re
import signal
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
from support.command import background, invoke, invoke_until_terminated, only_line
from support.models import TOKENIZER, write_tiny
from support.release_store import ReleaseStore, checkpoint

from randygpt.cli.main import run
from randygpt.model.config import ModelConfig
from randygpt.model.decoder import KVCache
from server.memory import MAX_SLOTS


def get(address: str, path: str = "/", body: object = None, key: str | None = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, data, headers), timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 is reachable from the network: set --api-key-file"),  # noqa: S104 (refused)
        (["--host", "::"], ":: is reachable from the network"),
        (["--host", "my.example"], "my.example is reachable from the network"),
        (["--api-key", " "], "an API key must not be empty"),
        (["--api-key-file", "keys"], "keys: no API keys in it"),
        (["--api-key-file", "none"], "none"),
        (["--api-key-file", "m.bin"], "m.bin: not UTF-8 text"),
        (["--allow-host", "*.example"], "--allow-host '*.example': expected a host name or IP address"),
        (["--allow-host", "x" * 9000 + ":80"], "xxxx"),
        (["--allow-origin", "mine.example"], "--allow-origin 'mine.example': expected an origin"),
        (["--log", "xml"], "'xml' is not one of 'console', 'json'"),
    ],
)
def test_bad_flags_are_refused_before_start(
    at_home: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (at_home / "keys").write_text("# none yet\n\n", encoding="utf-8")
    write_tiny(at_home / "m.bin")
    assert run(["serve", "--model", "m.bin", "--port", "0", *words]) == 2
    assert said in only_line(capsys.readouterr().err)


def test_key_file_and_json_output(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.bin")
    (tmp_path / "keys").write_text("one\n# ours\n\ntwo \n", encoding="utf-8-sig")
    words = ("--model", "m.bin", "--port", "0", "--api-key-file", "keys", "--json", "--log", "json")

    def ask(output: TextIO) -> None:
        address = json.loads(output.readline())["address"]
        asked = {"prompt": "the", "max_tokens": 2}
        assert [get(address, "/", asked, key)[0] for key in ("one", "two", "# ours", "")] == [200, 200, 401, 401]
        assert get(address, "/ready")[0] == 200

    invoke_until_terminated(tmp_path, "serve", *words, client=ask)


@pytest.mark.full
def test_sigterm_finishes_a_running_stream(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.bin")
    with background(tmp_path, "serve", "--model", "m.bin", "--port", "0") as (process, address):
        body = json.dumps({"prompt": "the", "max_tokens": 4000, "ignore_eos": True, "stream": True}).encode()
        with urllib.request.urlopen(f"{address}/v1/completions", body, timeout=60) as response:
            first = response.readline()
            process.send_signal(signal.SIGTERM)
            rest = response.read()
        assert first.startswith(b"data: {")
        assert rest.endswith(b"data: [DONE]\n\n")
        assert b'"finish_reason":"length"' in rest
        assert process.wait(timeout=60) == 143


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="a process's memory is read from /proc")
def test_swap_frees_the_old_model_at_once(releases: ReleaseStore) -> None:
    config = ModelConfig(n_embd=64, n_head=1, n_layer=16, vocab_size=TOKENIZER.vocab_size, block_size=1024)
    cache = MAX_SLOTS * KVCache.slot_bytes(
        config
    )  # address space, of which hardly anything is used; malloc keeps none as large
    files: dict[str, Any] = {
        "checkpoint": checkpoint(np.zeros(config.parameter_count, "<f4"), config),
        "config": json.dumps(config.to_json("char")).encode(),
    }
    pair = [releases.install(**files).id for _ in range(2)]
    releases.store.activate(pair[0])
    with background(releases.home, "serve", "--port", "0", "--api-key", "key") as (process, address):
        before = 0
        for turn in range(6):
            releases.store.activate(pair[turn % 2])
            status, health = get(address, "/admin/reload", {}, "key")
            assert (status, json.loads(health)["release"]) == (200, pair[turn % 2].hex())
            assert get(address, "/", {"prompt": "the", "max_tokens": 2}, "key")[0] == 200
            before = before or address_space(process.pid)
            assert address_space(process.pid) < before + cache / 2


def address_space(number: int) -> int:
    """Return the size of a process's address space in bytes."""
    words = Path(f"/proc/{number}/status").read_text(encoding="ascii")
    return 1024 * int(re.findall(r"VmSize:\s+(\d+) kB", words)[0])


def test_port_is_taken_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"no checkpoint")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = invoke(tmp_path, "serve", "--model", "m.bin", "--port", port)
    assert done.returncode == 2
    assert only_line(done.stderr).endswith(f"127.0.0.1:{port}: address already in use; choose another --port")
