"""A Debian container that boots: this machine's system under a temporary overlay, run by systemd-nspawn.

Everything happens in the namespaces of one process and ends with it: the container, the overlay, and the programs
started next to it. Needs root and Linux; changes nothing outside. Container and test share a loopback device.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

GIVE_UP_S = 180
_HIDDEN = ("usr/local",)  # besides whatever is not part of a Debian
_KEPT = {"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "sys", "usr", "var"}
_TOOLS = ("systemd-nspawn", "unshare", "nsenter", "ip", "/usr/bin/python3")
_MASKED = ("networkd", "resolved", "timesyncd", "udevd", "logind")  # what a box without hardware has no use for


def why_not() -> str:
    """Return why no container can boot here; empty if one can."""
    if os.geteuid() != 0:
        return "it needs root"
    missing = [tool for tool in _TOOLS if not shutil.which(tool)]
    if missing:
        return f"there is no {', '.join(missing)} (apt-get install systemd-container iproute2)"
    versions = {
        subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.rpartition(".")[0]
        for python in ("/usr/bin/python3", sys.executable)
    }
    if len(versions) > 1:  # the box is given wheels of the one for the other
        return f"/usr/bin/python3 is not the Python of the tests: {', '.join(versions)}"
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, text=True, check=False
    )
    return tried.stderr.strip()


class Box:
    """A Debian file tree, and the machine it becomes while booted."""

    def __init__(self, folder: Path, keeper: int, shown: Mapping[Path, str]) -> None:
        self._folder = folder
        self._keeper = keeper  # the process whose namespaces these are
        self._shown = shown
        self._leader = 0  # the box's first process
        self.root = Path(f"/proc/{keeper}/root{folder}/merged")  # its files, to put some there before a boot

    def on_network(self, *command: str) -> list[str]:
        """Return a command line that runs outside of the container, on its network."""
        return ["nsenter", f"--target={self._keeper}", "--net", "--pid", "--", *command]

    def run(self, script: str, *, check: bool = True) -> str:
        """Run a script in the container, in root's home, and return its output; with `check`, it must succeed."""
        done = subprocess.run(
            [
                "nsenter",
                f"--target={self._leader}",
                "--all",
                "--",
                "/bin/bash",
                "-e",
                "-o",
                "pipefail",
                "-c",
                f"cd\n{script}",
            ],
            cwd="/",
            env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=GIVE_UP_S,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{script}\n{done.stdout}"
        return done.stdout.strip()

    def until(self, script: str, expected: Callable[[str], bool]) -> str:
        """Run a script until its output is as expected; return it."""
        deadline = time.monotonic() + GIVE_UP_S
        while not expected(said := self.run(script, check=False)):
            assert time.monotonic() < deadline, f"{script}\n{said}\n{self.run('journalctl -n 80 --no-pager')}"
            time.sleep(0.2)
        return said

    @contextlib.contextmanager
    def booted(self, *, network: bool = True) -> Iterator[None]:
        """Boot the container, and power it off at the end."""
        merged, console = self._folder / "merged", self._folder / "console"
        words = ["nsenter", f"--target={self._keeper}", "--mount", "--net", "--pid", "--"]
        words += ["systemd-nspawn", "--boot", f"--directory={merged}", "--machine=box", "--register=no", "--keep-unit"]
        words += ["--link-journal=no", "--console=read-only", *([] if network else ["--private-network"])]
        words += [f"--bind-ro={path}:{place}" for path, place in self._shown.items()]
        with (
            console.open("wb") as screen,
            subprocess.Popen(
                words,
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=screen,
                stderr=subprocess.STDOUT,
            ) as nspawn,
        ):
            try:
                self._leader = self._find_leader(nspawn, console)
                self.until("systemctl is-active basic.target", lambda said: said == "active")
                yield
                self.run("systemctl --no-block poweroff")
                nspawn.wait(GIVE_UP_S)
            finally:
                nspawn.kill()
                if nspawn.poll() is None and self._leader:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self._leader, 9)

    @staticmethod
    def _find_leader(nspawn: subprocess.Popen[bytes], console: Path) -> int:
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline and nspawn.poll() is None:
            for pid in _descendants(nspawn.pid):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                        return pid
            time.sleep(0.05)
        raise AssertionError(f"no boot: {console.read_text(errors='replace')}")


@contextlib.contextmanager
def box(folder: Path, shown: Mapping[Path, str]) -> Iterator[Box]:
    """Make a container with its layers in `folder`; `shown` maps this machine's folders to mount points in it."""
    with subprocess.Popen(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as keeper:
        try:
            assert keeper.stdin is not None
            assert keeper.stdout is not None
            keeper.stdin.write(b"here\n")
            keeper.stdin.flush()
            keeper.stdout.readline()
            (inner,) = _descendants(keeper.pid)
            _lay(folder, inner)
            yield Box(folder, inner, shown)
        finally:
            keeper.kill()


def _lay(folder: Path, keeper: int) -> None:
    """Mount an overlay on this machine's system that hides what is not part of Debian."""
    layers = Path(f"/proc/{keeper}/root{folder}/layers")

    def inside(script: str) -> None:
        words = ["nsenter", f"--target={keeper}", "--mount", "--net", "--pid", "--", "/bin/bash", "-e", "-c", script]
        subprocess.run(words, cwd="/", check=True, timeout=GIVE_UP_S)

    inside(f"ip link set lo up; cd '{folder}'; mkdir merged layers; mount -t tmpfs -o size=2g tmpfs layers")
    (layers / "work").mkdir()
    others = [path.name for path in Path("/").iterdir() if path.is_dir() and path.name not in _KEPT]
    for name in [*_HIDDEN, *others]:
        hidden = layers / "upper" / name
        hidden.mkdir(parents=True)
        os.setxattr(hidden, "trusted.overlay.opaque", b"y")
    (layers / "upper" / "usr" / "local" / "bin").mkdir()
    (layers / "upper" / "tmp").chmod(0o1777)
    masked = [f"systemd-{name}.service" for name in _MASKED]
    inside(f"""
        cd '{folder}'
        mount -t overlay overlay -o lowerdir=/,upperdir=layers/upper,workdir=layers/work merged
        cd merged/etc
        rm -rf pip.conf xdg/pip systemd/system/*.wants
        for each in {" ".join(masked)} ssh.service cron.service; do ln -sf /dev/null "systemd/system/$each"; done
        systemd-id128 new > machine-id
    """)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found
