"""Rows about complete releases on Blossom servers, against curl, and about memory and signatures.

The release is an xl checkpoint with optimizer state, 172 MB of random numbers; the variable `BLOSSOM_PRESET` names a
smaller preset for quick trials. Servers, clients and lines of limited speed run in separate processes. Times leave out
the start of our program and of curl.
"""

import asyncio
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from blossom_release import CONFIG, released, serving, slow_line
from measure import SCRIPTS, Bench, Measured, Row, ratio
from rows_network import IDLE, own_relay, peak_mib, resident_peak, write_model

from randygpt.model.config import ModelConfig
from relay_client.blossom.authorizer import Authorizer
from relay_client.blossom.token import Verb
from relay_client.keys import SecretKey

CURL = Path(shutil.which("curl") or "/usr/bin/curl")
FETCHES = 8  # at the same time, from one server
LINE, SLOW_LINE = 50, 20  # MB/s


def alternate(reference: Callable[[], float], ours: Callable[[], float], rounds: int) -> Measured:
    """Measure in the order A B B A, so many times; the value is the ratio of the medians."""
    pairs = []
    for _ in range(rounds):
        first = reference(), ours()
        second = ours(), reference()
        pairs += [first, second[::-1]]
    raw = ratio(pairs).raw
    return Measured(value=raw["reference_ms"] / raw["ours_ms"], raw=raw)


@contextlib.contextmanager
def empty_folder(bench: Bench) -> Iterator[Path]:
    """Yield an empty folder, and write its deletion to the disk, which nothing measured later waits for."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        yield Path(folder)
    os.sync()


def fetch_ms(bench: Bench, release: str, relay: str, servers: Sequence[str]) -> float:
    """Measure our fetch, with verification and installation."""
    with empty_folder(bench) as home:
        return bench.run_script("blossom.py", "fetch", str(home), release, relay, *servers)["ms"]


def curl_ms(*arguments: str) -> float:
    """Run curl and return the time of its transfers."""
    command = [str(CURL), "--silent", "--show-error", "--fail", "--write-out", "%{stderr}%{time_total}\n", *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"curl: {done.stderr}")
    return sum(map(float, done.stderr.split())) * 1e3


def command_ms(command: str, files: Sequence[Path], empty: Path) -> float:
    """Measure a command with files, less the time that it takes for an empty one."""

    def run(paths: Sequence[Path]) -> float:
        start = time.perf_counter()
        subprocess.run([command, *map(str, paths)], stdout=subprocess.DEVNULL, check=True)
        return (time.perf_counter() - start) * 1e3

    empty.touch()
    return max(0.0, run(files) - run([empty]))


def curl_fetch_ms(bench: Bench, server: str) -> float:
    """Measure curl, sync and sha256sum for the same bytes."""
    release = released(bench)
    with empty_folder(bench) as folder:
        targets = [folder / piece.name for piece in release.pieces]
        arguments = []
        for target, digest in zip(targets, release.hashes, strict=True):
            arguments += ["--output", str(target), f"{server}/{digest.hex()}"]
        total = curl_ms(*arguments)
        return total + sum(command_ms(command, targets, folder / "empty") for command in ("sync", "sha256sum"))


def publish_ms(bench: Bench) -> dict[str, float]:
    """Measure our publication to an empty server."""
    with empty_folder(bench) as folder, serving(folder / "data") as service:
        arguments = (str(folder / "home"), str(released(bench).file), service.relay, service.server)
        return bench.run_script("blossom.py", "publish", *arguments)


def curl_publish_ms(bench: Bench) -> float:
    """Measure sha256sum of the pieces, and curl that uploads them to an empty server one after the other."""
    release = released(bench)
    with empty_folder(bench) as folder, serving(folder / "data") as service:
        tokens = Authorizer(
            SecretKey.generate(),
            Verb.UPLOAD,
            hashes=release.hashes,
            origins=[service.server],
            now=lambda: int(time.time()),
        )
        arguments = ["--header", f"Authorization: {asyncio.run(tokens.header(release.hashes[0]))}"]
        for piece in release.pieces:
            arguments += ["--output", "/dev/null", "--upload-file", str(piece), f"{service.server}/upload"]
        return command_ms("sha256sum", release.pieces, folder / "empty") + curl_ms(*arguments)


def fetching(bench: Bench) -> Measured:
    """Compare curl with our fetch from one server."""
    release = released(bench)
    with serving(release.data[0]) as service:
        ours = functools.partial(fetch_ms, bench, release.id_hex, service.relay, [service.server])
        return alternate(lambda: curl_fetch_ms(bench, service.server), ours, 2)


def fetching_over_a_line(bench: Bench) -> Measured:
    """Compare curl with our fetch over a line of limited speed."""
    release = released(bench)
    with serving(release.data[0]) as service, slow_line(service.server, LINE) as line:
        ours = functools.partial(fetch_ms, bench, release.id_hex, service.relay, [line])
        return alternate(lambda: curl_fetch_ms(bench, line), ours, 1)


def publishing(bench: Bench) -> Measured:
    """Compare curl with our publication to one server."""
    return alternate(lambda: curl_publish_ms(bench), lambda: publish_ms(bench)["ms"], 2)


def against_relays(bench: Bench) -> Measured:
    """Compare our fetch from relays with that from a server."""
    release = released(bench)
    with serving(release.data[0]) as service, own_relay(release.relay_data) as relay:
        ours = functools.partial(fetch_ms, bench, release.id_hex, service.relay, [service.server])
        return alternate(lambda: fetch_ms(bench, release.relay_id_hex, relay, []), ours, 1)


def two_servers(bench: Bench) -> Measured:
    """Compare our fetch from one slow server with that from two."""
    release = released(bench)
    with contextlib.ExitStack() as stack:
        services = [stack.enter_context(serving(data)) for data in release.data]
        lines = [stack.enter_context(slow_line(service.server, SLOW_LINE)) for service in services]
        fetch = functools.partial(fetch_ms, bench, release.id_hex, services[0].relay)
        return alternate(lambda: fetch(lines[:1]), lambda: fetch(lines), 1)


@functools.cache
def peaks(bench: Bench, config: ModelConfig) -> dict[str, float]:
    """Measure peak memory of publishing to a server and of fetching from it, in MiB."""
    with empty_folder(bench) as folder, serving(folder / "data") as service:
        write_model(folder / "m.bin", config)
        places = ("--relay", service.relay, "--server", service.server, "--json", "--quiet")
        peak_mib(folder, "author", "keys", "new", "--json")
        publish, published = peak_mib(folder, "author", "publish", "m.bin", "--no-relay-chunks", *places)
        fetch, _ = peak_mib(folder, "reader", "fetch", str(published["release"]), *places)
    return {"publish": publish, "fetch": fetch}


def memory(command: str, bench: Bench) -> Measured:
    """Measure how much more memory a large release takes than a tiny one."""
    idle, large = peaks(bench, IDLE)[command], peaks(bench, CONFIG)[command]
    return Measured(value=large - idle, raw={"idle_mib": idle, "large_mib": large})


def server_memory(bench: Bench) -> Measured:
    """Measure how much more memory a server takes while several clients fetch than after its start."""
    release = released(bench)
    with serving(release.data[0]) as service, empty_folder(bench) as folder:
        idle = resident_peak(service.pid)
        command = [sys.executable, str(SCRIPTS / "blossom.py"), "fetch"]
        source = [release.id_hex, service.relay, service.server]
        clients = [
            subprocess.Popen([*command, str(folder / str(number)), *source], stdout=subprocess.DEVNULL)
            for number in range(FETCHES)
        ]
        failed = sum(client.wait() != 0 for client in clients)
        peak = resident_peak(service.pid)
    fault = f"{failed} of {FETCHES} fetches failed" if failed else ""
    return Measured(value=peak - idle, raw={"idle_mib": idle, "serving_mib": peak}, fault=fault)


def signatures(bench: Bench) -> Measured:
    """Count the signatures of a publication."""
    raw = publish_ms(bench)
    return Measured(value=raw["signatures"], raw=raw)


ROWS = (
    Row(
        name="fetch, verify and install an xl model from a Blossom server, against curl, sync and sha256sum",
        unit="x",
        measure=fetching,
        goal=0.7,
        program=CURL,
    ),
    Row(
        name=f"the same from a Blossom server over a line of {LINE} MB/s",
        unit="x",
        measure=fetching_over_a_line,
        goal=0.95,
        program=CURL,
    ),
    Row(
        name="publish an xl model to a Blossom server, against sha256sum and curl",
        unit="x",
        measure=publishing,
        goal=0.8,
        program=CURL,
    ),
    Row(
        name="fetch an xl model from a Blossom server, against LocalRelay on disk",
        unit="x",
        measure=against_relays,
        goal=2,
    ),
    Row(
        name=f"fetch an xl model from two Blossom servers of {SLOW_LINE} MB/s, against one",
        unit="x",
        measure=two_servers,
        goal=1.8,
    ),
    *(
        Row(
            name=f"memory above that of a tiny release, Blossom server: {command}",
            unit="MiB",
            measure=functools.partial(memory, command),
            goal=64,
            at_most=True,
        )
        for command in ("publish", "fetch")
    ),
    Row(
        name=f"memory of a Blossom server above its start: {FETCHES} fetches at the same time",
        unit="MiB",
        measure=server_memory,
        goal=64,
        at_most=True,
    ),
    Row(
        name="signatures to publish an xl model to Blossom servers",
        unit="signatures",
        measure=signatures,
        goal=15,
        at_most=True,
    ),
)
