"""The command as a user meets it: real processes, exit codes, one-line errors, and nothing left half done."""

import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from support.command import TIMEOUT_S, background, environment, loads_torch, only_line, randygpt
from support.models import TEXT, write_tiny
from support.releases import visible
from support.scripted_relay import ScriptedRelay
from support.shelf import Shelf

from randygpt.cli.main import app, run
from relay_client.keys import SecretKey, encode_npub


@pytest.fixture
def author(tmp_path: Path) -> Path:
    """A home with a key and a published-to-be checkpoint in it."""
    home = tmp_path / "author"
    home.mkdir()
    write_tiny(home / "checkpoint_best.bin", name="demo")
    assert randygpt(home, "keys", "new").returncode == 0
    return home


@pytest.fixture
def friend(tmp_path: Path) -> Path:
    home = tmp_path / "friend"
    home.mkdir()
    return home


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("publish", "--help"),
        ("fetch", "--help"),
        ("train", "--help"),
        ("serve", "--help"),
        ("show", "--help"),
        ("keys", "show"),
        ("generate", "the ", "--model", "m.bin"),
    ],
)
def test_torch_is_not_imported_for(tmp_path: Path, words: tuple[str, ...]) -> None:
    write_tiny(tmp_path / "m.bin")
    assert not loads_torch(*words, folder=tmp_path)


def test_publish_and_fetch_import_no_torch(author: Path, free_port: int) -> None:
    code = (
        "import sys; from randygpt.cli.main import run\n"
        "code = run(sys.argv[1:]); sys.exit(code or ('torch' in sys.modules and 99))"
    )

    def exit_code(*words: str) -> int:
        command = [sys.executable, "-c", code, *words, "--relay", url]
        return subprocess.run(command, cwd=author, env=environment(author), timeout=TIMEOUT_S, check=False).returncode

    with background(author, "relay", "--port", free_port) as (_, url):
        npub = randygpt(author, "keys", "show").stdout.strip()
        assert exit_code("publish", "checkpoint_best.bin") == 0
        assert exit_code("fetch", f"{npub}/demo") == 0


def commands(command: object, *path: str) -> list[tuple[str, ...]]:
    """The words of every command and of every group of them."""
    inner = [commands(each, *path, name) for name, each in getattr(command, "commands", {}).items()]
    return [*([path] if path else []), *itertools.chain.from_iterable(inner)]


COMMANDS = commands(typer.main.get_command(app))


def test_there_are_all_the_commands() -> None:
    words = "train generate plot serve publish fetch follow use pin list show verify revoke reseed gc trust keys relays"
    assert {*words.split(), "relay", "export", "import", "demo", "config"} <= {path[0] for path in COMMANDS}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_json_quiet_and_help_with_an_example(
    at_home: Path, capsys: pytest.CaptureFixture[str], path: tuple[str, ...]
) -> None:
    assert run([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example: randygpt {' '.join(path)}" in shown
    assert "COMMAND [ARGS]" in shown or {"--json", "--quiet,"} <= set(shown.replace("-q, --quiet", "--quiet,").split())
    assert list(at_home.iterdir()) == []


def test_json_is_all_that_a_quiet_command_prints(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_bash_completes_commands_options_and_releases(at_home: Path, key: SecretKey, typed: str, offered: str) -> None:
    release_id = Shelf(home=at_home, key=key).install().id.hex()
    assert run(["trust", "add", encode_npub(key.pubkey), "alice"]) == 0
    typed, offered = (text.replace("{id}", release_id[:12]) for text in (typed, offered))
    words = ["randygpt", *typed.split()]
    script = (
        'eval "$(_RANDYGPT_COMPLETE=source_bash randygpt)"\n'
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
        "_randygpt_completion randygpt; echo ${COMPREPLY[@]}"
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
        env=environment(at_home) | {"PATH": path},
    )
    assert done.stdout.split() == [offered]


def test_publish_and_fetch_print_the_promised_json(author: Path, friend: Path, free_port: int) -> None:
    with background(author, "relay", "--port", free_port) as (_, url):
        published = json.loads(randygpt(author, "publish", "checkpoint_best.bin", "--relay", url, "--json").stdout)
        fetched = json.loads(randygpt(friend, "fetch", published["nevent"], "--relay", url, "--json").stdout)
        again = json.loads(randygpt(author, "publish", "checkpoint_best.bin", "--relay", url, "--json").stdout)
    assert set(published) == {"release", "nevent", "name", "version", "files", "events", "bytes", "relays"}
    assert published["relays"] == {url: {"accepted": published["events"], "duplicate": 0, "refused": 0}}
    assert [set(file) for file in published["files"]] == [{"path", "size", "sha256"}] * 3
    names = {"release", "author", "name", "version", "files", "chunks", "relays", "partial", "activated"}
    assert set(fetched) == names
    assert (fetched["relays"], fetched["partial"]) == ({url: {"given": 5, "lied": False}}, False)
    assert [set(file) for file in fetched["files"]] == [{"path", "role", "size", "sha256", "local"}] * 3
    assert fetched["chunks"] == {"fetched": 5, "reused": 0, "rejected": 0}
    assert (fetched["release"], fetched["activated"], fetched["name"]) == (published["release"], True, "demo")
    assert fetched["author"].startswith("npub1")
    assert Path(fetched["files"][0]["local"]).read_bytes() == (author / "checkpoint_best.bin").read_bytes()
    assert again["relays"][url] == {"accepted": 0, "duplicate": published["events"], "refused": 0}


def test_a_fetch_by_name_note_and_hex(author: Path, friend: Path, free_port: int) -> None:
    npub = randygpt(author, "keys", "show").stdout.strip()
    with background(author, "relay", "--port", free_port) as (_, url):
        assert randygpt(author, "relays", "add", url).returncode == 0
        published = json.loads(randygpt(author, "publish", "checkpoint_best.bin", "--json").stdout)
        for reference in (f"{npub}/demo", published["release"], published["nevent"], f"nostr:{published['nevent']}"):
            done = randygpt(friend, "fetch", reference, "--relay", url)
            assert (done.returncode, done.stderr) == (0, "")
            assert published["release"] in done.stdout
            assert npub in done.stdout
            assert str(friend) in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("fetch",), 2, "Missing argument"),
        (("fetch", "nonsense", "--relay", "ws://127.0.0.1:1"), 2, "not an event id"),
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
def test_a_mistake_is_one_line_and_its_exit_code(
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
        (lambda data: data[:8] + b"\xff\xff\xff\xff" + data[12:], "vocab 4294967295"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(
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


def test_a_key_is_made_once_and_only_its_public_half_is_shown(friend: Path) -> None:
    done = randygpt(friend, "keys", "new")
    assert done.stdout.startswith("npub1")
    secret = (friend / "keys/nsec").read_text().strip()
    assert stat.S_IMODE((friend / "keys/nsec").stat().st_mode) == 0o600
    again = randygpt(friend, "keys", "new")
    assert again.returncode == 2
    assert (friend / "keys/nsec").read_text().strip() == secret
    assert secret not in done.stdout + done.stderr + again.stdout + again.stderr


def test_a_key_file_that_others_may_read_is_refused(author: Path) -> None:
    (author / "keys/nsec").chmod(0o640)
    done = randygpt(author, "publish", "checkpoint_best.bin", "--relay", "ws://127.0.0.1:1")
    assert done.returncode == 2
    assert "chmod 600" in only_line(done.stderr)


def test_relays_are_kept_in_order_and_once(friend: Path) -> None:
    for url in ("wss://b.example/", "wss://a.example", "wss://b.example"):
        assert randygpt(friend, "relays", "add", url).returncode == 0
    assert json.loads(randygpt(friend, "relays", "list", "--json").stdout) == {
        "relays": ["wss://b.example", "wss://a.example"]
    }
    randygpt(friend, "relays", "remove", "wss://b.example")
    assert randygpt(friend, "relays", "list").stdout == "wss://a.example\n"


async def test_a_lie_ends_with_3_and_a_gap_with_4(scripted: ScriptedRelay, author: Path, friend: Path) -> None:
    import asyncio  # noqa: PLC0415

    async def command(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(randygpt, home, *words, "--relay", scripted.url)

    published = json.loads((await command(author, "publish", "checkpoint_best.bin", "--json")).stdout)
    first = scripted.received[0]
    scripted.deliver = lambda event: None if event["id"] == first else event
    gap = await command(friend, "fetch", published["release"])
    scripted.deliver = lambda e: e | {"content": "A" + e["content"][1:]} if e["id"] == first else e
    lie = await command(friend, "fetch", published["release"])
    assert (gap.returncode, lie.returncode) == (4, 3)
    assert "1 of 5 chunks missing" in only_line(gap.stderr)
    assert "not the hash" in only_line(lie.stderr)
    assert (gap.stdout, lie.stdout, visible(friend)) == ("", "", {})


def test_a_relay_keeps_events_on_disk_when_told_to(author: Path, friend: Path, free_port: int) -> None:
    data = author / "relay-data"
    with background(author, "relay", "--port", free_port, "--data", data) as (_, url):
        published = json.loads(randygpt(author, "publish", "checkpoint_best.bin", "--relay", url, "--json").stdout)
    with background(author, "relay", "--port", free_port, "--data", data) as (_, url):
        assert randygpt(friend, "fetch", published["release"], "--relay", url).returncode == 0


def test_a_taken_port_is_said_in_one_line(author: Path, free_port: int) -> None:
    with background(author, "relay", "--port", free_port):
        done = randygpt(author, "relay", "--port", free_port)
    assert done.returncode == 2
    assert f"127.0.0.1:{free_port}" in only_line(done.stderr)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_relay_with_its_exit_code(author: Path, free_port: int, number: int, code: int) -> None:
    with background(author, "relay", "--port", free_port) as (process, _):
        process.send_signal(number)
        assert process.wait(timeout=TIMEOUT_S) == code


def test_a_relay_that_a_script_started_in_the_background_can_be_terminated(author: Path, free_port: int) -> None:
    """A shell has such a process ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with background(author, "relay", "--port", free_port) as (process, _):
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=TIMEOUT_S) == 143
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_with_both_files_saved(friend: Path, number: int, code: int) -> None:
    (friend / "text.txt").write_text(TEXT)
    words = ("train", "--iters", "100000", "--preset", "xs", "--batch", "1", "--train-file", "text.txt", "--quiet")
    with subprocess.Popen(
        [sys.executable, "-m", "randygpt", *words],
        cwd=friend,
        env=environment(friend),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        metrics = friend / "checkpoint.metrics.jsonl"
        while not (metrics.is_file() and metrics.stat().st_size):
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=TIMEOUT_S) == code
    assert (friend / "checkpoint.bin").stat().st_size == (friend / "checkpoint_best.bin").stat().st_size > 0
    iterations = len(metrics.read_text().splitlines())
    assert json.loads((friend / "checkpoint.json").read_text())["iteration"] == iterations - 1
    assert randygpt(friend, *words[:1], "--iters", iterations, "--resume", "checkpoint.bin", *words[3:]).returncode == 0


LOSES_A_SIGNAL = """
import os, signal, sys, weakref
from randygpt.training import device
from randygpt.cli.main import run

find_device = device.find_device

def lost(name):
    thing = type("Thing", (), {})()
    seen = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del thing  # what the callback raises is dropped
    return find_device(name)

device.find_device = lost
sys.exit(run(sys.argv[1:]))
"""


def test_training_ends_after_a_signal_that_came_where_python_drops_it(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(TEXT, encoding="utf-8")
    words = ("train", "--preset", "xs", "--batch", "1", "--iters", "100000", "--quiet")
    done = subprocess.run(
        [sys.executable, "-c", LOSES_A_SIGNAL, *words],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert "Exception ignored" in done.stderr
    assert done.returncode == 143
    assert json.loads((tmp_path / "checkpoint.json").read_text())["iteration"] == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_training_at_once(tmp_path: Path, number: int, code: int) -> None:
    """In the middle of a step of many parts; nothing was saved before. The bar shows that training has begun."""
    (tmp_path / "train.txt").write_text(TEXT, encoding="utf-8")
    words = ("train", "--preset", "xs", "--batch", "40000", "--accumulate", "10000", "--iters", "1")
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "randygpt", *words],
        cwd=tmp_path,
        env=environment(tmp_path) | {"TERM": "xterm"},
        stderr=theirs,
    ) as process:
        os.close(theirs)
        read_up_to(ours, b"0/1")
        process.send_signal(number)
        read_up_to(ours, b"once more")
        process.send_signal(number)
        assert b"Traceback" not in read_up_to(ours, None)
    assert process.returncode == code
    assert not list(tmp_path.glob("*.bin"))


def read_up_to(terminal: int, word: bytes | None) -> bytes:
    """What a terminal shows up to a word, or until the program has ended and it is closed."""
    shown = b""
    while word is None or word not in shown:
        try:
            shown += os.read(terminal, 1 << 16)
        except OSError:
            assert word is None, shown
            os.close(terminal)
            break
    return shown


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_run_that_was_killed_ends_with_the_bytes_of_one_that_was_not(tmp_path: Path, number: int, code: int) -> None:
    words = ("train", "--dim", "16", "--heads", "2", "--layers", "2", "--batch", "2", "--iters", "400", "--quiet")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for home in (whole, parts):
        home.mkdir()
        (home / "train.txt").write_text(TEXT, encoding="utf-8")
    assert randygpt(whole, *words).returncode == 0
    with subprocess.Popen([sys.executable, "-m", "randygpt", *words], cwd=parts, env=environment(parts)) as process:
        while not (parts / "checkpoint_best.bin").is_file():
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=TIMEOUT_S) == code
    name = "checkpoint.bin" if (parts / "checkpoint.bin").is_file() else "checkpoint_best.bin"
    assert 24 <= json.loads(randygpt(parts, "show", name, "--json").stdout)["iteration"] < 399
    assert randygpt(parts, *words, "--resume", name).returncode == 0
    for name in ("checkpoint.bin", "checkpoint_best.bin", "checkpoint.json", "checkpoint_best.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_the_rust_spelling_trains_and_goes_on(friend: Path) -> None:
    (friend / "train.txt").write_text(TEXT)
    common = ("--preset", "xs", "--batch", "2", "--quiet")
    assert randygpt(friend, "--iters", "2", *common).returncode == 0
    assert randygpt(friend, "--iters", "3", "--resume", *common).returncode == 0
    metrics = (friend / "checkpoint.metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iter"] for line in metrics] == [0, 1, 2]
    done = randygpt(friend, "--iters", "3", "--resume", *common)
    assert (done.returncode, "nothing to do" in only_line(done.stderr)) == (0, True)


def test_byte_pairs_are_learned_and_kept_through_a_resume(friend: Path) -> None:
    (friend / "train.txt").write_text(TEXT)
    common = ("--preset", "xs", "--batch", "1", "--quiet")
    assert randygpt(friend, "--iters", "1", "--bpe", "40", *common).returncode == 0
    assert randygpt(friend, "--iters", "2", "--bpe", "--resume", *common).returncode == 0
    beside = json.loads((friend / "checkpoint.json").read_text())
    assert (beside["config"]["tokenizer"], beside["config"]["vocab_size"], beside["iteration"]) == ("bpe", 40, 1)


def test_a_long_text_has_its_tokens_beside_it(friend: Path) -> None:
    (friend / "my.txt").write_text(TEXT * 300)
    common = ("train", "--preset", "xs", "--batch", "1", "--train-file", "my.txt")
    tokens = friend / "my.txt.tokens"
    assert randygpt(friend, *common, "--iters", "1", "--quiet").stderr == ""
    made = tokens.stat().st_ino
    assert randygpt(friend, *common, "--iters", "2", "--resume", "--quiet").stderr == ""
    assert tokens.stat().st_ino == made
    (friend / "my.txt").write_text("my " + TEXT * 300)
    done = randygpt(friend, *common, "--iters", "3", "--resume")
    assert "checkpoint.bin was trained on another text" in done.stderr
    assert tokens.stat().st_ino != made
    tokens.write_bytes(b"something of mine")
    done = randygpt(friend, *common, "--iters", "4", "--resume")
    assert (done.returncode, done.stderr.count("my.txt.tokens is not a token cache")) == (
        0,
        1,
    )
    assert tokens.read_bytes() == b"something of mine"


def test_generate_ends_when_nobody_reads_any_more(at_home: Path) -> None:
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


def test_generate_writes_on_from_each_prompt(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_serve_in_the_rust_spelling_answers_from_the_file(friend: Path) -> None:
    write_tiny(friend / "checkpoint_best.bin")
    with background(friend, "--bpe", "--serve", "127.0.0.1:0") as (_, address):
        asked = b'{"prompt": "the", "max_tokens": 3, "temperature": 0}'  # drawn, it might end sooner
        with urllib.request.urlopen(address, asked, timeout=TIMEOUT_S) as reply:
            body = json.loads(reply.read())
            assert "X-Release" not in reply.headers
    assert body["model"] == "randygpt-2L-2H-16D"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 3}


def test_a_closed_pipe_is_no_error(author: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "randygpt", "keys", "show"]
    done = subprocess.run(command, env=environment(author), stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
