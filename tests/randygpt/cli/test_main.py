"""The command line as a whole: exit codes, one-line errors, JSON output, completion, what is imported."""

import itertools
import json
import os
import shlex
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
import typer
from support.command import TIMEOUT_S, background, environment, invoke, invoke_until_terminated, loads_torch, only_line
from support.models import write_tiny
from support.release_store import ReleaseStore
from support.releases import visible
from support.scripted_relay import ScriptedRelay

from randygpt import __main__ as entry_point
from randygpt.cli.main import app, run
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub


@pytest.fixture
def author(tmp_path: Path) -> Path:
    """A home with a key and a checkpoint to publish."""
    home = tmp_path / "author"
    home.mkdir()
    write_tiny(home / "checkpoint_best.bin", name="demo")
    assert invoke(home, "keys", "new").returncode == 0
    return home


@pytest.fixture
def friend(tmp_path: Path) -> Path:
    home = tmp_path / "friend"
    home.mkdir()
    return home


def test_commands_without_training_do_not_import_torch(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.bin")
    lines = [*(f"{name} --help" for name in ("publish", "fetch", "train", "serve", "show")), "--help", "keys show"]
    assert not loads_torch(*lines, "generate the --model m.bin", "show m.bin", "show --json m.bin", folder=tmp_path)


def test_publish_and_fetch_do_not_import_torch(author: Path, relay: str) -> None:
    npub = invoke(author, "keys", "show").stdout.strip()
    assert invoke(author, "relays", "add", relay).returncode == 0
    assert not loads_torch("publish checkpoint_best.bin", f"fetch {npub}/demo", folder=author, home=author)
    assert (author / "store" / "refs" / "current").exists()


def commands(command: object, *path: str) -> list[tuple[str, ...]]:
    """Return the words of every command and group of commands."""
    inner = [commands(each, *path, name) for name, each in getattr(command, "commands", {}).items()]
    return [*([path] if path else []), *itertools.chain.from_iterable(inner)]


COMMANDS = commands(typer.main.get_command(app))


def test_all_commands_exist() -> None:
    words = "train generate plot serve publish fetch follow use pin list show verify revoke reseed gc trust keys relays"
    assert {*words.split(), "relay", "export", "import", "demo", "config"} <= {path[0] for path in COMMANDS}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_json_quiet_and_example(
    at_home: Path, capsys: pytest.CaptureFixture[str], path: tuple[str, ...]
) -> None:
    assert run([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example: randygpt {' '.join(path)}" in shown
    assert "COMMAND" in shown or {"--json", "--quiet,"} <= set(shown.replace("-q, --quiet", "--quiet,").split())
    assert list(at_home.iterdir()) == []


def test_quiet_command_prints_only_json(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (
        "keys new",
        "keys show",
        "keys export --stdout",
        "config check",
        "config show",
        "config example",
        "relays add wss://a.example",
        "relays remove wss://a.example",
        "relays list",
        "list",
        "verify",
        "gc",
        "gc --dry-run --quota 20G",
        "trust policy",
        "trust list",
    )
    for line in lines:
        assert run([*line.split(), "--json", "--quiet"]) == 0
        out, err = capsys.readouterr()
        assert isinstance(json.loads(only_line(out)), dict)
        assert err == ""
    assert not (at_home / "store").exists()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("fet", "fetch"),
        ("trust po", "policy"),
        ("trust policy al", "allowlist"),
        ("trust remove al", "alice"),
        ("use pre", "previous"),
        ("use ti", "tiny"),
        ("show ti", "tiny"),
        ("verify ti", "tiny"),
        ("reseed {id}", "{id}"),
        ("follow al", "alice/tiny"),
        ("fetch --weights", "--weights-only"),
    ],
)
def test_commands_options_and_releases_are_completed(tmp_path: Path, key: SecretKey, typed: str, offered: str) -> None:
    release_id = ReleaseStore(home=tmp_path, key=key).install().id.hex()
    assert invoke(tmp_path, "trust", "add", encode_npub(key.pubkey), "alice").returncode == 0
    typed, offered = (text.replace("{id}", release_id[:12]) for text in (typed, offered))
    words = ["randygpt", *typed.split()]
    variables = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = invoke(tmp_path, _RANDYGPT_COMPLETE="complete_bash", **variables)
    assert [line.rpartition(",")[2] for line in done.stdout.splitlines()] == [offered]


def test_bash_completes_a_command(tmp_path: Path) -> None:
    script = (
        'eval "$(_RANDYGPT_COMPLETE=source_bash randygpt)"\n'
        "COMP_WORDS=(randygpt fet); COMP_CWORD=1\n"
        "_randygpt_completion randygpt; echo ${COMPREPLY[@]}"
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
        env=environment(tmp_path) | {"PATH": path},
    )
    assert done.stdout.split() == ["fetch"]


def test_publish_and_fetch_print_the_documented_json(author: Path, friend: Path, relay: str) -> None:
    url = relay
    published = json.loads(invoke(author, "publish", "checkpoint_best.bin", "--relay", url, "--json").stdout)
    fetched = json.loads(invoke(friend, "fetch", published["nevent"], "--relay", url, "--json").stdout)
    again = json.loads(invoke(author, "publish", "checkpoint_best.bin", "--relay", url, "--json").stdout)
    keys = {"release", "nevent", "naddr", "fetch", "name", "version", "files", "events", "bytes", "relays"}
    assert set(published) == keys | {"servers"}
    assert published["relays"] == {url: {"accepted": published["events"], "duplicate": 0, "refused": 0}}
    assert [set(file) for file in published["files"]] == [{"path", "size", "sha256"}] * 3
    names = {"release", "author", "name", "version", "files", "chunks", "relays", "partial", "activated"}
    assert set(fetched) == names | {"servers"}
    assert (fetched["relays"], fetched["partial"]) == ({url: {"given": 5, "lied": False}}, False)
    assert [set(file) for file in fetched["files"]] == [{"path", "role", "size", "sha256", "local"}] * 3
    assert fetched["chunks"] == {"fetched": 5, "reused": 0, "rejected": 0}
    assert (fetched["release"], fetched["activated"], fetched["name"]) == (published["release"], True, "demo")
    assert fetched["author"].startswith("npub1")
    assert Path(fetched["files"][0]["local"]).read_bytes() == (author / "checkpoint_best.bin").read_bytes()
    assert again["relays"][url] == {"accepted": 0, "duplicate": published["events"], "refused": 0}


def test_printed_line_fetches_in_an_empty_home(author: Path, friend: Path, relay: str) -> None:
    done = invoke(author, "publish", "checkpoint_best.bin", "--relay", relay)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("fetch "))
    command, *words = shlex.split(line.removeprefix("fetch "))
    assert command == "randygpt"
    fetched = invoke(friend, *words)
    assert (fetched.returncode, fetched.stderr) == (0, "")
    assert f"only this machine reaches {relay}" in done.stderr


def test_fetch_by_name_nevent_and_hex(author: Path, friend: Path, relay: str) -> None:
    npub = invoke(author, "keys", "show").stdout.strip()
    assert invoke(author, "relays", "add", relay).returncode == 0
    published = json.loads(invoke(author, "publish", "checkpoint_best.bin", "--json").stdout)
    for reference in (f"{npub}/demo", published["release"], published["nevent"], f"nostr:{published['nevent']}"):
        done = invoke(friend, "fetch", reference, "--relay", relay)
        assert (done.returncode, done.stderr) == (0, "")
        assert published["release"] in done.stdout
        assert npub in done.stdout
        assert str(friend) in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("fetch",), 2, "Missing argument"),
        (
            ("fetch", "nonsense", "--relay", "ws://127.0.0.1:1"),
            2,
            "no installed model is called 'nonsense'; expected npub…/name",
        ),
        (("fetch", "0" * 64), 2, "randygpt relays add"),
        (("fetch", "0" * 64, "--relay", "http://x"), 2, "not a relay's address"),
        (("fetch", "0" * 64, "--relay", "ws://127.0.0.1:1"), 4, "no relay can be reached"),
        (("fetch", "0" * 64, "--bogus"), 2, "--bogus"),
        (("publish", "missing.bin", "--relay", "ws://127.0.0.1:1"), 2, "randygpt keys new"),
        (("relays", "remove", "ws://127.0.0.1:1"), 2, "not on your list"),
        (("train", "--preset", "huge"), 2, "huge"),
        (("train", "--iters", "0"), 2, "iters"),
        (("train", "--train-file", "missing.txt"), 2, "missing.txt"),
        (("train", "--resume"), 2, "checkpoint.bin"),
        (("train", "--checkpoint", "missing/prefix"), 2, "missing"),
        (("serve", "--model", "missing.bin"), 2, "missing.bin"),
        (("serve", "--api-key", ""), 2, "must not be empty"),
        (("generate",), 2, "neither checkpoint_best.bin nor checkpoint.bin"),
        (("generate", "--temperature", "-1"), 2, "temperature"),
        (("train", "--bpe", "3", "--preset", "xs"), 2, "--bpe 3 is too small"),
        (("bogus",), 2, "bogus"),
    ],
)
def test_mistake_gives_one_line_and_exit_code(
    at_home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, says: str
) -> None:
    assert run(list(words)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in only_line(err)
    assert list(at_home.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[:7], "field magic"),
        (lambda data: data[:11], "field vocab"),
        (lambda data: data[:15], "field iter"),
        (lambda data: data[:19], "field step"),
        (lambda data: data[:23], "field best_loss"),
        (lambda data: data + b"x", "bytes"),
        (lambda data: data[:-1], "bytes"),
        (lambda data: b"RGPT0009" + data[8:], "not a randyGPT checkpoint"),
        (lambda data: data[:8] + b"\xff\xff\xff\xff" + data[12:], "not 4294967295"),
    ],
)
def test_damaged_checkpoint_is_refused_in_one_line(
    at_home: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes], says: str
) -> None:
    path = write_tiny(at_home / "checkpoint_best.bin")
    path.write_bytes(damage(path.read_bytes()))
    assert run(["keys", "new"]) == 0
    capsys.readouterr()
    assert run(["publish", "checkpoint_best.bin", "--relay", "ws://127.0.0.1:1"]) == 2
    err = capsys.readouterr().err
    assert says in only_line(err)
    assert "checkpoint_best.bin" in err


def test_new_key_is_made_once_and_not_shown(friend: Path) -> None:
    done = invoke(friend, "keys", "new")
    assert done.stdout.startswith("npub1")
    secret = (friend / "keys/nsec").read_text().strip()
    assert stat.S_IMODE((friend / "keys/nsec").stat().st_mode) == 0o600
    again = invoke(friend, "keys", "new")
    assert again.returncode == 2
    assert (friend / "keys/nsec").read_text().strip() == secret
    assert secret not in done.stdout + done.stderr + again.stdout + again.stderr


def test_key_file_readable_by_others_is_refused(author: Path) -> None:
    (author / "keys/nsec").chmod(0o640)
    done = invoke(author, "publish", "checkpoint_best.bin", "--relay", "ws://127.0.0.1:1")
    assert done.returncode == 2
    assert "chmod 600" in only_line(done.stderr)


def test_relay_list_keeps_order_without_duplicates(friend: Path) -> None:
    for url in ("wss://b.example/", "wss://a.example", "wss://b.example"):
        assert invoke(friend, "relays", "add", url).returncode == 0
    assert json.loads(invoke(friend, "relays", "list", "--json").stdout) == {
        "relays": ["wss://b.example", "wss://a.example"]
    }
    invoke(friend, "relays", "remove", "wss://b.example")
    assert invoke(friend, "relays", "list").stdout == "wss://a.example\n"


def test_exit_codes_of_gap_and_forgery(threaded_relay: ScriptedRelay, author: Path, friend: Path) -> None:
    relay = threaded_relay
    published = json.loads(invoke(author, "publish", "checkpoint_best.bin", "--relay", relay.url, "--json").stdout)
    first = relay.received[0]
    relay.deliver = lambda event: None if event["id"] == first else event
    gap = invoke(friend, "fetch", published["release"], "--relay", relay.url)
    relay.deliver = lambda e: e | {"content": "A" + e["content"][1:]} if e["id"] == first else e
    forgery = invoke(friend, "fetch", published["release"], "--relay", relay.url)
    assert (gap.returncode, forgery.returncode) == (4, 3)
    assert "1 of 5 chunks missing" in only_line(gap.stderr)
    assert "not the hash" in only_line(forgery.stderr)
    assert (gap.stdout, forgery.stdout, visible(friend)) == ("", "", {})


@pytest.mark.full
def test_relay_with_data_keeps_events_on_disk(author: Path, friend: Path, free_port: int) -> None:
    data = author / "relay-data"
    with background(author, "relay", "--port", free_port, "--data", data) as (_, url):
        published = json.loads(invoke(author, "publish", "checkpoint_best.bin", "--relay", url, "--json").stdout)
    with background(author, "relay", "--port", free_port, "--data", data) as (_, url):
        assert invoke(friend, "fetch", published["release"], "--relay", url).returncode == 0


def test_port_in_use_is_one_line(author: Path, free_port: int) -> None:
    with socket.create_server(("127.0.0.1", free_port)):
        done = invoke(author, "relay", "--port", free_port)
    assert done.returncode == 2
    assert f"127.0.0.1:{free_port}" in only_line(done.stderr)


def test_generate_ends_when_its_reader_closes(at_home: Path) -> None:
    write_tiny(at_home / "checkpoint.bin")
    command = f"{sys.executable} -m randygpt generate --max-tokens 100000 the fox jumps a x y z | head -c 1"
    done = subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 1, "")


def test_generate_continues_each_prompt(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(at_home / "checkpoint.bin")
    assert run(["--generate", "the", "fox", "--max-tokens", "9", "--seed", "1"]) == 0
    text = capsys.readouterr().out
    assert run(["generate", "--json", "--max-tokens", "9", "--seed", "1", "the", "fox"]) == 0
    completions = json.loads(capsys.readouterr().out)["completions"]
    assert text == "".join(f"{each['text']}\n" for each in completions)
    assert run(["generate", "--max-tokens", "9", "--seed", "1", "--stop", "fb", "--stop", "zz", "the"]) == 0
    assert capsys.readouterr().out == completions[0]["text"].split("fb")[0] + "\n"
    assert [each["prompt"] for each in completions] == ["the", "fox"]
    assert all(1 <= len(each["text"]) <= 9 for each in completions)


def test_rust_flags_serve_a_file(friend: Path) -> None:
    write_tiny(friend / "checkpoint_best.bin")

    def ask(output: TextIO) -> None:
        asked = b'{"prompt": "the", "max_tokens": 3, "temperature": 0}'  # greedy: no early end
        with urllib.request.urlopen(output.readline().rstrip(), asked, timeout=TIMEOUT_S) as reply:
            body = json.loads(reply.read())
            assert "X-Release" not in reply.headers
        assert body["model"] == "randygpt-2L-2H-16D"
        assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 3}

    invoke_until_terminated(friend, "--bpe", "--serve", "127.0.0.1:0", client=ask)


def test_closed_pipe_is_no_error(author: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "randygpt", "keys", "show"]
    done = subprocess.run(command, env=environment(author), stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


SPIN_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY")


@pytest.mark.parametrize(
    ("variables", "spins"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "5"}, "5"),
        ({"OMP_WAIT_POLICY": "passive"}, None),
        ({"KMP_BLOCKTIME": "0"}, None),
    ],
    ids=["default", "set by the user", "policy set by the user", "Intel's set by the user"],
)
def test_waiting_of_openmp_threads_is_limited(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], spins: str | None
) -> None:
    for name in SPIN_SETTINGS:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    entry_point._limit_waiting_threads()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_waiting_is_limited_before_torch_is_loaded(tmp_path: Path) -> None:
    """OpenMP reads the limit once, when torch loads it."""
    (tmp_path / "torch.py").write_text("import os; os.write(1, os.environ['GOMP_SPINCOUNT'].encode()); os._exit(7)")
    child = environment(tmp_path) | {"PYTHONPATH": str(tmp_path)}
    child = {name: value for name, value in child.items() if name not in SPIN_SETTINGS}
    command = [sys.executable, "-m", "randygpt", "train", "--quiet"]
    done = subprocess.run(command, env=child, capture_output=True, check=False)
    assert (done.stdout, done.returncode) == (b"10000", 7)
