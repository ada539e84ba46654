"""Rows of the benchmark, and how their values are measured. Starts processes; reads no clock itself."""

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from peer_installs import PACKAGES, PEERS

SCRIPTS = Path(__file__).parent / "scripts"
BASELINE, TEXT = "RANDYGPT_BASELINE", "RANDYGPT_TEXT"
ROUNDS = 3  # A B A B A B: reference and ours alternate
WARM_UP = 2  # first iterations of a run, not counted

Raw = dict[str, float]
Metrics = list[dict[str, float]]  # lines of a metrics file


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Value of a row, and the raw figures it was computed from."""

    value: float
    raw: Raw
    fault: str = ""  # why the value is invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Working folder and inputs of a benchmark run."""

    folder: Path  # temporary; holds the text, `train.txt`
    baseline: str | None  # path of the plain program
    has_text: bool  # otherwise the text is the built-in sample
    vocab_size: int  # characters of the text

    @property
    def text(self) -> Path:
        """Path of the training text."""
        return self.folder / "train.txt"

    def train(self, *flags: str, **variables: str) -> Metrics:
        """Run `randygpt train` as a process with these environment variables; return the lines of its metrics file."""
        prefix = self.folder / "bench"
        command = [sys.executable, "-m", "randygpt", "train", "--train-file", str(self.text)]
        done = self._run([*command, "--checkpoint", str(prefix), "--json", *flags], variables)
        lines = prefix.with_name("bench.metrics.jsonl").read_text(encoding="utf-8").splitlines()
        metrics: Metrics = [json.loads(line) for line in lines]
        if len(metrics) != done["iteration"] + 1:
            raise RuntimeError(f"train {' '.join(flags)}: {len(metrics)} lines, but iteration {done['iteration']}")
        return metrics

    def run_script(self, script: str, *arguments: str) -> Raw:
        """Run a script of `scripts/` as a process and return the figures it prints."""
        return self._run([sys.executable, str(SCRIPTS / script), *arguments])

    def run_peer(self, script: str, *arguments: str) -> Raw:
        """Run a script of `peers/`, with the packages installed there, and return the figures it prints."""
        return self._run([sys.executable, str(PEERS / script), *arguments], {"PYTHONPATH": str(PACKAGES)})

    def plain_training_ms(self, preset: str, steps: int) -> float:
        """Measure a training iteration of the plain program, in ms."""
        flags = ["--preset", preset, "--vocab", str(self.vocab_size), "--batch", "64", "--steps", str(steps)]
        return self._plain("train", *flags)["ms_per_iter"]

    def plain_decoding_ms(self) -> float:
        """Measure a decoded token of the plain program, in ms: preset l, vocabulary 2,000."""
        return 1e3 / self._plain("decode", "--preset", "l", "--vocab", "2000", "--tokens", "200")["tokens_per_s"]

    def _plain(self, *arguments: str) -> Raw:
        if self.baseline is None:
            raise RuntimeError(f"{BASELINE} names no program")
        return self._run([sys.executable, self.baseline, *arguments])

    def _run(self, command: list[str], variables: Mapping[str, str] = MappingProxyType({})) -> Raw:
        """Run a command and return the JSON object it prints."""
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", **variables}  # the first as the command line sets it
        done = subprocess.run(command, stdout=subprocess.PIPE, cwd=self.folder, env=environment, check=True)
        printed: Raw = json.loads(done.stdout)
        return printed


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Definition of one line of the report."""

    name: str
    unit: str  # x: times as fast as the reference
    measure: Callable[[Bench], Measured]
    goal: float | None = None
    at_most: bool = False  # the goal is an upper limit, not a lower one
    needs: tuple[str, ...] = ()  # environment variables
    program: Path | None = None  # installed by `make test-all`
    setup: Callable[[], str] | None = None  # installs the peer, or returns why it cannot be had

    def missing(self, bench: Bench) -> list[str]:
        """Return the missing requirements of this row, in words."""
        available = {BASELINE: bench.baseline is not None, TEXT: bench.has_text}
        missing = [f"{name} is not set" for name in self.needs if not available[name]]
        if self.program and not self.program.exists():
            missing.append(f"{self.program.name} is not installed")
        if not missing and self.setup and (reason := self.setup()):
            missing.append(reason)
        return missing


@dataclass(frozen=True, slots=True)
class Result:
    """A row with its measured value."""

    row: Row
    measured: Measured

    @property
    def score(self) -> float | None:
        """Ratio of value and goal, above 1 if the goal is exceeded; at most 100. None without a goal."""
        if self.row.goal is None:
            return None
        if self.row.at_most:
            return self.row.goal / max(self.measured.value, self.row.goal / 100)  # the value may be 0
        return self.measured.value / self.row.goal

    @property
    def reached(self) -> bool | None:
        """True if the goal is reached; None without a goal."""
        return None if self.score is None else self.score >= 1 and not self.measured.fault

    @property
    def value_text(self) -> str:
        """Value and unit, rounded for display."""
        return f"{significant(self.measured.value, 3):g} {self.row.unit}"

    @property
    def goal_text(self) -> str:
        """Goal with its comparison sign."""
        return "" if self.row.goal is None else f"{'≤' if self.row.at_most else '≥'} {self.row.goal:g}"

    def as_json(self) -> dict[str, object]:
        """Return the entry of the JSON report."""
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
    """Measure reference and ours alternately, in ms; the value is the ratio of reference to ours."""
    return ratio([(reference(), ours()) for _ in range(ROUNDS)])


def ratio(pairs: Sequence[tuple[float, float]], *, inverse: bool = False) -> Measured:
    """Return the median ratio of reference to ours over all pairs (`inverse`: ours to reference)."""
    ratios = [ours / reference if inverse else reference / ours for reference, ours in pairs]
    raw = {
        "reference_ms": statistics.median(reference for reference, _ in pairs),
        "ours_ms": statistics.median(ours for _, ours in pairs),
        "lowest": min(ratios),
        "highest": max(ratios),
    }
    return Measured(value=statistics.median(ratios), raw=raw)


def iteration_ms(metrics: Metrics) -> float:
    """Return the median ms of the iterations after the warm-up that have no evaluation."""
    return statistics.median(line["ms_per_iter"] for line in metrics[WARM_UP:] if "val_loss" not in line)


def total_ms(metrics: Metrics) -> float:
    """Return the time of a run in ms, including evaluations."""
    return sum(line["ms_per_iter"] for line in metrics)


def significant(value: float, digits: int = 4) -> float:
    """Round to significant digits; digits before the decimal point stay."""
    return round(value, max(0, digits - 1 - math.floor(math.log10(abs(value))))) if value else 0.0
