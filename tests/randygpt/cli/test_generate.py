"""`randygpt generate`: several prompts, and prompts typed line by line."""

import io
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import TIMEOUT_S, environment, only_line
from support.models import write_tiny
from support.output import killed_on_error, read_until

import randygpt
from randygpt.cli.interactive import generate_interactively
from randygpt.cli.main import run

GREEDY = ["--model", "m.bin", "--max-tokens", "9", "--temperature", "0"]


@pytest.fixture
def folder(at_home: Path) -> Path:
    write_tiny(at_home / "m.bin", seed=4)  # whose greedy texts do not end
    return at_home


def continued(prompt: str) -> str:
    return randygpt.load("m.bin").generate(prompt, max_tokens=9, temperature=0)


class Keyboard(io.StringIO):
    """A terminal's stdin or stdout, for a command in this process."""

    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("folder")
def test_several_prompts_are_labelled_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = f"{continued('the')}\n{continued('fox')}\n"
    assert run(["generate", "the", "fox", *GREEDY]) == 0
    assert capsys.readouterr() == (expected, "")
    monkeypatch.setattr("sys.stdout", terminal := Keyboard())
    assert run(["generate", "the", "fox", *GREEDY]) == 0
    assert terminal.getvalue() == expected
    assert capsys.readouterr().err == "prompt 1 of 2: 'the'\nprompt 2 of 2: 'fox'\n"


@pytest.mark.usefixtures("folder")
def test_interactive_reads_prompts_from_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"fox\n\nj\xff")))
    assert run(["generate", "the", "--interactive", *GREEDY]) == 0
    out, err = capsys.readouterr()
    more = continued(f"fox{continued('fox')}")
    assert out == "".join(f"{text}\n" for text in (continued("the"), continued("fox"), more, continued("j")))
    assert err == "1 of 2 characters of the prompt are not in the vocabulary and are dropped\n"


@pytest.mark.usefixtures("folder")
def test_stop_that_cannot_appear_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    stops = ["--stop", "fö€ö", "--stop", "fox"]
    assert run(["generate", "the", "fox", *GREEDY, *stops]) == 0
    assert capsys.readouterr().err == "--stop 'fö€ö' never appears: the vocabulary lacks 'ö€'\n"
    assert run(["generate", "the", *GREEDY, *stops, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("flag", ["--top-p", "--repeat-penalty"])
def test_value_out_of_range_names_the_flag(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert run(["generate", flag, "0"]) == 2
    assert only_line(capsys.readouterr().err).startswith(f"randygpt: {flag} must be above 0 and at most 1")


def test_interactive_and_json_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "--interactive", "--json"]) == 2
    assert "exclude each other" in only_line(capsys.readouterr().err)


@pytest.mark.parametrize("at_terminal", [True, False])
def test_ctrl_c_stops_only_the_text_on_a_terminal(monkeypatch: pytest.MonkeyPatch, *, at_terminal: bool) -> None:
    stream = Keyboard if at_terminal else io.StringIO
    stdin, stdout = stream("a\nb\n\n"), stream()
    monkeypatch.setattr("sys.stdin", stdin)
    monkeypatch.setattr("sys.stdout", stdout)

    def texts(prompt: str) -> Iterator[str]:
        yield f"[{prompt}]"
        if prompt == "a":
            raise KeyboardInterrupt

    if at_terminal:
        generate_interactively(texts, [], quiet=True)
        assert stdout.getvalue() == "> [a]\n> [b]\n> [b[b]]\n> \n"
    else:
        with pytest.raises(KeyboardInterrupt):
            generate_interactively(texts, [], quiet=True)
        assert stdout.getvalue() == "[a]"


@pytest.mark.full
@pytest.mark.parametrize("end", ["end of input", "SIGTERM"])
def test_keys_of_the_interactive_mode(folder: Path, end: str) -> None:
    screen, terminal = pty.openpty()
    words = ["generate", "-i", "--model", "m.bin", "--temperature", "0", "--max-tokens", "1000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "randygpt", *words],
        cwd=folder,
        env=environment(folder) | {"TERM": "dumb"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    with killed_on_error(process):
        assert b"Ctrl-D leaves" in read_until(screen, b"> ")
        os.write(screen, b"the\n")
        read_until(screen, b"the\r\n")
        assert os.read(screen, 1)  # of a text that does not end by itself
        if end == "SIGTERM":
            process.send_signal(signal.SIGTERM)
            read_until(screen, None)
        else:
            process.send_signal(signal.SIGINT)
            read_until(screen, b"> ")
            os.write(screen, b"\x04")
        assert process.wait(timeout=TIMEOUT_S) == (143 if end == "SIGTERM" else 0)
    os.close(screen)
