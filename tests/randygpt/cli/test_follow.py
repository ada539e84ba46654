"""The command `randygpt follow`: its processes, signals, and the post-install hook."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.command import TIMEOUT_S, environment, invoke, only_line
from support.releases import publish, tiny_sources, visible
from support.scripted_relay import ScriptedRelay

from distribution.errors import NotFound
from distribution.events import HEAD_KIND
from distribution.follow import Failed, VersionRevoked
from distribution.trust_list import TrustList, TrustStore
from randygpt.cli.follow import Event, _Report
from randygpt.cli.post_install import PostInstallHook
from relay_client.keys import SecretKey
from relay_client.local_relay import LocalRelay
from relay_client.nip19 import encode_npub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def once(home: Path, npub: str, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return invoke(home, "follow", f"{npub}/demo", "--once", "--relay", url, *words)


@contextlib.asynccontextmanager
async def following(home: Path, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "randygpt", "follow", *words),
        env=environment(home),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def text_in(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def line(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    async with asyncio.timeout(TIMEOUT_S):
        return (await stream.readline()).decode()


async def installed(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """Return the next install; errors about a half-published release may precede it."""
    async with asyncio.timeout(TIMEOUT_S):
        while (event := json.loads(await line(process.stdout)))["event"] != "installed":
            pass
    return dict(event)


def test_follow_once_installs_the_latest_version(
    threaded_relay: ScriptedRelay, tmp_path: Path, home: Path, key: SecretKey
) -> None:
    npub, author = encode_npub(key.pubkey), tmp_path / "author"
    relay = threaded_relay
    releases = [asyncio.run(publish([relay.url], author, key, tiny_sources(seed=seed))).release for seed in (1, 2)]
    kept = tmp_path / "kept"
    done = once(home, npub, relay.url, "--json", "--exec", f"env | grep ^RANDYGPT_ | sort > {kept}; exit 3")
    assert done.returncode == 0
    assert done.stderr == "--exec: command failed with exit code 3\n"
    assert json.loads(done.stdout)["release"] == releases[1].id.hex()
    variables = dict(each.split("=", 1) for each in kept.read_text().splitlines())
    folder = home / "store" / "releases" / releases[1].id.hex()
    expected = {
        "RANDYGPT_HOME": str(home),
        "RANDYGPT_RELEASE": releases[1].id.hex(),
        "RANDYGPT_NAME": "demo",
        "RANDYGPT_VERSION": "2",
        "RANDYGPT_AUTHOR": npub,
        "RANDYGPT_CHECKPOINT": str(folder / "checkpoint_best.bin"),
        "RANDYGPT_FOLDER": str(folder),
    }
    assert {name: variables.get(name) for name in expected} == expected
    again = once(home, npub, relay.url)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "no new version\n")
    before = visible(home)
    relay.deliver = lambda e: None if e["kind"] == HEAD_KIND and ["version", "2"] in e["tags"] else e
    rolled_back = once(home, npub, relay.url)
    unreachable = once(home, npub, "ws://127.0.0.1:1")
    assert (rolled_back.returncode, unreachable.returncode) == (3, 4)
    assert "older than 2" in only_line(rolled_back.stderr)
    assert visible(home) == before


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.full), (signal.SIGTERM, 143)]
)
async def test_hanging_hook_blocks_nothing_and_ends_on_signal(
    relay: str, tmp_path: Path, home: Path, key: SecretKey, number: int, code: int
) -> None:
    npub, author, pids = encode_npub(key.pubkey), tmp_path / "author", tmp_path / "pids"
    words = (f"{npub}/demo", "--relay", relay, "--json", "--exec", f"echo $$ >> {pids}; sleep 1000")
    async with following(home, *words) as process:
        for version in (1, 2):
            await publish([relay], author, key, tiny_sources(seed=version))
            assert (await installed(process))["version"] == version
        async with asyncio.timeout(TIMEOUT_S):
            while not text_in(pids):  # noqa: ASYNC110 (another process writes it)
                await asyncio.sleep(0.01)
        process.send_signal(number)
        async with asyncio.timeout(TIMEOUT_S):
            assert await process.wait() == code
        assert process.stderr is not None
        assert "Traceback" not in (await process.stderr.read()).decode()
    (pid,) = text_in(pids).split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    (status,) = json.loads((home / "state" / "follow.json").read_bytes()).values()
    assert (status["running"], status["last_install"]["version"]) == (False, 2)


async def test_notify_only_installs_nothing(relay: str, tmp_path: Path, home: Path, key: SecretKey) -> None:
    npub = encode_npub(key.pubkey)
    await TrustStore(home).add(key.pubkey, "alice")
    async with following(home, "alice/demo", "--relay", relay, "--notify-only") as process:
        assert await line(process.stderr) == f"following demo by alice ({npub}) on {relay}\n"
        await publish([relay], tmp_path / "author", key, tiny_sources())
        async with asyncio.timeout(TIMEOUT_S):
            while "demo version 1 by alice" not in (text := await line(process.stdout)):
                assert text
    assert {path.split("/")[0] for path in visible(home)} == {"state"}


@pytest.mark.full
async def test_outages_are_shown(free_port: int, tmp_path: Path, home: Path, key: SecretKey) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with LocalRelay(port=free_port) as relay:
            await publish([relay.url], tmp_path / "author", key, tiny_sources())
            name = f"{encode_npub(key.pubkey)}/demo"
            process = await stack.enter_async_context(following(home, name, "--relay", relay.url, "--json"))
            await installed(process)
        events: list[dict[str, Any]] = []
        async with asyncio.timeout(TIMEOUT_S):
            while not events or events[-1]["event"] != "disconnected":
                events.append(json.loads(await line(process.stdout)))
            async with LocalRelay(port=free_port):
                while events[-1]["event"] != "connected":
                    events.append(json.loads(await line(process.stdout)))
    lost = next(event for event in events if event["event"] == "disconnected")
    assert lost["relay"] == f"ws://127.0.0.1:{free_port}"
    assert lost["reason"]


def test_page_explains_every_event(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs/distribution.md").read_text(encoding="utf-8")
    table = page[page.index("| `event` | meaning") :]
    rows = re.findall(r"^\| `([a-z ]+)` \|[^|]+\|([^|]*)\|$", table[: table.index("\n\n")], re.MULTILINE)
    explained = {event: {*re.findall("`([a-z_]+)`", keys)} for event, keys in rows if event != "event"}
    assert explained.keys() == {event.value for event in Event}
    report = _Report(TrustList(), None, as_json=True, quiet=False)
    report.on_update(VersionRevoked(release_id=bytes(32), name="demo", version=2, reason="wrong text"))
    report.on_update(Failed(error=NotFound("nothing")))
    for reason in ("refused", ""):
        report.on_links({"wss://relay.example": reason})
    report.on_no_update()
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each.pop("event") for each in printed] == [*Event][2:]
    assert [each.keys() for each in printed] == [explained[event.value] for event in [*Event][2:]]


def test_allowlist_limits_who_is_followed(threaded_relay: ScriptedRelay, home: Path, key: SecretKey) -> None:
    assert invoke(home, "trust", "policy", "allowlist").returncode == 0
    done = once(home, encode_npub(key.pubkey), threaded_relay.url)
    assert (done.returncode, done.stdout, threaded_relay.requests) == (3, "", [])
    assert "not trusted" in only_line(done.stderr)


@pytest.mark.parametrize(
    ("reference", "says"),
    [("0" * 64, "follow a name"), ("{npub}/Bad Name", "not the name of a model"), ("{npub}", "npub…/name")],
)
def test_reference_without_a_name_cannot_be_followed(home: Path, key: SecretKey, reference: str, says: str) -> None:
    done = invoke(home, "follow", reference.format(npub=encode_npub(key.pubkey)), "--relay", "ws://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert says in only_line(done.stderr)
    assert list(home.iterdir()) == []


# --- post-install hook


async def test_hooks_run_one_after_the_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    hook = PostInstallHook(f"echo $N >> {out}; exit $N")
    for number in "123":
        hook.start({"N": number})
    await hook.finish()
    assert out.read_text() == "1\n2\n3\n"
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [f"--exec: command failed with exit code {number}" for number in "123"]


async def test_hook_is_killed_at_its_deadline(capfd: pytest.CaptureFixture[str]) -> None:
    hook = PostInstallHook("sleep 1000 & wait", deadline_s=0.05)
    for _ in range(2):
        hook.start({})
    await hook.finish()
    shown = capfd.readouterr()
    assert (shown.out, shown.err.splitlines()) == ("", 2 * ["--exec: command killed after 0.05 s"])


async def test_hook_output_and_missing_command(capfd: pytest.CaptureFixture[str]) -> None:
    for command in ("no-such-command-here", "echo hello"):
        hook = PostInstallHook(command)
        hook.start({})
        await hook.finish()
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "--exec: command failed with exit code 127" in shown.err
    assert "hello\n" in shown.err
