"""A Debian boots, is installed on as docs/deploy.md says, and meets what machines meet: crashes, outages, updates.

Every command of the page is run as it stands there. Substituted are addresses: of the repository, of the package index
and of the relay, all of which are on this machine, and the author's name. apt has no sources: it finds its packages
installed.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.box import GIVE_UP_S, Box, box, why_not
from support.box_author import BoxAuthor
from support.deploy_page import Page, Repository, index, shell
from support.models import TEXT, write_tiny

from randygpt.training.device import fastest_precision

pytestmark = pytest.mark.full

WHY_NOT = why_not()
WEB = "http://127.0.0.1:8080"
# Folders of this machine, as the box sees them.
REPOSITORY = "/mnt/repository"
INDEX = "/mnt/index"
PACKAGES = "/mnt/packages"  # of the Python of the tests
FROM_NOTHING, PUBLISH, UPDATE = (
    "Installation",
    "Publishing from this machine",
    "Updates",
)
SERVE, FOLLOW, PUBLISHER = "randygpt-serve.service", "randygpt-follow.service", "randygpt-publish.service"


def answering(machine: Box, release: str) -> str:
    """Wait until a release answers; return its text."""
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
    failed = machine.run("systemctl --failed --no-legend --plain")
    assert failed == "", f"{failed}\n{machine.run('journalctl --no-pager --lines=80')}"


@pytest.mark.skipif(WHY_NOT != "" and "MUST_BOOT" not in os.environ, reason=f"NO MACHINE BOOTS HERE: {WHY_NOT}")
def test_machine_set_up_from_the_page_serves(tmp_path: Path) -> None:
    assert WHY_NOT == ""
    page, repository = Page(), Repository(tmp_path / "repository")
    carried = tmp_path / "carried"  # what is made for a machine without a network
    shell(f"git clone --quiet '{repository.folder}' '{carried}'", tmp_path)
    shell(page.block(FROM_NOTHING, 1), carried)
    shown = {
        repository.folder: REPOSITORY,
        index(tmp_path / "index", carried / "wheels", PACKAGES): INDEX,
        Path(torch.__file__).parents[1]: PACKAGES,
    }
    with box(tmp_path, shown) as machine:
        author = BoxAuthor(machine, tmp_path / "author")
        with author.relay():
            first = author.publish(1)
            with machine.booted():
                installation(machine, page, author, first)
                secrets_and_walls(machine)
                crash(machine)
                second = author.publish(2)
                assert answering(machine, second) != ""
                npub = publishing(machine, page, author)
                training(machine, page, author, npub)
                mistakes(machine, page, second)
                relay_for_others(machine, page, author)
                everyday(machine, page)
                restoring(machine, page, second)
                moving(machine, page, second)
                bad_update(machine, page, repository, second)
        with machine.booted(network=False):
            answering(machine, second)
            assert_well(machine, SERVE, "randygpt-serve.socket", "randygpt.target", "multi-user.target")
            without_a_network(machine)
            good_update(machine, page, repository, second)
            removal(machine, page)
            shutil.rmtree(f"{machine.root}/root/randygpt")
            shutil.copytree(carried, f"{machine.root}/root/randygpt")
            machine.run(substituted(page.block(FROM_NOTHING, 2), author))
            answering(machine, second)
    assert page.left() == set()


def substituted(block: str, author: BoxAuthor) -> str:
    for written, meant in (
        ("YOUR-COPY-OF-THIS-REPOSITORY", REPOSITORY),
        ("npub1…/tiny", f"{author.npub}/tiny"),
        ("npub1…", author.npub),
        ("wss://relay.example", author.url),
    ):
        block = block.replace(written, meant)
    return block


def installation(machine: Box, page: Page, author: BoxAuthor, release: str) -> None:
    machine.run(f"""
        rm -rf /etc/apt/sources.list* /var/lib/apt/lists/*
        printf '[global]\\nindex-url = file://{INDEX}\\n' >/etc/pip.conf
    """)
    *preparation, install = substituted(page.block(FROM_NOTHING), author).splitlines()
    machine.run("\n".join(preparation))
    assert "+ systemctl enable" in machine.run(f"{install} --dry-run")
    assert machine.run("ls /opt") == ""
    machine.run(install)
    said = machine.run(page.block(FROM_NOTHING, 3))
    assert json.loads(said.splitlines()[-1]).keys() == {"text", "model", "usage"}
    machine.until(f"systemctl is-active {FOLLOW}", lambda said: said == "active")
    answering(machine, release)
    assert_well(machine, SERVE, FOLLOW, "randygpt.target", "randygpt-serve.socket")
    as_service = "runuser -u randygpt -- env RANDYGPT_HOME=/var/lib/randygpt randygpt"
    assert json.loads(machine.run(f"{as_service} gc --dry-run --json"))["quota"] == 20 << 30
    assert state(machine, SERVE, "StatusText") == ["serving tiny version 1"]
    assert state(machine, FOLLOW, "StatusText") == ["following tiny: version 1, 1 of 1 relays"]
    assert (
        machine.run("systemd-analyze verify --man=no /etc/systemd/system/randygpt*.{service,socket,path,target}") == ""
    )
    assert machine.run(f"curl -s -o /dev/null -w '%{{http_code}}' {WEB}/ -d '{{\"prompt\": \"the\"}}'") == "401"
    before = machine.run(f"systemctl show -p MainPID {SERVE}; ls -i /opt/randygpt/versions; md5sum /etc/randygpt/*")
    machine.run(f"mv /etc/pip.conf .; {install} --index file://{INDEX}; mv pip.conf /etc")  # again
    assert (
        machine.run(f"systemctl show -p MainPID {SERVE}; ls -i /opt/randygpt/versions; md5sum /etc/randygpt/*")
        == before
    )


def secrets_and_walls(machine: Box) -> None:
    keys = "/etc/randygpt/api-keys"
    key = machine.run(f"cat {keys}")
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
        assert_hidden(machine, keys, unit)
    machine.run(f"nsenter -t {state(machine, FOLLOW, 'MainPID')[0]} -m touch /var/lib/randygpt/new")
    credential = "/run/credentials/randygpt-serve.service/api-keys"
    pid = state(machine, SERVE, "MainPID")[0]
    assert machine.run(f"nsenter -t {pid} -m stat -c %a {credential}") == "400"
    assert "denied" in machine.run(f"runuser -u randygpt -- cat {credential} 2>&1", check=False)
    interfaces = machine.run(f"nsenter -t {pid} -n ip -o link")
    assert interfaces.count("\n") == 0, interfaces  # a loopback device of its own


def assert_hidden(machine: Box, file: str, *units: str) -> None:
    """Assert that the users of these services cannot read a file."""
    for unit in units:
        who = machine.run(f"stat -c --reuid=%u /proc/{state(machine, unit, 'MainPID')[0]}")
        said = machine.run(f"setpriv {who} --clear-groups cat {file} 2>&1", check=False)
        assert said.endswith("Permission denied"), (unit, said)


def crash(machine: Box) -> None:
    pid = state(machine, SERVE, "MainPID")[0]
    machine.run(f"kill -9 {pid}")
    machine.until(f"systemctl show -P NRestarts {SERVE}", lambda said: said == "1")
    machine.until(f"systemctl is-active {SERVE}", lambda said: said == "active")
    assert state(machine, SERVE, "MainPID")[0] not in {pid, "0"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def hurry(machine: Box) -> None:
    """End the pause between two attempts to publish."""
    machine.run(f"kill $(pgrep -x sleep -P $(systemctl show -P MainPID {PUBLISHER}))", check=False)


def publishing(machine: Box, page: Page, author: BoxAuthor) -> str:
    """Publish from the machine, each time the checkpoint is replaced, with a key of its own; its public half."""

    def better(seed: int) -> Path:
        path = write_tiny(author.home / "tiny_best.bin", seed=seed, name="mine")
        for each in (path, path.with_suffix(".json")):
            shutil.copy(each, f"{machine.root}/root/{each.name}")
        machine.run(page.block(PUBLISH, 1))
        return path

    def is_published(path: Path) -> bool:
        hurry(machine)
        return author.published(f"{npub}/mine") == sha256(path)

    machine.run("systemctl enable --now randygpt-publish.path")
    first = better(5)  # and the key is forgotten
    machine.until(f"systemctl is-failed {PUBLISHER}", lambda said: said == "failed")
    assert state(machine, PUBLISHER, "ExecMainStatus", "NRestarts") == ["243", "0"]
    npub = machine.run(page.block(PUBLISH)).splitlines()[0]
    machine.run(page.advice("publish failed with `243/CREDENTIALS`"))
    eventually(lambda: is_published(first))
    secret = machine.run("cat /etc/randygpt/nsec")
    assert secret.startswith("nsec1")
    assert machine.run("stat -c '%a %U' /etc/randygpt/nsec") == "600 root"
    with author.away():  # the service retries by itself, and does not fail
        for seed in (6, 7):
            last = better(seed)
        hurry(machine)
        machine.until(f"journalctl --no-pager -u {PUBLISHER}", lambda said: "not published yet" in said)
        assert state(machine, PUBLISHER, "ActiveState", "NRestarts") == ["activating", "0"]
        machine.until(f"systemctl show -P StatusText {FOLLOW}", lambda said: "0 of 1 relays" in said)
        assert state(machine, FOLLOW, "ActiveState") == ["active"]
    eventually(lambda: is_published(last))
    assert "mine version 2" in machine.run(f"journalctl --no-pager -u {PUBLISHER}")
    locked_key(machine, page)
    locked = better(8)
    eventually(lambda: is_published(locked))
    machine.run(f"systemctl revert {PUBLISHER}; mv /etc/randygpt/opened /etc/randygpt/nsec; rm /etc/randygpt/password")
    assert secret not in machine.run("journalctl --no-pager --output=json --all")
    assert secret not in machine.run("cat /proc/[0-9]*/{environ,cmdline} | tr '\\0' '\\n' || true")
    return npub


def locked_key(machine: Box, page: Page) -> None:
    """Lock the key with a password, which its unit has to be given; `opened` is the key as it was."""
    machine.run("""
        cd /etc/randygpt
        umask 077
        echo 'a password' >password
        randygpt keys export --key-file nsec --new-password-file password locked
        mv nsec opened
        mv locked nsec
    """)
    machine.run(f"systemctl restart {PUBLISHER}", check=False)
    assert state(machine, PUBLISHER, "ActiveState", "ExecMainStatus", "NRestarts") == ["failed", "2", "0"]
    override(machine, page, PUBLISH, PUBLISHER)


def override(machine: Box, page: Page, heading: str, unit: str) -> None:
    """Write a drop-in file, as `systemctl edit` does."""
    folder = Path(f"{machine.root}/etc/systemd/system/{unit}.d")
    folder.mkdir()
    (folder / "override.conf").write_text(page.override(heading))
    machine.run("systemctl daemon-reload")


def training(machine: Box, page: Page, author: BoxAuthor, npub: str) -> None:
    """Check training as a service: it resumes after a crash, saves on stop, and its best checkpoint is published."""
    unit, place = "randygpt-train.service", "/var/lib/randygpt-train"
    Path(f"{machine.root}/root/my.txt").write_text(TEXT)
    settings = [
        "[publish]",
        'name = "trained"',
        "[train]",
        "iters = 1000000",
        "dim = 16",
        "heads = 2",
        "layers = 1",
        "block = 32",
        "batch = 2",
    ]
    with Path(f"{machine.root}/etc/randygpt/config.toml").open("a") as file:
        file.write("\n".join(["", *settings, ""]))
    machine.run("randygpt config check")
    machine.run(f"rm /etc/randygpt/api-keys; systemctl restart {SERVE}", check=False)
    assert state(machine, SERVE, "ActiveState", "ExecMainStatus", "NRestarts") == ["failed", "243", "0"]
    machine.run(page.block(PUBLISH, 2))  # install.sh makes new keys, and starts what had failed
    machine.until(f"systemctl is-active {SERVE}", lambda said: said == "active")
    for crashing, first in ((SERVE, "STOP"), (FOLLOW, "KILL")):  # one hangs before it crashes
        machine.run(f"""systemd-run --quiet --unit=crashes-of-{crashing} /bin/bash -c '
            systemctl kill --signal={first} {crashing}
            until [ $(systemctl show -P NRestarts {crashing}) != 0 ]; do sleep 0.5; done
            until [ $(systemctl is-failed {crashing}) = failed ]; do
              systemctl kill --signal=KILL {crashing}
              sleep 0.5
            done'""")
    run_for_a_while(machine, 1)
    said = machine.run(f"journalctl --no-pager -u {unit}")
    assert f"cpu, {fastest_precision('cpu')}\n" in said  # the walls do not hide the processor
    assert "iteration" in state(machine, unit, "StatusText")[0]
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

    def is_published() -> bool:
        hurry(machine)
        return bool(author.published(f"{npub}/trained") == best)

    eventually(is_published)


def run_for_a_while(machine: Box, times: int) -> None:
    """Start the trainer for the nth time and wait until it has trained."""
    machine.run("systemctl start randygpt-train.service")
    machine.until("journalctl --no-pager -u randygpt-train", lambda said: said.count("text    train.txt") == times)
    size = machine.run("wc -c /var/lib/randygpt-train/checkpoint.metrics.jsonl", check=False)
    machine.until("wc -c /var/lib/randygpt-train/checkpoint.metrics.jsonl", lambda said: said != size)


def iteration(machine: Box) -> int:
    return int(json.loads(machine.run("randygpt show /var/lib/randygpt-train/checkpoint.bin --json"))["iteration"])


def mistakes(machine: Box, page: Page, release: str) -> None:
    """Check that crash loops and wrong settings end restarts, and that the page's advice recovers from both."""
    too_often = "Start request repeated too quickly"
    for unit in (SERVE, FOLLOW):
        machine.until(f"systemctl is-active crashes-of-{unit}", lambda said: said == "inactive")
        assert state(machine, unit, "ActiveState") == ["failed"]
        assert too_often in machine.run(f"journalctl --no-pager -u {unit}")
        assert 4 <= int(state(machine, unit, "NRestarts")[0]) <= 6
    assert "Watchdog timeout" in machine.run(f"journalctl --no-pager -u {SERVE}")
    machine.run(page.advice(too_often))
    answering(machine, release)
    machine.until(f"systemctl is-active {FOLLOW}", lambda said: said == "active")
    machine.run("systemctl stop randygpt-train.service")
    check, restart = page.advice("follow failed with status 2").splitlines()
    machine.run("cp /etc/randygpt/config.toml right.toml; printf '[serve]\\nprot = 1\\n' >>/etc/randygpt/config.toml")
    machine.run(restart)
    machine.until(f"systemctl is-failed {FOLLOW}", lambda said: said == "failed")
    assert state(machine, FOLLOW, "ExecMainStatus", "NRestarts") == ["2", "0"]
    assert "serve.prot: no such setting" in machine.run(check, check=False)
    machine.run(f"cp right.toml /etc/randygpt/config.toml; {restart}")
    machine.until(f"systemctl is-active {FOLLOW}", lambda said: said == "active")
    assert_well(machine, SERVE, FOLLOW)


def everyday(machine: Box, page: Page) -> None:
    """Run the page's other commands on a healthy machine."""
    machine.run(page.block("Settings", 0))
    before = machine.run(f"curl -s {WEB}/health")
    for _ in range(2):  # there, and back
        assert "current" in machine.run(page.block("Settings", 1) + page.advice("no space"))
        machine.until(f"curl -s {WEB}/health", lambda said: said != before)  # noqa: B023 (read before the next turn)
        before = machine.run(f"curl -s {WEB}/health")
    said = machine.run(page.block("Monitoring"))
    assert '"status":"ok"' in said
    assert "randygpt_" in said
    kept = machine.run(page.block("Backups") + "tar --list --file randygpt-keys.tar.gz")
    assert {"etc/randygpt/nsec", "var/lib/randygpt/state/seen.json"} <= set(kept.splitlines())
    assert_hidden(machine, "/etc/randygpt/nsec", SERVE, FOLLOW)
    assert "OK" in machine.run("randygpt/deploy/check-units.sh")
    override(machine, page, "Settings", "randygpt-serve.socket")
    machine.run("systemctl restart randygpt-serve.socket")
    assert '"status":"ok"' in machine.run(f"curl -s --fail {WEB.replace('8080', '9090')}/health")
    machine.run("systemctl revert randygpt-serve.socket; systemctl restart randygpt-serve.socket")


def relay_for_others(machine: Box, page: Page, author: BoxAuthor) -> None:
    """Check that the relay accepts events of the author alone."""
    machine.run(substituted(page.block("A relay for others"), author))
    assert state(machine, "randygpt-relay.service", "ActiveState") == ["active"]
    assert f'allow = ["{author.npub}"]' in machine.run("cat /etc/randygpt/config.toml")
    author.run("relays", "check", "ws://127.0.0.1:7777", "--send")
    said = machine.run("! randygpt relays check ws://127.0.0.1:7777 --send")
    assert "not on the relay's list" in said


def restoring(machine: Box, page: Page, release: str) -> None:
    """Check that the backup brings back keys, settings and the versions seen."""
    machine.run("systemctl stop 'randygpt*'; mv /etc/randygpt gone; mv /var/lib/randygpt/state gone-state")
    machine.run(page.block("Backups", 1))
    answering(machine, release)
    machine.until(f"systemctl is-active {FOLLOW}", lambda said: said == "active")
    assert machine.run("diff --recursive gone /etc/randygpt") == ""
    assert machine.run("stat -c %U /var/lib/randygpt/state/seen.json") == "randygpt"
    assert_well(machine, SERVE, FOLLOW)


def moving(machine: Box, page: Page, release: str) -> None:
    """Check that the services use a store that was moved to another disk."""
    machine.run(page.block("Backups", 2))
    answering(machine, release)
    machine.until(f"systemctl is-active {FOLLOW}", lambda said: said == "active")
    assert machine.run("stat -c %i /var/lib/randygpt/store") == machine.run("stat -c %i /srv/models/randygpt/store")
    assert_well(machine, SERVE, FOLLOW)


def bad_update(machine: Box, page: Page, repository: Repository, release: str) -> None:
    """Check that an update that does not start is rolled back."""
    program = machine.run("readlink -f /opt/randygpt/current")
    repository.change("randygpt/__init__.py", r'__version__ = ".*"', '__version__ = "98.0"')
    repository.change("randygpt/cli/serve.py", r"    keys = _keys\(", '    raise OSError("bad")\n    keys = _keys(')
    said = machine.run(f"set +e\n{page.block(UPDATE)}\necho ended with $?")
    assert "rolling back" in said
    assert said.endswith("ended with 1")
    assert machine.run("readlink -f /opt/randygpt/current") == program
    answering(machine, release)
    assert_well(machine, SERVE, FOLLOW)


def without_a_network(machine: Box) -> None:
    """Check after a boot without a network: enabled units are active, and those that need a network wait."""
    machine.until(f"journalctl --boot --no-pager -u {PUBLISHER}", lambda said: "not published yet" in said)
    for unit in (FOLLOW, PUBLISHER):
        assert state(machine, unit, "ActiveState", "NRestarts") == ["activating", "0"]
    assert state(machine, FOLLOW, "StatusText") == ["following tiny: version 2, 0 of 1 relays"]
    machine.until("systemctl is-active randygpt-train.service", lambda said: said == "active")
    machine.run("systemctl stop randygpt-train.service")


def good_update(machine: Box, page: Page, repository: Repository, release: str) -> None:
    """Check that an update reaches all services, also those that wait, and keeps torch."""
    waiting = state(machine, FOLLOW, "MainPID")
    repository.change("randygpt/__init__.py", r'__version__ = ".*"', '__version__ = "99.0"')
    repository.change("randygpt/cli/serve.py", r'    raise OSError\("bad"\)\n', "")
    machine.run(page.block(UPDATE))
    answering(machine, release)
    assert machine.run("randygpt --version") == "randygpt 99.0"
    assert machine.run("ls /opt/randygpt/versions").count("\n") == 1  # and the one before
    assert state(machine, FOLLOW, "MainPID") != waiting
    machine.run("/opt/randygpt/current/bin/python -c 'import torch'")


def removal(machine: Box, page: Page) -> None:
    machine.run(page.block(UPDATE, 1))
    assert "randygpt" not in machine.run(
        "ls -R /etc/systemd/system /etc/sysusers.d /etc/tmpfiles.d /opt /usr/local/bin"
    )
    assert machine.run("pgrep -f /opt/randygpt", check=False) == ""
    assert set(machine.run("ls /etc/randygpt").split()) == {"api-keys", "config.toml", "nsec"}
    assert "store" in machine.run("ls /var/lib/randygpt")
