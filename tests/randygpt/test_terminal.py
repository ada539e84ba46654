"""Foreign text on a terminal and in a pipe, and closed standard streams, with real terminals and processes."""

import json
import re
import subprocess
import sys
import time
import unicodedata
import urllib.request
from pathlib import Path

import pytest
from support.command import TIMEOUT_S, environment, invoke, only_line
from support.models import tiny_checkpoint, write_tiny
from support.relays import find_free_port
from support.release_store import ReleaseStore
from support.terminal import typed

from randygpt.checkpoint.rgpt import write_checkpoint
from randygpt.checkpoint.sidecar import Sidecar
from randygpt.model.tokenizer import CharTokenizer
from randygpt.terminal import escape_controls, escape_line
from relay_client.keys import SecretKey

HOSTILE = "\x1b]52;c;x\x07\x9b31m\u202egpj.exe\u2066\r\u2028\ufeff\x7f\U000e0041"
SHOWN = r"\u001b]52;c;x\u0007\u009b31m\u202egpj.exe\u2066\r\u2028\ufeff\u007f\udb40\udc41"


def controls(screen: str) -> str:
    """Control characters on a screen, without the terminal's own line ends."""
    categories = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return "".join(c for c in screen.replace("\r\n", "\n") if unicodedata.category(c) in categories and c != "\n")


def write_hostile(path: Path) -> Path:
    """A checkpoint whose JSON has a hostile name."""
    write_tiny(path)
    record = json.loads(path.with_suffix(".json").read_bytes())
    path.with_suffix(".json").write_text(json.dumps(record | {"name": HOSTILE}))
    return path


def hostile_speaker(path: Path) -> Path:
    """A checkpoint whose vocabulary has control characters in place of letters."""
    checkpoint = tiny_checkpoint()
    chars = [chr(0x1B), chr(0x07), chr(0x202E), "\n", *map(chr, range(0x80, 0xA0))]
    tokenizer = CharTokenizer.from_text("".join(chars[: checkpoint.config.vocab_size - 2]))
    assert tokenizer.vocab_size == checkpoint.config.vocab_size
    write_checkpoint(path, checkpoint)
    path.with_suffix(".json").write_bytes(Sidecar(config=checkpoint.config, tokenizer=tokenizer).encode())
    return path


def test_controls_are_escaped_as_in_json() -> None:
    assert escape_controls(HOSTILE) == SHOWN
    assert json.loads(f'"{SHOWN}"') == HOSTILE
    assert escape_controls("a\tb\nüñ 字\u00a0\u3000👩\u200d👧\u0301") == "a\tb\nüñ 字\u00a0\u3000👩\u200d👧\u0301"
    assert escape_line("a\nb\t") == r"a\nb\t"


@pytest.mark.parametrize("flags", [(), pytest.param(("--json",), marks=pytest.mark.full)], ids=["text", "json"])
def test_hostile_name_in_json_is_escaped(tmp_path: Path, flags: tuple[str, ...]) -> None:
    write_hostile(tmp_path / "m.bin")
    code, screen = typed(tmp_path, "show", "m.bin", *flags, answers={})
    assert code == 0
    assert controls(screen) == ""
    assert json.loads(screen)["name"] == HOSTILE if flags else r"\u001b]52;c;x" in screen


def test_name_with_newline_cannot_forge_a_field(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.bin")
    record = json.loads((tmp_path / "m.json").read_bytes())
    (tmp_path / "m.json").write_text(json.dumps(record | {"name": "x\nsigned by   alice"}))
    assert "\nsigned by" not in invoke(tmp_path, "show", "m.bin").stdout


@pytest.mark.full
def test_hostile_card_is_escaped(tmp_path: Path) -> None:
    ReleaseStore(home=tmp_path, key=SecretKey.generate()).install(card={"about": HOSTILE, "license": HOSTILE})
    for flags in ((), ("--json",)):
        code, screen = typed(tmp_path, "show", "tiny", *flags, answers={})
        assert code == 0
        assert controls(screen) == ""


def test_errors_on_a_terminal_are_escaped(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.bin")
    record = json.loads((tmp_path / "m.json").read_bytes())
    (tmp_path / "m.json").write_text(json.dumps(record | {"losses": {HOSTILE: "x"}}))
    code, screen = typed(tmp_path, "show", "m.bin", answers={})
    assert code == 2
    assert controls(screen) == ""
    assert "the loss" in screen


@pytest.mark.full
def test_config_keys_on_a_terminal_are_escaped(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('"\\u001b[31m\\u009b\\u202e" = 1\n')
    code, screen = typed(tmp_path, "config", "check", file, answers={})
    assert code == 2
    assert controls(screen) == ""
    assert "no such setting" in screen


@pytest.mark.full
def test_generated_text_is_escaped_on_a_terminal_only(tmp_path: Path) -> None:
    path = hostile_speaker(tmp_path / "m.bin")
    words = ("generate", "--model", path, "--seed", "1", "--max-tokens", "60", "--temperature", "5")
    code, screen = typed(tmp_path, *words, answers={})
    assert code == 0
    assert controls(screen) == ""
    piped = subprocess.run(
        [sys.executable, "-m", "randygpt", *map(str, words)],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
    ).stdout.decode()
    assert len(controls(piped)) > 20
    assert screen.replace("\r\n", "\n") == escape_controls(piped)


def test_notes_below_a_progress_bar_are_escaped() -> None:
    code = (
        "from randygpt.terminal import prepare_streams; prepare_streams()\n"
        "from randygpt.cli.output import byte_progress, print_stderr\n"
        "with byte_progress('x\\x9by', shown=True) as update:\n"
        "    update(1, 2); print_stderr('a\\x9bb\\u202ec')\n"
    )
    at_a_terminal = "import os, pty, sys; pty.spawn(sys.argv[1:])"
    command = [sys.executable, "-c", at_a_terminal, sys.executable, "-c", code]
    screen = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout.decode()
    assert r"a\u009bb\u202ec" in screen
    assert not re.search("[\x80-\x9f\u202e]", screen)
    assert "\x1b[" in screen  # the bar draws itself


@pytest.mark.parametrize(
    ("words", "closed", "code"),
    [
        ("show m.bin", ">&-", 0),
        ("keys show", "2>&-", 2),
        pytest.param("--version", ">&-", 0, marks=pytest.mark.full),
        ("--help", ">&- 2>&-", 0),
        ("keys import", "<&-", 2),
        pytest.param("show m.bin", ">/dev/full", 5, marks=pytest.mark.full),
        ("--version", ">/dev/full", 5),
        ("keys show", "2>/dev/full", 2),
    ],
)
def test_closed_or_full_stream_is_no_bug(tmp_path: Path, words: str, closed: str, code: int) -> None:
    write_tiny(tmp_path / "m.bin")
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m randygpt {words} {closed}', sys.executable],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == code, done.stderr
    if code and "2>" not in closed:
        only_line(done.stderr)


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    file = tmp_path / "f"
    code = (
        "import os, sys; from randygpt.terminal import prepare_streams; prepare_streams()\n"
        f"f = open({str(file)!r}, 'wb'); print('into nothing'); os.write(1, b'x'); sys.exit(f.fileno() < 3)"
    )
    subprocess.run(["/bin/sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code], check=True)
    assert file.read_bytes() == b""


def answers(port: int) -> bool:
    """Return whether a server answers at this port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def test_server_runs_with_closed_streams(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.bin")
    port = find_free_port()
    with subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$0" -m randygpt serve --port {port} --model m.bin <&- >&- 2>&-', sys.executable],
        cwd=tmp_path,
        env=environment(tmp_path),
        start_new_session=True,
    ) as process:
        try:
            while process.poll() is None and not answers(port):
                time.sleep(0.05)
            assert process.poll() is None
        finally:
            process.terminate()
        assert process.wait(timeout=TIMEOUT_S) == 143
