"""Plots: which metrics file is read, what is parsed, and what the image shows."""

import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from support.command import loads_torch, only_line
from support.models import CONFIG, TOKENIZER

from randygpt.checkpoint.sidecar import Sidecar
from randygpt.cli.main import run
from randygpt.errors import InvalidModelFile
from randygpt.training.plot import draw, metrics_path, perplexity, read_run

Line = dict[str, object]


def line(iteration: int, **more: object) -> Line:
    return {"iter": iteration, "loss": 4.0 - iteration / 100, "lr": 1e-3, "ms_per_iter": 9.5} | more


def put(path: Path, lines: list[Line], tail: str = "") -> Path:
    path.write_text("".join(f"{json.dumps(each)}\n" for each in lines) + tail, encoding="utf-8")
    return path


def put_run(folder: Path, name: str, iterations: int, *, every: int = 10) -> Path:
    """Write a run whose second evaluation is the best."""
    lines = [line(number) for number in range(iterations)]
    for index, number in enumerate(range(every - 1, iterations, every)):
        lines[number]["val_loss"] = 2.0 if index == 1 else 3.0
    return put(folder / f"{name}.metrics.jsonl", lines)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("a/run", "a/run.metrics.jsonl"),
        ("a/run.bin", "a/run.metrics.jsonl"),
        ("a/run_best.bin", "a/run.metrics.jsonl"),
        ("a/run_best", "a/run.metrics.jsonl"),
        ("a/run.metrics.jsonl", "a/run.metrics.jsonl"),
        ("a/my_best", "a/my_best.metrics.jsonl"),
        ("a/run.v2.bin", "a/run.v2.metrics.jsonl"),
    ],
)
def test_metrics_path_of_a_name(tmp_path: Path, named: str, expected: str) -> None:
    (tmp_path / "a").mkdir()
    put_run(tmp_path / "a", "my_best", 1)
    assert metrics_path(tmp_path / named) == tmp_path / expected


def test_read_run(tmp_path: Path) -> None:
    lines: list[Line] = [line(0), line(1, val_loss=3.5, tokens=8192), {"iter": 2, "loss": 3.25}]
    read = read_run(put(tmp_path / "run.metrics.jsonl", lines, tail='{"iter": 3, "lo'))
    assert (read.name, read.title) == ("run", "run")
    assert (read.iterations.tolist(), read.losses.tolist()) == ([0, 1, 2], [4.0, 3.99, 3.25])
    assert read.learning_rates[:2].tolist() == [1e-3, 1e-3]
    assert np.isnan(read.learning_rates[2])
    assert (read.evaluated.tolist(), read.val_losses.tolist()) == ([1], [3.5])


def test_later_line_of_an_iteration_wins(tmp_path: Path) -> None:
    lines = [line(0), line(1, loss=3.0), line(2), line(1, loss=2.0)]
    read = read_run(put(tmp_path / "run.metrics.jsonl", lines))
    assert (read.iterations.tolist(), read.losses.tolist()) == ([0, 1, 2], [4.0, 2.0, 3.98])


@pytest.mark.parametrize("value", ['"3.5"', "true", "NaN", "Infinity", "1" + "0" * 400, "[1]", "null"])
def test_non_numeric_loss_is_not_drawn(tmp_path: Path, value: str) -> None:
    path = put(tmp_path / "run.metrics.jsonl", [line(0)], tail=f'{{"iter": 1, "loss": {value}}}\n')
    assert read_run(path).iterations.tolist() == [0]
    path = put(tmp_path / "run.metrics.jsonl", [], tail=f'{{"iter": 1, "loss": 2, "val_loss": {value}}}\n')
    assert read_run(path).evaluated.tolist() == []


@pytest.mark.parametrize("contents", [b"", b"\n\n", b'{"iter": 1, "lo', b"[1]\n7\n", b"\xff\xfe\n", b"[" * 100_000])
def test_file_without_a_valid_line_is_named(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "run.metrics.jsonl").write_bytes(contents)
    with pytest.raises(InvalidModelFile, match=r"run\.metrics\.jsonl: no line"):
        read_run(tmp_path / "run.metrics.jsonl")


def test_plot_of_one_run(tmp_path: Path) -> None:
    path = put_run(tmp_path, "run", 30)
    (tmp_path / "run.json").write_bytes(Sidecar(config=CONFIG, tokenizer=TOKENIZER, name="story").encode())
    picture = draw([read_run(path)], "svg").decode()
    for words in (
        ">story (randygpt-2L-2H-16D)<",
        ">training<",
        ">validation<",
        ">best 2.0000 (perplexity 7.39) at iteration 20<",
        ">loss (nats per token)<",
        ">learning rate<",
        ">iteration<",
    ):
        assert words in picture


def test_plot_of_several_runs(tmp_path: Path) -> None:
    runs = [
        read_run(put_run(tmp_path, "first", 3000, every=25)),
        read_run(put_run(tmp_path, "_$x$_", 20)),
        read_run(put_run(tmp_path, "young", 5)),
        read_run(put_run(tmp_path, "n" * 90, 20)),
    ]
    picture = draw(runs, "svg").decode()
    for words in (
        ">4 runs<",
        ">first: best 2.0000 at iteration 50<",
        "_$x$_: best 2.0000 at iteration 20<",
        ">young: no validation loss yet<",
        f">{'n' * 23}…: best",
        ">thin: training, bold: validation<",
    ):
        assert words in picture


def put_bits(folder: Path, name: str, *, bytes_per_token: float) -> Path:
    """Write a run whose evaluations record bits per byte."""
    lines = [line(number) for number in range(20)]
    bits = {9: 2.0, 19: 3.0}
    for number, value in bits.items():
        lines[number] |= {"val_loss": value * math.log(2) * bytes_per_token, "val_bits_per_byte": value}
    return put(folder / f"{name}.metrics.jsonl", lines)


def test_runs_are_compared_in_bits_per_byte(tmp_path: Path) -> None:
    runs = [read_run(put_bits(tmp_path, name, bytes_per_token=size)) for name, size in (("char", 1.0), ("bpe", 3.0))]
    assert [run.bytes_per_token for run in runs] == pytest.approx([1.0, 3.0])
    picture = draw(runs, "svg").decode()
    for words in (
        ">loss (bits per byte)<",
        ">char: best 2.0000 at iteration 10<",
        ">bpe: best 2.0000 at iteration 10<",
    ):
        assert words in picture
    alone = draw(runs[1:], "svg").decode()
    assert ">loss (nats per token)<" in alone
    assert ">best 4.1589 (2.000 bits per byte) at iteration 10<" in alone


def test_run_without_evaluation_takes_bits_from_its_sidecar(tmp_path: Path) -> None:
    path = put_run(tmp_path, "young", 5)
    sidecar = Sidecar(config=CONFIG, tokenizer=TOKENIZER, training={"bytes_per_token": 2.5})
    (tmp_path / "young.json").write_bytes(sidecar.encode())
    assert read_run(path).bytes_per_token == 2.5


def test_learning_rate_axis_is_logarithmic(tmp_path: Path) -> None:
    for name, rate in (("slow", 1e-4), ("fast", 3e-2)):
        put(tmp_path / f"{name}.metrics.jsonl", [line(number, lr=rate) for number in range(3)])
    picture = draw([read_run(tmp_path / f"{name}.metrics.jsonl") for name in ("slow", "fast")], "svg").decode()
    assert all(f">{rate}<" in picture for rate in ("0.0001", "0.001", "0.01"))


def test_plot_is_reproducible(tmp_path: Path) -> None:
    path = put_run(tmp_path, "run", 30)
    assert draw([read_run(path)], "svg") == draw([read_run(path)], "svg")


@pytest.mark.parametrize("iterations", [1, 2, 20, 1000])
def test_run_of_any_length_can_be_drawn(tmp_path: Path, iterations: int) -> None:
    picture = draw([read_run(put_run(tmp_path, "日本", iterations))], "png")
    assert struct.unpack(">8s8x2I", picture[:24]) == (b"\x89PNG\r\n\x1a\n", 1440, 960)


def test_perplexities() -> None:
    assert [perplexity(loss) for loss in (0.0, 2.0, 9.0, 1e300)] == ["1.00", "7.39", "8,103.08", "huge"]


def test_plot_command_writes_next_to_the_metrics(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (at_home / "runs").mkdir()
    put_run(at_home / "runs", "run", 30)
    assert run(["plot", "runs/run_best.bin", "--json"]) == 0
    assert json.loads(only_line(capsys.readouterr().out)) == {
        "picture": "runs/run.png",
        "runs": ["runs/run.metrics.jsonl"],
        "best_val_losses": [2.0],
        "best_bits_per_byte": [None],
    }
    assert (at_home / "runs/run.png").read_bytes().startswith(b"\x89PNG")
    put_run(at_home, "other", 5)
    assert run(["plot", "runs/run", "other", "--out", "both.SVG"]) == 0
    output = capsys.readouterr()
    assert only_line(output.out) == "both.SVG"
    assert "run.metrics.jsonl has no bits per byte" in only_line(output.err)
    assert (at_home / "both.SVG").read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("missing",), "missing.metrics.jsonl: No such file"),
        (("run", "--out", "picture.pdf"), "picture.pdf: the name must end in .png or .svg"),
        (("run", "--out", "nowhere/picture.png"), "nowhere/picture.png: the folder nowhere does not exist"),
        (("run", "cut"), "cut.metrics.jsonl: no line"),
    ],
)
def test_failed_plot_leaves_no_file(
    at_home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    put_run(at_home, "run", 3)
    put(at_home / "cut.metrics.jsonl", [], tail='{"iter')
    before = sorted(at_home.iterdir())
    assert run(["plot", *words]) == 2
    assert says in only_line(capsys.readouterr().err)
    assert sorted(at_home.iterdir()) == before


def test_missing_matplotlib_names_the_extra(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_run(at_home, "run", 3)
    for name in ("matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))):
        monkeypatch.setitem(sys.modules, name, None)
    assert run(["plot", "run"]) == 2
    assert "pip install 'randygpt[plot]'" in only_line(capsys.readouterr().err)


@pytest.mark.full
def test_plot_does_not_import_torch(tmp_path: Path) -> None:
    path = put_run(tmp_path, "run", 3)
    assert not loads_torch(f"plot {path}")
    assert (tmp_path / "run.png").is_file()
