"""Machines with an address each: network namespaces joined by a cable (veth). Needs root and Linux.

A namespace ends with the process that keeps it, and its interfaces with it.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from support.output import read_line

ADDRESSES = ("10.77.0.1", "10.77.0.2")
_TOOLS = ("unshare", "nsenter", "ip")


@dataclass(frozen=True, slots=True)
class Machine:
    """A network namespace with one interface besides its loopback device."""

    keeper: int  # process id
    address: str

    def command(self, *words: str) -> list[str]:
        """Return a command line that runs on this machine."""
        return ["nsenter", f"--target={self.keeper}", "--net", "--", *words]


def why_not() -> str:
    """Return why no machines can be made here; empty if they can."""
    if os.geteuid() != 0:
        return "it needs root"
    missing = [tool for tool in _TOOLS if not shutil.which(tool)]
    if missing:
        return f"missing: {', '.join(missing)}"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)  # noqa: S607
    return tried.stderr.strip()


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Make two machines that reach each other and nothing else."""
    with _namespace() as one, _namespace() as other:
        machines = Machine(one, ADDRESSES[0]), Machine(other, ADDRESSES[1])
        words = ("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(other))
        _run(machines[0].command("ip", *words))
        for machine in machines:
            for line in (
                "link set lo up",
                "link set cable up",
                f"address add {machine.address}/24 dev cable",
                "route add default dev cable",
            ):
                _run(machine.command("ip", *line.split()))
        yield machines


@contextlib.contextmanager
def _namespace() -> Iterator[int]:
    """Yield a process in a network namespace of its own, which ends at exit."""
    command = ["unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        try:
            assert read_line(keeper.stdout.fileno()) == "ready"
            yield keeper.pid
        finally:
            keeper.kill()


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)
