"""Table of `docs/training.md`: presets and minutes of training against bits per byte, on two texts.

    .venv/bin/python benchmarks/training_table.py tinyshakespeare.txt

Takes about 12 minutes on two cores, which nothing else may use. Writes `benchmarks/results/training-table.json` and the
table in `docs/training.md`. The number of iterations of a row follows from its minutes and from the milliseconds of an
iteration, measured first; the losses follow from the number of iterations.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from machine import machine
from measure import Metrics, iteration_ms, total_ms

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "benchmarks" / "results" / "training-table.json"
PAGE = ROOT / "docs" / "training.md"
BEGIN, END = "<!-- table: benchmarks/training_table.py -->\n", "<!-- end of table -->\n"
BUILT_IN, FILE = "the built-in text", "tinyshakespeare"
DEFAULT_ROWS = ("xs:0.5", "xs:default", "s:2", "xs:1:1000")
CALIBRATION = 40  # iterations
PROMPTS = {BUILT_IN: "The ", FILE: "ROMEO:"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the table: a preset and a tokenizer, trained for some minutes or with the default iterations."""

    preset: str
    minutes: float | None  # None: the command's default iterations
    bpe: int | None  # None: characters

    @classmethod
    def parse(cls, text: str) -> "Row":
        """Return the row `PRESET:MINUTES` or `PRESET:MINUTES:BPE`; MINUTES may be `default`."""
        preset, minutes, *bpe = text.split(":")
        return cls(
            preset=preset, minutes=None if minutes == "default" else float(minutes), bpe=int(bpe[0]) if bpe else None
        )

    @property
    def flags(self) -> list[str]:
        """Flags of `randygpt train`; none for the defaults."""
        preset = ["--preset", self.preset] if self.preset != "xs" else []
        return preset + (["--bpe", str(self.bpe)] if self.bpe else [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A run of a row on a text."""

    text: str
    preset: str
    bpe: int | None
    minutes: float | None
    iterations: int
    seconds: float  # of the command, from start to end
    iteration_ms: float
    bits_per_byte: float  # the best of the validation text
    best_iteration: int  # 1 is the first
    val_loss: float
    train_loss: float  # of the last iteration
    sample: str


def main() -> None:
    """Measure every row on both texts, and write the report and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="tinyshakespeare.txt")
    parser.add_argument(
        "--row", action="append", metavar="PRESET:MINUTES[:BPE]", help=f"default: {' '.join(DEFAULT_ROWS)}"
    )
    arguments = parser.parse_args()
    rows = [Row.parse(text) for text in arguments.row or DEFAULT_ROWS]
    measured: list[Measured] = []
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            iterations = None if row.minutes is None else _iterations(Path(folder), row.flags, row.minutes)
            for text, path in ((BUILT_IN, None), (FILE, arguments.text.resolve(strict=True))):
                measured.append(_measure(Path(folder), row, text, path, iterations))
                print(_line(measured[-1]), flush=True)
                _write(about, measured)
    print("\n".join(_table(measured)))


def _iterations(folder: Path, flags: list[str], minutes: float) -> int:
    """Return the iterations that take so many minutes, from a short run."""
    _, metrics, _ = _train(folder, [*flags, "--iters", str(CALIBRATION)])
    return max(10, round(minutes * 60e3 / iteration_ms(metrics) / 10) * 10)


def _measure(folder: Path, row: Row, text: str, path: Path | None, iterations: int | None) -> Measured:
    flags = [*row.flags, *(["--iters", str(iterations)] if iterations else [])]
    result, metrics, seconds = _train(folder, [*([str(path)] if path else []), *flags])
    generate = ["generate", PROMPTS[text], "--model", "checkpoint_best.bin", "--seed", "1", "--quiet"]
    return Measured(
        text=text,
        preset=row.preset,
        bpe=row.bpe,
        minutes=row.minutes,
        iterations=len(metrics),
        seconds=round(seconds, 1),
        iteration_ms=round(total_ms(metrics) / len(metrics), 2),
        bits_per_byte=round(result["best_bits_per_byte"], 4),
        best_iteration=result["best_iteration"] + 1,
        val_loss=round(result["best_val_loss"], 4),
        train_loss=round(result["train_loss"], 4),
        sample=PROMPTS[text] + _run(folder, [*generate, "--max-tokens", "300", "--temperature", "0.6"]),
    )


def _train(folder: Path, flags: list[str]) -> tuple[dict[str, Any], Metrics, float]:
    """Run `randygpt train`; return its result, its metrics and its seconds."""
    started = time.monotonic()
    result: dict[str, Any] = json.loads(_run(folder, ["train", *flags, "--json"]))
    seconds = time.monotonic() - started
    lines = (folder / "checkpoint.metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return result, [json.loads(line) for line in lines], seconds


def _run(folder: Path, words: list[str]) -> str:
    """Run the command line and return its output."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RANDYGPT_")}
    done = subprocess.run(
        [sys.executable, "-m", "randygpt", *words],
        stdout=subprocess.PIPE,
        cwd=folder,
        env=variables | {"RANDYGPT_HOME": str(folder / "home"), "RANDYGPT_CONFIG": os.devnull},
        text=True,
        check=True,
    )
    return done.stdout


def _line(run: Measured) -> str:
    return (
        f"{run.text}, {run.preset}, {run.bpe or 'characters'}: {run.iterations} iterations, {run.seconds:.0f} s, "
        f"{run.bits_per_byte:.3f} bits per byte at {run.best_iteration}\n{run.sample}\n"
    )


def _write(about: dict[str, object], measured: list[Measured]) -> None:
    """Write the report and the table of the page."""
    report = {**about, "rows": [asdict(run) for run in measured]}
    REPORT.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(_table(measured))
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n\n{END}{after}", encoding="utf-8")


def _table(measured: list[Measured]) -> list[str]:
    """Return the table, with one row for both texts."""
    lines = [f"| preset | tokens | iterations | minutes | {BUILT_IN} | {FILE} |", "|---|---|---|---|---|---|"]
    by_row: dict[tuple[object, ...], list[Measured]] = {}
    for run in measured:
        by_row.setdefault((run.preset, run.bpe, run.iterations), []).append(run)
    for (preset, bpe, iterations), runs in by_row.items():
        tokens = f"BPE, {bpe:,}" if bpe else "characters"
        minutes = max(run.seconds for run in runs) / 60
        cells = [next((_cell(run) for run in runs if run.text == text), "") for text in (BUILT_IN, FILE)]
        lines.append(f"| {preset} | {tokens} | {iterations:,} | {minutes:.1f} | {' | '.join(cells)} |")
    return lines


def _cell(run: Measured) -> str:
    """Return the bits per byte, and where they were best if that was not at the end."""
    early = f" (best at {run.best_iteration:,})" if run.best_iteration < run.iterations else ""
    return f"{run.bits_per_byte:.2f}{early}"


if __name__ == "__main__":
    main()
