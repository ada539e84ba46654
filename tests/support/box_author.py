"""An author whose model a container follows, with the only relay on the container's network."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.box import GIVE_UP_S, Box
from support.models import write_tiny
from support.output import read_line


class BoxAuthor:
    """An author with a key in `home`."""

    def __init__(self, machine: Box, home: Path) -> None:
        self._machine = machine
        self.home = home
        home.mkdir()
        self.npub = self.run("keys", "new").strip()
        self.url = "ws://127.0.0.1:7001"

    def try_run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._machine.on_network(sys.executable, "-m", "randygpt", *words),
            cwd=self.home,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=GIVE_UP_S,
            check=False,
        )

    def run(self, *words: str) -> str:
        done = self.try_run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def publish(self, seed: int) -> str:
        """Publish another version; return its id."""
        write_tiny(self.home / "tiny.bin", seed=seed, name="tiny")
        return str(json.loads(self.run("publish", "tiny.bin", "--relay", self.url, "--json"))["release"])

    def published(self, name: str) -> str | None:
        """Return the SHA-256 of the latest checkpoint of a name; None if it cannot be fetched."""
        done = self.try_run("fetch", name, "--relay", self.url, "--json")
        return json.loads(done.stdout)["files"][0]["sha256"] if done.returncode == 0 else None

    @contextlib.contextmanager
    def relay(self) -> Iterator[None]:
        """Run the relay."""
        self._start()
        try:
            yield
        finally:
            self._stop()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Stop the relay, and start it with the same data at the end."""
        self._stop()
        yield
        self._start()

    def _start(self) -> None:
        words = ("relay", "--port", "7001", "--data", str(self.home / "relay"))
        self._relay = subprocess.Popen(
            self._machine.on_network(sys.executable, "-m", "randygpt", *words),
            cwd=self.home,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._relay.stdout is not None
        assert read_line(self._relay.stdout.fileno()) == self.url

    def _stop(self) -> None:
        """Stop the whole process group: its first process is nsenter."""
        with self._relay as process:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.communicate(timeout=GIVE_UP_S)

    def _environment(self) -> dict[str, str]:
        return os.environ | {"RANDYGPT_HOME": str(self.home)}
