"""What a row of the benchmark is, and how its figures are taken."""

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ALONE = Path(__file__).parent / "alone"
BASELINE, TEXT = "RANDYGPT_BASELINE", "RANDYGPT_TEXT"
ROUNDS = 3  # A B A B A B
WARM_UP = 2  # iterations of a run that are not counted

Raw = dict[str, float]
Metrics = list[dict[str, float]]  # lines of a metrics file


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A value, and the figures behind it."""

    value: float
    raw: Raw
    fault: str = ""  # why the value does not count


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where a benchmark works, and what the environment gave it."""

    folder: Path  # temporary; the text in it is `train.txt`
    baseline: str | None  # the plain program
    has_text: bool  # else the text is the built-in sample
    vocab_size: int  # characters of the text

    @property
    def text(self) -> Path:
        """The text to train on."""
        return self.folder / "train.txt"

    def train(self, *flags: str) -> Metrics:
        """Run `randygpt train` in a process of its own, as its user does; the lines of its metrics file."""
        prefix = self.folder / "bench"
        command = [sys.executable, "-m", "randygpt", "train", "--train-file", str(self.text)]
        done = self._printed([*command, "--checkpoint", str(prefix), "--json", *flags])
        lines = prefix.with_name("bench.metrics.jsonl").read_text(encoding="utf-8").splitlines()
        metrics: Metrics = [json.loads(line) for line in lines]
        if len(metrics) != done["iteration"] + 1:
            raise RuntimeError(f"train {' '.join(flags)}: {len(metrics)} lines, but iteration {done['iteration']}")
        return metrics

    def alone(self, script: str, *words: str) -> Raw:
        """The figures of a script that has a process for itself."""
        return self._printed([sys.executable, str(ALONE / script), *words])

    def plain_training_ms(self, preset: str, steps: int) -> float:
        """Ms of an iteration of the plain program."""
        flags = ["--preset", preset, "--vocab", str(self.vocab_size), "--batch", "64", "--steps", str(steps)]
        return self._plain("train", *flags)["ms_per_iter"]

    def plain_decoding_ms(self) -> float:
        """Ms of a token of the plain program, preset l, vocabulary 2000."""
        return 1e3 / self._plain("decode", "--preset", "l", "--vocab", "2000", "--tokens", "200")["tokens_per_s"]

    def _plain(self, *words: str) -> Raw:
        if self.baseline is None:
            raise RuntimeError(f"{BASELINE} names no program")
        return self._printed([sys.executable, self.baseline, *words])

    def _printed(self, command: list[str]) -> Raw:
        """The line of JSON that a program prints."""
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as the command line has it
        done = subprocess.run(command, stdout=subprocess.PIPE, cwd=self.folder, env=environment, check=True)
        printed: Raw = json.loads(done.stdout)
        return printed


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the report."""

    name: str
    unit: str  # x: how many times faster
    measure: Callable[[Bench], Measured]
    goal: float | None = None
    at_most: bool = False  # the goal is the most that is good, not the least
    needs: tuple[str, ...] = ()  # variables of the environment
    program: Path | None = None  # that `make test-all` installs

    def missing(self, bench: Bench) -> list[str]:
        """What this row needs and is not there."""
        there = {BASELINE: bench.baseline is not None, TEXT: bench.has_text}
        lacking = [f"{name} is not set" for name in self.needs if not there[name]]
        if self.program and not self.program.exists():
            lacking.append(f"{self.program.name} is not installed")
        return lacking


@dataclass(frozen=True, slots=True)
class Result:
    """A row that was measured."""

    row: Row
    measured: Measured

    @property
    def score(self) -> float | None:
        """How many times as good as its goal, a hundred at most; None without one."""
        if self.row.goal is None:
            return None
        if self.row.at_most:
            return self.row.goal / max(self.measured.value, self.row.goal / 100)  # what costs nothing may be measured 0
        return self.measured.value / self.row.goal

    @property
    def reached(self) -> bool | None:
        """Whether the value is as good as its goal; None without one."""
        return None if self.score is None else self.score >= 1 and not self.measured.fault

    @property
    def value_words(self) -> str:
        """The value as a person reads it."""
        return f"{significant(self.measured.value, 3):g} {self.row.unit}"

    @property
    def goal_words(self) -> str:
        """The goal as a person reads it."""
        return "" if self.row.goal is None else f"{'≤' if self.row.at_most else '≥'} {self.row.goal:g}"

    def as_json(self) -> dict[str, object]:
        """What the report keeps of it."""
        fault = {"fault": self.measured.fault} if self.measured.fault else {}
        return {
            "name": self.row.name,
            "value": significant(self.measured.value),
            "unit": self.row.unit,
            "goal": self.row.goal,
            "goal_is": None if self.row.goal is None else "at most" if self.row.at_most else "at least",
            "reached": self.reached,
            "raw": {name: significant(value) for name, value in self.measured.raw.items()},
            **fault,
        }


def compare(reference: Callable[[], float], ours: Callable[[], float]) -> Measured:
    """A B A B A B, in ms: how many times faster we are."""
    return ratio([(reference(), ours()) for _ in range(ROUNDS)])


def ratio(pairs: Sequence[tuple[float, float]], *, inverse: bool = False) -> Measured:
    """Median of reference over ours, pair by pair (`inverse`: ours over reference); of the raw figures the medians."""
    ratios = [ours / reference if inverse else reference / ours for reference, ours in pairs]
    raw = {
        "reference_ms": statistics.median(reference for reference, _ in pairs),
        "ours_ms": statistics.median(ours for _, ours in pairs),
        "lowest": min(ratios),
        "highest": max(ratios),
    }
    return Measured(value=statistics.median(ratios), raw=raw)


def iteration_ms(metrics: Metrics) -> float:
    """Median ms of the iterations behind the first, without an evaluation."""
    return statistics.median(line["ms_per_iter"] for line in metrics[WARM_UP:] if "val_loss" not in line)


def significant(value: float, digits: int = 4) -> float:
    """The digits that are not noise; those before the point stay."""
    return round(value, max(0, digits - 1 - math.floor(math.log10(abs(value))))) if value else 0.0
