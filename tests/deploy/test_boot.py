"""A Debian boots, is installed on as docs/deploy.md says, and meets what machines meet: crashes, hangs, updates."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.box import GIVE_UP_S, Box, box, why_not
from support.models import TEXT, write_tiny

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
WHY_NOT = why_not()
WEB = "http://127.0.0.1:8080"
PLACE = "/root/randygpt"  # of the checkout, in the box
PACKAGES = "/mnt/packages"  # of the tests' Python, in the box: torch is too large to install again


class Page:
    """The shell commands of docs/deploy.md, by their heading."""

    def __init__(self) -> None:
        text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
        self._blocks: dict[str, list[str]] = {}
        for part in text.split("\n## ")[1:]:
            heading, _, body = part.partition("\n")
            self._blocks[heading] = re.findall(r"^```sh\n(.*?)^```$", body, re.DOTALL | re.MULTILINE)
        self._run: set[str] = set()

    def block(self, heading: str, number: int = 0) -> str:
        block = self._blocks[heading][number]
        self._run.add(block)
        return block

    def left(self) -> list[str]:
        """What was not run."""
        return [block for blocks in self._blocks.values() for block in blocks if block not in self._run]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of this checkout and of what serving needs, made as the page says."""
    source = copied(tmp_path_factory.mktemp("checkout") / "source")
    script = Page().block("From an empty machine to the first answer", 1)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/bash", "-e", "-c", script],
        cwd=source,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return source / "wheels"


def copied(target: Path) -> Path:
    """A copy of the checkout."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("randygpt", "relay_client", "distribution", "server", "deploy"):
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, target / name)
    return target


def build(source: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


class Friend:
    """Whoever publishes, with a relay on the network that is all the box has."""

    def __init__(self, machine: Box, home: Path) -> None:
        self._machine = machine
        self.home = home
        home.mkdir()
        self.npub = self.run("keys", "new").strip()
        self.secret = (home / "keys" / "nsec").read_text().strip()
        self.url = "ws://127.0.0.1:7001"

    def try_run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._machine.beside(sys.executable, "-m", "randygpt", *words),
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
        """Another version; its id."""
        write_tiny(self.home / "tiny.bin", seed=seed, name="tiny")
        return str(json.loads(self.run("publish", "tiny.bin", "--relay", self.url, "--json"))["release"])

    @contextlib.contextmanager
    def relay(self) -> Iterator[None]:
        command = self._machine.beside(sys.executable, "-m", "randygpt", "relay", "--port", "7001")
        with subprocess.Popen(
            command, cwd=self.home, env=self._environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == self.url.encode()
            try:
                yield
            finally:
                process.terminate()

    def _environment(self) -> dict[str, str]:
        return os.environ | {"RANDYGPT_HOME": str(self.home)}


def carry_in(machine: Box, wheels: Path) -> None:
    """What a person copies to a machine: the checkout, and wheels."""
    place = Path(f"{machine.root}{PLACE}")
    place.mkdir(parents=True)
    shutil.copytree(ROOT / "deploy", place / "deploy")
    shutil.copy(ROOT / "constraints.txt", place)
    shutil.copytree(wheels, place / "wheels")


def answering(machine: Box, release: str) -> str:
    """Wait until a release answers; what it says."""
    machine.until(f"curl -s {WEB}/health", lambda said: release in said)
    script = (
        f'curl -s --fail {WEB}/ -H "Authorization: Bearer $(cat /etc/randygpt/api-keys)" '
        '-d \'{"prompt": "the ", "max_tokens": 20, "temperature": 0}\''
    )
    return str(json.loads(machine.run(script))["text"])


def state(machine: Box, unit: str, *names: str) -> list[str]:
    shown = machine.run(f"systemctl show {unit} " + " ".join(f"-p {name}" for name in names))
    values = dict(line.split("=", 1) for line in shown.splitlines())
    return [values[name] for name in names]


def assert_well(machine: Box, *units: str) -> None:
    for unit in units:
        assert machine.run(f"systemctl is-active {unit}", check=False) == "active", machine.run(
            f"systemctl status {unit}", check=False
        )
    assert machine.run("systemctl --failed --no-legend --plain") == ""


SERVE, FOLLOW = "randygpt-serve.service", "randygpt-follow.service"


@pytest.mark.skipif(WHY_NOT != "" and "MUST_BOOT" not in os.environ, reason=f"NO MACHINE BOOTS HERE: {WHY_NOT}")
def test_a_machine_installed_by_the_page_serves_a_friends_model(tmp_path: Path, wheels: Path) -> None:
    assert WHY_NOT == ""
    page = Page()
    page.block("From an empty machine to the first answer", 1)  # as the wheels were made
    with box(tmp_path, {Path(torch.__file__).parents[1]: PACKAGES}) as machine:
        friend = Friend(machine, tmp_path / "friend")
        carry_in(machine, wheels)
        with friend.relay():
            first = friend.publish(1)
            with machine.booted():
                installation(machine, page, friend, first)
                secrets_and_walls(machine)
                crash_and_hang(machine, first)
                second = friend.publish(2)
                assert answering(machine, second) != ""
                npub = publishing(machine, page, friend)
                training(machine, friend, npub)
                everyday(machine, page)
                updates(machine, tmp_path, second)
        with machine.booted(network=False):
            answering(machine, second)
            assert_well(machine, SERVE, "randygpt-serve.socket", "randygpt.target", "multi-user.target")
            [words] = state(machine, FOLLOW, "StatusText")
            assert words == "following tiny: version 2, 0 of 1 relays"
            removal(machine, page)
    assert len(page.left()) == 2  # what needs the internet: from a repository, and a newer version of it


def substituted(block: str, friend: Friend) -> str:
    return block.replace("npub1…/tiny", f"{friend.npub}/tiny").replace("wss://relay.example", friend.url)


def installation(machine: Box, page: Page, friend: Friend, release: str) -> None:
    block = substituted(page.block("From an empty machine to the first answer", 2), friend)
    assert "+ systemctl enable" in machine.run(block.replace("install.sh", "install.sh --dry-run"))
    assert machine.run("ls /opt") == ""
    machine.run(block)
    said = machine.run(page.block("From an empty machine to the first answer", 3))
    assert json.loads(said.splitlines()[-1]).keys() == {"text", "model", "usage"}
    machine.until(f"systemctl is-active {FOLLOW}", lambda said: said == "active")
    answering(machine, release)
    assert_well(machine, SERVE, FOLLOW, "randygpt.target", "randygpt-serve.socket")
    assert state(machine, SERVE, "StatusText") == ["tiny version 1 answers"]
    assert state(machine, FOLLOW, "StatusText") == ["following tiny: version 1, 1 of 1 relays"]
    assert (
        machine.run("systemd-analyze verify --man=no /etc/systemd/system/randygpt*.{service,socket,path,target}") == ""
    )
    assert machine.run(f"curl -s -o /dev/null -w '%{{http_code}}' {WEB}/ -d '{{\"prompt\": \"the\"}}'") == "401"
    before = machine.run(f"systemctl show -p MainPID {SERVE}; ls -i /opt/randygpt/versions; md5sum /etc/randygpt/*")
    machine.run(block)  # again
    assert (
        machine.run(f"systemctl show -p MainPID {SERVE}; ls -i /opt/randygpt/versions; md5sum /etc/randygpt/*")
        == before
    )


def secrets_and_walls(machine: Box) -> None:
    key = machine.run("cat /etc/randygpt/api-keys")
    assert machine.run("stat -c '%a %U' /etc/randygpt/api-keys") == "600 root"
    for unit in (SERVE, FOLLOW):
        pid = state(machine, unit, "MainPID")[0]
        status = machine.run(f"cat /proc/{pid}/status")
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert re.search(rf"^{name}:\t0+$", status, re.MULTILINE), (unit, status)
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert not re.search(r"^Uid:\t0\t", status, re.MULTILINE)
        assert key not in machine.run(f"cat /proc/{pid}/environ /proc/{pid}/cmdline | tr '\\0' '\\n'")
        for place in ("/etc", "/usr", "/opt/randygpt", *(["/var/lib/randygpt"] if unit == SERVE else [])):
            said = machine.run(f"nsenter -t {pid} -m touch {place}/new 2>&1", check=False)
            assert "Read-only file system" in said, (unit, place, said)
    machine.run(f"nsenter -t {state(machine, FOLLOW, 'MainPID')[0]} -m touch /var/lib/randygpt/new")
    credential = "/run/credentials/randygpt-serve.service/api-keys"
    pid = state(machine, SERVE, "MainPID")[0]
    assert machine.run(f"nsenter -t {pid} -m stat -c %a {credential}") == "400"
    assert "denied" in machine.run(f"runuser -u randygpt -- cat {credential} 2>&1", check=False)
    interfaces = machine.run(f"nsenter -t {pid} -n ip -o link")
    assert interfaces.count("\n") == 0, interfaces  # a loopback device of its own


def crash_and_hang(machine: Box, release: str) -> None:
    for unit in (SERVE, FOLLOW):
        pid, restarts = state(machine, unit, "MainPID", "NRestarts")
        machine.run(f"kill -9 {pid}")
        machine.until(
            f"systemctl show -p NRestarts {unit}", lambda said, before=restarts: said != f"NRestarts={before}"
        )
        machine.until(f"systemctl is-active {unit}", lambda said: said == "active")
        assert state(machine, unit, "MainPID")[0] not in {pid, "0"}
    pid = state(machine, SERVE, "MainPID")[0]
    machine.run(f"kill -STOP {pid}")
    machine.until(f"systemctl show -p MainPID {SERVE}", lambda said: said not in {f"MainPID={pid}", "MainPID=0"})
    answering(machine, release)
    assert "Watchdog timeout" in machine.run(f"journalctl --no-pager -u {SERVE}")


def published(friend: Friend, name: str) -> str | None:
    """The hash of the newest checkpoint under a name, if there is any."""
    done = friend.try_run("fetch", name, "--relay", friend.url, "--json")
    return json.loads(done.stdout)["files"][0]["sha256"] if done.returncode == 0 else None


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def publishing(machine: Box, page: Page, friend: Friend) -> str:
    """Publish from the machine, each time the checkpoint is replaced, with a key of its own; its public half."""
    write_tiny(friend.home / "tiny_best.bin", seed=5, name="mine")
    for name in ("tiny_best.bin", "tiny_best.json"):
        shutil.copy(friend.home / name, f"{machine.root}/root/{name}")
    block = page.block("To publish from this machine")
    npub = machine.run(block).splitlines()[0]
    eventually(lambda: published(friend, f"{npub}/mine") == sha256(friend.home / "tiny_best.bin"))
    for seed in (6, 7, 8):  # one after the other, whether or not the one before is still being published
        better = write_tiny(friend.home / "better.bin", seed=seed)
        shutil.copy(better, f"{machine.root}/root/tiny_best.bin")
        machine.run(block.splitlines()[-1])
    eventually(lambda: published(friend, f"{npub}/mine") == sha256(better))
    assert "mine version 2 by" in machine.run("journalctl --no-pager -u randygpt-publish")
    secret = machine.run("cat /etc/randygpt/nsec")
    assert secret.startswith("nsec1")
    assert machine.run("stat -c '%a %U' /etc/randygpt/nsec") == "600 root"
    assert secret not in machine.run("journalctl --no-pager --output=json --all")
    assert secret not in machine.run("for each in /proc/[0-9]*; do tr '\\0' '\\n' <$each/environ || true; done")
    for unit in (SERVE, FOLLOW):
        who = machine.run(f"stat -c --reuid=%u /proc/{state(machine, unit, 'MainPID')[0]}")
        for file in ("nsec", "api-keys"):
            said = machine.run(f"setpriv {who} --clear-groups cat /etc/randygpt/{file} 2>&1", check=False)
            assert said.endswith("Permission denied"), (unit, said)
    return npub


def training(machine: Box, friend: Friend, npub: str) -> None:
    """Training as a service: it goes on after a crash, saves when it is told to stop, and its best is published."""
    unit, place = "randygpt-train.service", "/var/lib/randygpt-train"
    machine.run(f"echo {PACKAGES} >packages.pth; cp packages.pth /opt/randygpt/current/lib/python3.*/site-packages/")
    Path(f"{machine.root}{place}/train.txt").write_text(TEXT)
    machine.run(f"chmod 644 {place}/train.txt")
    settings = ["[train]", "iters = 1000000", "dim = 16", "heads = 2", "layers = 1", "block = 32", "batch = 2"]
    with Path(f"{machine.root}/etc/randygpt/config.toml").open("a") as file:
        file.write("\n".join(["", *settings, ""]))
    machine.run("randygpt config check")
    run_for_a_while(machine, 1)
    machine.run(f"systemctl stop {unit}")
    saved = iteration(machine)
    run_for_a_while(machine, 2)
    machine.run(f"systemctl kill --signal=KILL {unit}")
    machine.until(f"systemctl show -p NRestarts {unit}", lambda said: said == "NRestarts=1")
    run_for_a_while(machine, 3)
    machine.run(f"systemctl stop {unit}")
    assert iteration(machine) > saved
    assert "Deactivated successfully" in machine.run(f"journalctl --no-pager --unit {unit}")
    best = json.loads(machine.run(f"randygpt show {place}/checkpoint_best.bin --json"))["sha256"]
    eventually(lambda: published(friend, f"{npub}/randygpt-train") == best)


def run_for_a_while(machine: Box, times: int) -> None:
    """Have the trainer run, for the first, second, … time, until it has done something then."""
    machine.run("systemctl start randygpt-train.service")
    machine.until("journalctl --no-pager -u randygpt-train", lambda said: said.count("text: train.txt") == times)
    size = machine.run("wc -c /var/lib/randygpt-train/checkpoint.metrics.jsonl", check=False)
    machine.until("wc -c /var/lib/randygpt-train/checkpoint.metrics.jsonl", lambda said: said != size)


def iteration(machine: Box) -> int:
    return int(json.loads(machine.run("randygpt show /var/lib/randygpt-train/checkpoint.bin --json"))["iteration"])


def everyday(machine: Box, page: Page) -> None:
    """The rest of the page's commands, on a machine that is well."""
    machine.run(page.block("Settings", 0))
    before = machine.run(f"curl -s {WEB}/health")
    for _ in range(2):  # there, and back
        assert "current" in machine.run(page.block("Settings", 1))
        machine.until(f"curl -s {WEB}/health", lambda said, was=before: said != was)
        before = machine.run(f"curl -s {WEB}/health")
    said = machine.run(page.block("Watching it"))
    assert '"status":"ok"' in said
    assert "randygpt_" in said
    kept = machine.run(page.block("Keys, and what to keep a copy of") + "tar --list --file randygpt-keys.tar.gz")
    assert {"etc/randygpt/nsec", "var/lib/randygpt/state/seen.json"} <= set(kept.splitlines())
    assert "OK" in machine.run(f"{PLACE}/deploy/check-units.sh")
    machine.run("systemctl start randygpt-relay.service")  # its socket is seen by the test below
    assert state(machine, "randygpt-relay.service", "ActiveState") == ["active"]


def changed_program(folder: Path, version: str, *, serve: str = "") -> Path:
    """A folder with a wheel of another version of this program, `serve` being what its server does first."""
    source = copied(folder / f"source-{version}")
    replace_in(source / "randygpt" / "__init__.py", r'__version__ = ".*"', f'__version__ = "{version}"')
    if serve:
        replace_in(source / "randygpt" / "cli" / "serve.py", r"    keys = _keys\(", f"    {serve}\n    keys = _keys(")
    wheel = folder / f"wheel-{version}"
    build(source, wheel)
    return wheel


def replace_in(path: Path, pattern: str, text: str) -> None:
    changed, count = re.subn(pattern, text, path.read_text(encoding="utf-8"))
    assert count == 1
    path.write_text(changed, encoding="utf-8")


def updates(machine: Box, folder: Path, release: str) -> None:
    """A version that does not start is taken back by itself; one that does is there."""
    program = machine.run("readlink -f /opt/randygpt/current")
    for version, serve in (("98.0", 'raise OSError("a bad version")'), ("99.0", "")):
        shutil.copytree(
            changed_program(folder, version, serve=serve), f"{machine.root}{PLACE}/wheels", dirs_exist_ok=True
        )
        said = machine.run(f"cd {PLACE}; deploy/install.sh --wheels wheels || echo ended with $?")
        answering(machine, release)
        assert_well(machine, SERVE, FOLLOW)
        if serve:
            assert "going back" in said
            assert said.endswith("ended with 1")
            assert machine.run("readlink -f /opt/randygpt/current") == program
        else:
            assert machine.run("randygpt --version") == f"randygpt {version}"
            assert machine.run("ls /opt/randygpt/versions").count("\n") == 1  # and the one before


def removal(machine: Box, page: Page) -> None:
    machine.run(page.block("New versions of the program", 1))
    assert "randygpt" not in machine.run(
        "ls -R /etc/systemd/system /etc/sysusers.d /etc/tmpfiles.d /opt /usr/local/bin"
    )
    assert machine.run("pgrep -f /opt/randygpt", check=False) == ""
    assert set(machine.run("ls /etc/randygpt").split()) == {"api-keys", "config.toml", "nsec"}
    assert "store" in machine.run("ls /var/lib/randygpt")
