"""A key that is planted, and looked for wherever a process may leave it: it is in its file, and nowhere else."""

import base64
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.bunker import TOKEN, bunker_on_thread
from support.command import TIMEOUT_S, background, environment, invoke, invoke_with_input
from support.models import write_tiny
from support.scripted_relay import ScriptedRelay

from randygpt import publishing
from randygpt.cli.main import run
from relay_client.keys import SecretKey
from relay_client.nip46 import client

SECRET = bytes.fromhex("5eed" * 16)
KEY = SecretKey(SECRET)
FORMS = (
    KEY.reveal_nsec().encode(),
    KEY.reveal_nsec().upper().encode(),
    KEY.reveal_nsec().removeprefix("nsec1").encode(),
    SECRET,
    SECRET.hex().encode(),
    SECRET.hex().upper().encode(),
    base64.b64encode(SECRET).rstrip(b"="),
    repr(SECRET)[2:-1].encode(),
    str(int(SECRET.hex(), 16)).encode(),
)


def shows_the_secret(*seen: bytes | str) -> bool:
    texts = [text.encode() if isinstance(text, str) else text for text in seen]
    return any(form in text for text in texts for form in FORMS)


def files(*folders: Path) -> Iterable[Path]:
    return (path for folder in folders for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a model and the planted key."""
    for name in ("CREDENTIALS_DIRECTORY", "RANDYGPT_NSEC"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    (home / "keys").mkdir(parents=True, mode=0o700)
    secret_file(home / "keys/nsec", KEY.reveal_nsec())
    write_tiny(home / "checkpoint_best.bin", name="demo")
    return home


def secret_file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="ascii")
    path.chmod(0o600)
    return path


def test_search_finds_the_planted_secret(home: Path) -> None:
    assert [path for path in files(home) if shows_the_secret(path.read_bytes())] == [home / "keys/nsec"]
    assert all(shows_the_secret(b"x" + form + b"y") for form in FORMS)


def test_output_traffic_and_files_have_no_secret(home: Path, tmp_path: Path, free_port: int) -> None:
    data = tmp_path / "relay-data"
    with background(tmp_path, "relay", "--port", free_port, "--data", data) as (_, url):
        lines = [
            ("keys", "show", "--json"),
            ("publish", "checkpoint_best.bin", "--relay", url),
            ("publish", "checkpoint_best.bin", "--relay", url, "--new-version", "--json"),
            ("publish", "gone.bin", "--relay", url),
            ("keys", "new"),
            ("config", "show", "--all"),
        ]
        done = [invoke(home, *line) for line in lines]
        assert [each.returncode for each in done] == [0, 0, 0, 2, 2, 0]
        npub = done[0].stdout.split('"')[3]
        done.append(invoke(home, "revoke", f"{npub}/demo", "--relay", url))
        assert done[-1].returncode == 0, done[-1].stderr
    assert (home / "state/journal.sqlite").is_file()
    assert sum(path.stat().st_size for path in files(data)) > 10_000
    assert not shows_the_secret(*(each.stdout + each.stderr for each in done))
    assert [path for path in files(home, data) if shows_the_secret(path.read_bytes())] == [home / "keys/nsec"]


def test_throwaway_key_leaves_no_trace(
    author: Path, threaded_relay: ScriptedRelay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SecretKey, "generate", lambda: KEY)
    caplog.set_level(logging.DEBUG)
    words = ("publish", "checkpoint_best.bin", "--chunk-key", "throwaway", "--relay", threaded_relay.url)
    threaded_relay.accept = lambda _event: (len(threaded_relay.received) < 3, "blocked: enough")
    failed = invoke(author, *words)
    threaded_relay.accept = lambda _event: (True, "")
    done = invoke(author, *words, "--json")
    assert (failed.returncode, done.returncode) == (4, 0), done.stderr
    assert json.loads(done.stdout)["chunk_author"] == KEY.pubkey.hex()
    assert not shows_the_secret(failed.stderr, done.stdout, done.stderr, caplog.text, str(threaded_relay.events))
    assert not any(shows_the_secret(path.read_bytes()) for path in files(author))
    monkeypatch.setattr(publishing, "Pool", None)  # a bug in the middle of a publish
    with pytest.raises(TypeError) as caught:
        invoke(author, *words, "--new-version")
    report = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "chunk_key = SecretKey(***)" in report
    assert not shows_the_secret(report)


def test_pairing_with_a_signer_leaves_no_trace(
    author: Path, free_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (author / "keys/nsec").unlink()
    with bunker_on_thread(free_port) as bunker:
        with monkeypatch.context() as patch:
            patch.setattr(SecretKey, "generate", lambda: KEY)  # the key with which this machine asks
            done = [invoke_with_input(author, bunker.uri.encode(), "keys", "bunker", "--json")]
        publish = ("publish", "checkpoint_best.bin", "--yes", "--relay", bunker.relay)
        done += [
            invoke(author, *line) for line in (("keys", "show", "--json"), ("keys", "export", "--stdout"), publish)
        ]
        assert [each.returncode for each in done] == [0, 0, 2, 0], [each.stderr for each in done]
        monkeypatch.setattr(client, "Exchange", None)  # a bug while the signer is asked
        with pytest.raises(TypeError) as caught:
            invoke(author, *publish, "--new-version")
        report = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    texts = [*(each.stdout + each.stderr for each in done), report, caplog.text]
    seen = [*(text.encode() for text in texts), *bunker.frames]
    assert len(bunker.frames) > 5
    assert not shows_the_secret(*seen)
    assert not any(TOKEN.encode() in text for text in seen)
    kept = {path: path.read_bytes() for path in files(author)}
    assert [path for path, content in kept.items() if shows_the_secret(content)] == [author / "keys/bunker"]
    assert not [path for path, content in kept.items() if TOKEN.encode() in content]


def way_of(source: str, home: Path) -> tuple[list[str], dict[str, str]]:
    """(words, variables) with which the key comes from a source; its file is in the folder of the home's keys."""
    if source == "credential":
        return [], {"CREDENTIALS_DIRECTORY": str(home / "keys")}
    if source == "key file":
        return ["--key-file", str((home / "keys/nsec").rename(home / "keys/named"))], {}
    if source == "locked":
        secret_file(home / "keys/nsec", KEY.reveal_ncryptsec("hunter2"))
        return ["--password-file", str(secret_file(home / "keys/password", "hunter2"))], {}
    return [], {}


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("home", signal.SIGTERM),
        pytest.param("key file", signal.SIGTERM, marks=pytest.mark.full),
        ("locked", signal.SIGABRT),
        pytest.param("credential", signal.SIGABRT, marks=pytest.mark.full),
        pytest.param("home", signal.SIGABRT, marks=pytest.mark.full),
        pytest.param("key file", signal.SIGABRT, marks=pytest.mark.full),
        pytest.param("credential", signal.SIGTERM, marks=pytest.mark.full),
        pytest.param("locked", signal.SIGTERM, marks=pytest.mark.full),
    ],
)
def test_process_with_key_does_not_expose_it(home: Path, source: str, number: int) -> None:
    """A silent relay keeps the process waiting with the key in memory until a signal ends or crashes it."""
    words, variables = way_of(source, home)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen(
            [sys.executable, "-m", "randygpt", "publish", "checkpoint_best.bin", "--relay", url, *words],
            cwd=home,
            env=environment(home) | variables | {"PYTHONFAULTHANDLER": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            connection, _ = silent.accept()
            with connection:
                facts = Path(f"/proc/{process.pid}")
                seen = (facts / "cmdline").read_bytes() + (facts / "environ").read_bytes()
                limits = (facts / "limits").read_text(encoding="ascii")
                sent = connection.recv(4096)
                process.send_signal(number)
                output = process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    assert (b"Fatal Python error: Aborted" in output) == (number == signal.SIGABRT)
    assert b"RANDYGPT_HOME" in seen
    assert sent.startswith(b"GET / HTTP/1.1")
    assert not shows_the_secret(seen, output, sent)
    assert next(line for line in limits.splitlines() if line.startswith("Max core file size")).split()[4:6] == ["0"] * 2
    assert all(path.parent == home / "keys" for path in files(home) if shows_the_secret(path.read_bytes()))


@pytest.mark.usefixtures("at_home")
def test_traceback_with_locals_has_no_secret(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANDYGPT_HOME", str(home))
    monkeypatch.chdir(home)
    monkeypatch.setattr(publishing, "Journal", None)  # a bug in the middle of a publish
    with pytest.raises(TypeError) as caught:
        run(["publish", "checkpoint_best.bin", "--relay", "ws://127.0.0.1:1"])
    report = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "key=SecretKey(***)" in report
    assert not shows_the_secret(report)


def test_key_in_environment_warns_and_is_not_inherited(home: Path) -> None:
    (home / "keys/nsec").unlink()
    code = (
        "import subprocess, sys; from randygpt.cli.main import run; code = run(['keys', 'show']);"
        "subprocess.run(['env'], check=True); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(home) | {"RANDYGPT_NSEC": KEY.reveal_nsec()},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0
    assert "warning: RANDYGPT_NSEC" in done.stderr
    assert f"RANDYGPT_HOME={home}" in done.stdout
    assert not shows_the_secret(done.stdout, done.stderr)
    assert os.environ.get("RANDYGPT_NSEC") is None
