"""The stage of `randygpt demo`: users with homes of their own, the commands they run, and an HTTP client."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PROMPT = "The "

_MAX_WORD = 40  # characters of an argument before it is abbreviated; ids are longer
_DEADLINE_S = 60.0  # for a reply or a swap that should take about a second
_AFTER_SWAP = 10  # replies from the new model before the client stops


class DemoFailed(Exception):
    """A step of the demo failed."""


class Stage:
    """A folder with the homes of two users, and the commands they run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def text(self, user: str, *arguments: str, shown: bool = True) -> str:
        """Run a command, show it, and return what it prints; raises DemoFailed if it fails."""
        if shown:
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
                say(f"  {address}")
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
        say(f"  {user}$ {shortened(['randygpt', *arguments])}")


class Client:
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
            connection.request("POST", "/", json.dumps({"prompt": PROMPT, "max_tokens": max_tokens, **fields}))
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
            check(time.monotonic() < deadline, "the server did not load the new version in time")
            time.sleep(0.05)

    def _keep_asking(self) -> None:
        while not self._stop.is_set():
            try:
                _, release = self.ask()
                self.replies[release] += 1
            except DemoFailed as failure:
                self.failures.append(str(failure))


def shortened(words: Sequence[str]) -> str:
    """Return a command line with its long words abbreviated."""
    return " ".join(word if len(word) < _MAX_WORD else f"{word[:16]}…{word[-4:]}" for word in words)


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check(holds: object, failure: str) -> None:
    """Raise DemoFailed with this text unless something holds."""
    if not holds:
        raise DemoFailed(failure)


def say(text: str) -> None:
    """Print a line of the demo at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
