"""`randygpt demo`: the real commands from training to a model swap, in a temporary folder."""

import contextlib
import hashlib
import http.client
import io
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from randygpt.cli.flags import Json, Quiet
from randygpt.cli.output import emit, format_size

_FIRST_ITERS = 600
_MORE_ITERS = 700
_PROMPT = "The "
_SAMPLE_TOKENS = 320
_WIDTH = 76  # of the sample, in characters
_MAX_WORD = 40  # characters of an argument before it is abbreviated; ids are longer
_DEADLINE_S = 60.0  # for a reply or a swap that should take about a second
_AFTER_SWAP = 10  # replies from the new model before the client stops


class DemoFailed(Exception):
    """A step of the demo failed."""


def demo(as_json: Json = False, quiet: Quiet = False) -> None:
    """Train, publish, fetch and serve a model on this machine.

    Then publishes a new version, which the server loads while a client sends requests. Uses a temporary folder and
    deletes it at the end.
    """
    started = time.monotonic()
    narration = io.StringIO() if as_json or quiet else sys.stdout
    try:
        with contextlib.redirect_stdout(narration), tempfile.TemporaryDirectory(prefix="randygpt-demo-") as folder:
            result = _run(_Stage(Path(folder)))
    except DemoFailed as failure:
        sys.stdout.write(f"\nThe demo FAILED: {failure}\n")
        raise typer.Exit(1) from None
    seconds = round(time.monotonic() - started, 1)
    text = f"Done in {seconds:.0f} s. All processes have stopped and all files are deleted."
    emit(as_json, result | {"seconds": seconds}, text if quiet else f"\n{text}")


def _run(stage: "_Stage") -> dict[str, object]:
    """Run every step and return the replies that the client received."""
    with contextlib.ExitStack() as stack:
        _say("Start a local relay for events, and a Blossom server for files:")
        blobs = str(_free_port())
        words = ("--memory", "--port", str(_free_port()), "--blobs", blobs)
        relay = stack.enter_context(stage.background("author", "relay", *words))
        _say("\nThe author creates a key. The secret key stays in a private file; this is the public key:")
        _say(f"  {stage.text('author', 'keys', 'new')}")
        stage.text("author", "relays", "add", relay)
        stage.text("author", "servers", "add", f"http://127.0.0.1:{blobs}")

        _say(f"\nThe author trains a small model for {_FIRST_ITERS} iterations on the Python manual:")
        _train(stage, "--iters", str(_FIRST_ITERS))
        first = _publish(stage)

        _say("\nA friend with an empty home pastes the line that `publish` printed, and every byte is verified:")
        _fetch(stage, first)

        _say("\nThe friend serves it over HTTP:")
        address = stack.enter_context(stage.background("friend", "serve", "--port", "0"))
        client = _Client(address)
        _, release = client.ask()
        _say(f"  a reply from release {release[:16]}…")
        _check(release == first["release"], "the server replied from another release")

        _say("\nUnder load from a client, the author publishes version 2 and the friend fetches it:")
        with client.keep_asking():
            _train(stage, "--resume", "--iters", str(_MORE_ITERS))
            second = _publish(stage)
            _check(second["version"] == first["version"] + 1, "the second publish is not version 2")
            _fetch(stage, second)
            client.wait_for(second["release"])
        _say("\nThe client received:")
        for release, count in client.replies.items():
            _say(f"  {count} replies from {release[:16]}…")
        _say(f"  {len(client.failures)} requests failed")
        _check(not client.failures, f"requests failed: {client.failures[:1]}")
        _check(set(client.replies) == {first["release"], second["release"]}, "the client did not see the swap")
        text, _ = client.ask(max_tokens=_SAMPLE_TOKENS, temperature=0.6, seed=1)
        _say("\nThe friend's server writes:")
        _say("\n".join(textwrap.indent(textwrap.fill(line, _WIDTH), "  ") for line in f"{_PROMPT}{text}".splitlines()))
        return {"replies": dict(client.replies), "failed": len(client.failures), "sample": text}


def _train(stage: "_Stage", *words: str) -> None:
    """Train with the default recipe, and show what was reached."""
    reached = stage.text("author", "train", "--checkpoint", "demo", *words)
    _say(textwrap.indent("\n".join(reached.splitlines()[:3]), "  "))


def _publish(stage: "_Stage") -> dict[str, Any]:
    started = time.monotonic()
    published = stage.json("author", "publish", "demo", "--no-relay-chunks", "--quiet", "--json")
    took = time.monotonic() - started
    checkpoint = published["files"][0]
    _say(f"  published as version {published['version']}: {published['release']}")
    _say(f"  {checkpoint['path']}, {format_size(checkpoint['size'])}, sha256 {checkpoint['sha256'][:16]}…")
    files = sum(server["uploaded"] for server in published["servers"].values())
    rate = f"{format_size(sum(file['size'] for file in published['files']) / took)}/s, including program start"
    _say(f"  {files} files on the Blossom server, {published['events']} signed events on the relay; {rate}")
    local = hashlib.sha256((stage.folder / "demo_best.bin").read_bytes()).hexdigest()
    _check(local == checkpoint["sha256"], "the published hash differs from that of the file")
    _say(f"  for a friend: {_shortened(shlex.split(published['fetch']))}")
    return published


def _fetch(stage: "_Stage", published: dict[str, Any]) -> None:
    started = time.monotonic()
    fetched = stage.json("friend", *shlex.split(published["fetch"])[1:], "--json")
    took = time.monotonic() - started
    file = next(file for file in fetched["files"] if file["role"] == "checkpoint")
    _check(fetched["release"] == published["release"], "another release was fetched")
    same = hashlib.sha256(Path(file["local"]).read_bytes()).hexdigest() == published["files"][0]["sha256"]
    _check(same, "the fetched file differs from the published one")
    chunks = fetched["chunks"]
    _check(all(server["bytes"] for server in fetched["servers"].values()), "the Blossom server was not used")
    _say(f"  version {fetched['version']} of {fetched['name']} by {fetched['author'][:16]}…: identical bytes")
    counts = ", ".join(f"{count} {what}" for what, count in chunks.items())
    _say(f"  chunks: {counts}; {format_size(file['size'] / took)}/s, including program start")


class _Stage:
    """A folder with the homes of two users, and the commands they run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def text(self, user: str, *arguments: str) -> str:
        """Run a command and return what it prints; raises DemoFailed if it fails."""
        self._show(user, arguments)
        done = subprocess.run(
            self._command(arguments), cwd=self.folder, env=self._environment(user), stdout=subprocess.PIPE, check=False
        )
        if done.returncode:
            raise DemoFailed(f"`randygpt {' '.join(arguments)}` ended with exit code {done.returncode}")
        return done.stdout.decode().strip()

    def json(self, user: str, *arguments: str) -> dict[str, Any]:
        """Run a command and return the JSON object it prints."""
        result: dict[str, Any] = json.loads(self.text(user, *arguments))
        return result

    @contextlib.contextmanager
    def background(self, user: str, *arguments: str) -> Iterator[str]:
        """Run a command in the background; yields the first line it prints (its address), and ends it at exit."""
        self._show(user, arguments)
        log = self.folder / f"{arguments[0]}.log"
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                self._command(arguments),
                cwd=self.folder,
                env=self._environment(user),
                stdout=subprocess.PIPE,
                stderr=errors,
            ) as process,
        ):
            assert process.stdout is not None
            try:
                address = process.stdout.readline().decode().strip()
                if not address:
                    raise DemoFailed(f"`randygpt {arguments[0]}` did not start: {log.read_text()[-500:]}")
                _say(f"  {address}")
                yield address
            finally:
                process.terminate()

    @staticmethod
    def _command(arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "randygpt", *arguments]

    def _environment(self, user: str) -> dict[str, str]:
        torch_cache = str(self.folder / "torch")  # torch creates a cache folder at import
        others = {name: value for name, value in os.environ.items() if not name.startswith("RANDYGPT_")}
        ours = {"RANDYGPT_HOME": str(self.folder / user), "RANDYGPT_CONFIG": os.devnull}
        return others | ours | {"TORCHINDUCTOR_CACHE_DIR": torch_cache}

    @staticmethod
    def _show(user: str, arguments: tuple[str, ...]) -> None:
        _say(f"  {user}$ {_shortened(['randygpt', *arguments])}")


class _Client:
    """An HTTP client that sends one request, or requests without pause."""

    def __init__(self, address: str) -> None:
        self._host = address.removeprefix("http://")
        self._stop = threading.Event()
        self.replies: Counter[str] = Counter()  # by release
        self.failures: list[str] = []

    def ask(self, *, max_tokens: int = 40, **fields: float) -> tuple[str, str]:
        """Send a request and return (completion, release id); raises DemoFailed for an error."""
        connection = http.client.HTTPConnection(self._host, timeout=_DEADLINE_S)
        try:
            connection.request("POST", "/", json.dumps({"prompt": _PROMPT, "max_tokens": max_tokens, **fields}))
            reply = connection.getresponse()
            body = json.loads(reply.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DemoFailed(f"no reply: {error!r}") from None
        finally:
            connection.close()
        if reply.status != http.client.OK:
            raise DemoFailed(f"status {reply.status}: {body}")
        return body["text"], reply.headers["X-Release"]

    @contextlib.contextmanager
    def keep_asking(self) -> Iterator[None]:
        """Send requests without pause on a thread, and count replies and failures."""
        thread = threading.Thread(target=self._keep_asking, name="client", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def wait_for(self, release: str) -> None:
        """Wait until `release` has sent enough replies."""
        deadline = time.monotonic() + _DEADLINE_S
        while self.replies[release] < _AFTER_SWAP:
            _check(time.monotonic() < deadline, "the server did not load the new version in time")
            time.sleep(0.05)

    def _keep_asking(self) -> None:
        while not self._stop.is_set():
            try:
                _, release = self.ask()
                self.replies[release] += 1
            except DemoFailed as failure:
                self.failures.append(str(failure))


def _shortened(words: Sequence[str]) -> str:
    """Return a command line with its long words abbreviated."""
    return " ".join(word if len(word) < _MAX_WORD else f"{word[:16]}…{word[-4:]}" for word in words)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check(holds: object, failure: str) -> None:
    if not holds:
        raise DemoFailed(failure)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
