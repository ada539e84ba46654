"""The release that the rows about Blossom servers use, and the processes that serve it."""

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from measure import SCRIPTS, Bench
from rows_network import CHARACTERS, own_relay, peak_mib, write_model
from support.relays import find_free_port

from distribution.source import BLOB_SIZE, CUT_ABOVE
from randygpt.checkpoint.sidecar import inspect_checkpoint
from randygpt.model.config import ModelConfig
from randygpt.release_files import checkpoint_spec

CONFIG = ModelConfig.from_preset(os.environ.get("BLOSSOM_PRESET", "xl"), vocab_size=CHARACTERS.vocab_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running relay with its Blossom server."""

    relay: str
    server: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A published checkpoint: its file, the pieces that servers have, and where it is."""

    file: Path
    pieces: list[Path]
    hashes: list[bytes]
    id_hex: str  # on the servers at `data`
    relay_id_hex: str  # with all its chunks on the relay at `relay_data`
    data: tuple[Path, Path]
    relay_data: Path


@contextlib.contextmanager
def serving(data: Path) -> Iterator[Service]:
    """Run the built-in relay and Blossom server as a process, open to every key."""
    command = [
        sys.executable,
        "-m",
        "randygpt",
        "relay",
        "--port",
        str(find_free_port()),
        "--data",
        str(data),
        "--open",
    ]
    command += ["--blobs", str(find_free_port()), "--max-rate", "1000000", "--json", "--quiet"]
    with started(command) as (process, line):
        printed = json.loads(line)
        yield Service(relay=printed["relay"], server=printed["blobs"], pid=process.pid)


@contextlib.contextmanager
def slow_line(origin: str, mb_per_s: float) -> Iterator[str]:
    """Run a line of limited speed to a server; yield its origin."""
    with started([sys.executable, str(SCRIPTS / "token_bucket.py"), origin, str(mb_per_s)]) as (_, line):
        yield line.strip()


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a process; yield it and the first line that it prints."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process, process.stdout.readline() if process.stdout else ""
        finally:
            process.terminate()


@functools.cache
def released(bench: Bench) -> Release:
    """Create the checkpoint, and publish it to two servers and to a relay on disk."""
    folder = bench.folder / "blossom"
    folder.mkdir()
    file, data, relay_data = folder / "m.bin", (folder / "first", folder / "second"), folder / "relay"
    write_model(file, CONFIG)
    pieces, hashes = cut(file)
    publish = ("publish", "m.bin", "--json", "--quiet")
    peak_mib(folder, "author", "keys", "new", "--json")
    with serving(data[0]) as first, serving(data[1]) as second:
        servers = ("--server", first.server, "--server", second.server, "--no-relay-chunks")
        _, by_servers = peak_mib(folder, "author", *publish, "--relay", first.relay, *servers)
    with own_relay(relay_data) as url:
        _, by_relays = peak_mib(folder, "author", *publish, "--relay", url, "--name", "by-relays")
    return Release(
        file=file,
        pieces=pieces,
        hashes=hashes,
        id_hex=str(by_servers["release"]),
        relay_id_hex=str(by_relays["release"]),
        data=data,
        relay_data=relay_data,
    )


def cut(file: Path) -> tuple[list[Path], list[bytes]]:
    """Write the pieces of a checkpoint to files, cut as `publish` cuts it; return them and their SHA-256."""
    pieces: list[Path] = []
    hashes: list[bytes] = []
    with file.open("rb") as whole:
        source = next(
            each for each in checkpoint_spec(whole, inspect_checkpoint(file)).files if each.role == "checkpoint"
        )
        blobs = [*source.hash(BLOB_SIZE if source.size > CUT_ABOVE else None).blobs(BLOB_SIZE)]
        whole.seek(0)
        for digest, size in blobs:
            pieces.append(file.with_name(f"piece-{len(pieces)}"))
            pieces[-1].write_bytes(whole.read(size))
            hashes.append(digest)
    return pieces, hashes
