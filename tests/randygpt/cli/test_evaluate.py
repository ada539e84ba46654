"""`randygpt eval`: figures on a text from a file or standard input."""

import io
import json
from pathlib import Path

import pytest
from support.command import only_line
from support.models import TEXT, write_tiny

import randygpt
from randygpt.cli.main import run


@pytest.fixture
def text(at_home: Path) -> Path:
    """A text and a checkpoint of the default name, in the current folder."""
    write_tiny(at_home / "checkpoint_best.bin")
    path = at_home / "test.txt"
    path.write_text(f"{TEXT}é", encoding="utf-8")
    return path


def test_eval_prints_the_documented_json(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "checkpoint_best.bin", "--file", "test.txt", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(only_line(out))
    assert list(found) == ["loss", "perplexity", "bits_per_byte", "tokens", "bytes", "unknown"]
    assert (found["tokens"], found["bytes"], found["unknown"]) == (len(TEXT), text.stat().st_size, 1)
    assert found == randygpt.load("checkpoint_best.bin").evaluate(text.read_text("utf-8")).to_json()


def test_eval_reads_standard_input(
    text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.read_bytes())))
    assert run(["eval", "--file", "-"]) == 0
    shown = capsys.readouterr().out
    assert f"{text.stat().st_size:,} bytes, {len(TEXT):,} tokens" in shown
    assert "1 characters not in the vocabulary, counted at 8 bits per byte" in shown


@pytest.mark.usefixtures("text")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["eval"], "--file"),
        (["eval", "--file", "missing.txt"], "missing.txt"),
        (["eval", "--file", "empty.txt"], "is empty"),
        (["eval", "--file", "checkpoint_best.bin"], "not UTF-8"),
        (["eval", "missing", "--file", "test.txt"], "missing"),
    ],
)
def test_eval_refuses_bad_input_in_one_line(
    at_home: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    (at_home / "empty.txt").touch()
    assert run(words) == 2
    assert says in only_line(capsys.readouterr().err)
