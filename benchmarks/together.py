"""Experiment: forks of one base, merged once or in rounds, against one worker and against data parallel training.

    .venv/bin/python benchmarks/together.py tinyshakespeare.txt --out together.json
    .venv/bin/python benchmarks/together.py tinyshakespeare.txt --out part.json --preset xs --seed 1 --workers 4

The last tenth of the text is held out: no run sees it, and all models are evaluated on its first `--held-out`
bytes, in bits per byte. Every worker starts from the base and trains `--steps` steps in all, on the whole text
(shared) or on its own part of it (own). With several rounds, each starts from the last merge, and the learning rate
falls over all of them.

For comparison, one worker trains as many steps as a fork (alone), and W times as many (more steps). Data parallel
training is run as one process with a batch W times as large, which has the gradient that `torchrun` with W processes
computes. Bytes moved: each worker uploads its fork and downloads the merge, and the merging one downloads all forks.

All presets, seeds and workers take hours; results are written after every row, and rows that are there are not
repeated.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import randygpt
from randygpt.checkpoint.merge import MergeFile, merge_files
from randygpt.checkpoint.rgpt import write_checkpoint
from randygpt.checkpoint.sidecar import inspect_checkpoint, sidecar_path
from randygpt.model.merge import MergeRule
from randygpt.training.recipe import FAST, RECIPES

SCALES = ("0.5", "0.75", "1", "1.25", "1.5", "2")
BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A result."""

    preset: str
    seed: int
    arm: str  # base, alone, more steps, data parallel, merged
    text: str  # shared, own
    workers: int
    rounds: int
    scale: str
    bits_per_byte: float
    bytes_moved: int

    @property
    def key(self) -> tuple[object, ...]:
        """What the row measures."""
        return (self.preset, self.seed, self.arm, self.text, self.workers, self.rounds, self.scale)


class Results:
    """The rows measured so far, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows = [Row(**row) for row in json.loads(path.read_text())] if path.exists() else []

    def has(self, *key: object) -> bool:
        """Return whether the row with this key was measured."""
        return any(row.key == key for row in self.rows)

    def add(self, row: Row) -> None:
        """Keep a row, and print it."""
        self.rows.append(row)
        self._path.write_text(json.dumps([asdict(each) for each in self.rows], indent=1) + "\n")
        print(*row.key, f"{row.bits_per_byte:.4f}", f"{row.bytes_moved:,}", flush=True)


class Bench:
    """Runs of one preset and seed, in a folder of their own."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, preset: str, seed: int, results: Results) -> None:
        self.arguments, self.folder, self.preset, self.seed, self.results = arguments, folder, preset, seed, results
        data = arguments.text.read_text(encoding="utf-8")
        border = len(data) * 9 // 10
        self.train_text, self.held_out = data[:border], data[border:][: arguments.held_out]
        self.base = folder / "base.bin"
        (folder / "shared.txt").write_text(self.train_text, encoding="utf-8")

    def run(self) -> None:
        """Measure every row that is missing."""
        steps, lr = self.arguments.base_steps, RECIPES[FAST].max_lr
        self.train("base", "shared.txt", steps, lr, RECIPES[FAST].min_lr, self.seed)
        self.record(self.base, "base", "shared", 1, 0)
        for workers in self.arguments.workers:
            for text in ("shared", "own"):
                for rounds in self.arguments.rounds:
                    if not self.results.has(self.preset, self.seed, "merged", text, workers, rounds, "1"):
                        self.merge_in_rounds(text, workers, rounds)
            for arm, times, batch in (("more steps", workers, BATCH), ("data parallel", 1, BATCH * workers)):
                if not self.results.has(self.preset, self.seed, arm, "shared", workers, 1, "1"):
                    high, low = self.rates(0, 1)
                    steps = self.arguments.steps * times
                    path = self.train("one", "shared.txt", steps, high, low, self.seed, base=self.base, batch=batch)
                    self.record(path, arm, "shared", workers, 1, moved=self.data_parallel_bytes(arm, workers))

    def merge_in_rounds(self, text: str, workers: int, rounds: int) -> None:
        """Fork, train and merge so many times; record the first fork of a single round too."""
        merged, size = self.base, self.base_size()
        for part in range(workers):
            begin, end = (len(self.train_text) * each // workers for each in (part, part + 1))
            (self.folder / f"own{part}.txt").write_text(self.train_text[begin:end], encoding="utf-8")
        forks: list[Path] = []
        for turn in range(rounds):
            high, low = self.rates(turn, rounds)
            forks = [
                self.train(
                    f"fork{part}",
                    "shared.txt" if text == "shared" else f"own{part}.txt",
                    self.arguments.steps // rounds,
                    high,
                    low,
                    100 * self.seed + 10 * turn + part,
                    base=merged,
                )
                for part in range(workers)
            ]
            before, merged = merged, self.folder / f"merged{turn % 2}.bin"
            self.merge(before, forks, merged, "1")
        moved = rounds * size * (2 * workers + workers)
        if rounds == 1:
            self.record(forks[0], "alone", text, workers, 1)
            for scale in SCALES:
                self.merge(self.base, forks, merged, scale)
                self.record(merged, "merged", text, workers, 1, scale=scale, moved=moved)
        else:
            self.record(merged, "merged", text, workers, rounds, moved=moved)

    def train(
        self,
        name: str,
        text: str,
        steps: int,
        lr: float,
        min_lr: float,
        seed: int,
        *,
        base: Path | None = None,
        batch: int = BATCH,
    ) -> Path:
        """Train with the command, and return the newest checkpoint."""
        words = ["--from", str(base)] if base else ["--preset", self.preset]
        words += ["--iters", str(steps), "--lr", str(lr), "--min-lr", str(min_lr), "--seed", str(seed)]
        command = [
            sys.executable,
            "-m",
            "randygpt",
            "train",
            text,
            "--checkpoint",
            name,
            "--batch",
            str(batch),
            "--quiet",
        ]
        environment = os.environ | {"RANDYGPT_HOME": str(self.folder), "RANDYGPT_CONFIG": os.devnull}
        for leftover in self.folder.glob(f"{name}*"):
            leftover.unlink()
        subprocess.run([*command, *words], cwd=self.folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        return self.folder / f"{name}.bin"

    def merge(self, base: Path, forks: list[Path], target: Path, scale: str) -> None:
        """Merge forks of a base into a file with its sidecar."""
        rule = MergeRule(weights=(1,) * len(forks), scale=Fraction(scale))
        merged = merge_files(_merge_file(base), [_merge_file(path) for path in forks], rule)
        write_checkpoint(target, merged.checkpoint)
        sidecar = json.loads(sidecar_path(self.base).read_text(encoding="utf-8"))
        kept = {key: sidecar[key] for key in ("config", "tokenizer")}
        facts = {"iteration": merged.checkpoint.header.iteration, "losses": {"best_val": None}}
        sidecar_path(target).write_text(json.dumps(kept | facts), encoding="utf-8")

    def rates(self, turn: int, rounds: int) -> tuple[float, float]:
        """Return first and last learning rate of a round; they fall on one line over all rounds."""
        recipe = RECIPES[FAST]
        fall = recipe.fork_lr - recipe.min_lr
        first, last = (recipe.fork_lr - fall * each / rounds for each in (turn, turn + 1))
        return round(first, 6), round(last, 6)

    def record(
        self, path: Path, arm: str, text: str, workers: int, rounds: int, *, scale: str = "1", moved: int = 0
    ) -> None:
        """Evaluate a checkpoint on the held-out text, and keep the result."""
        if self.results.has(self.preset, self.seed, arm, text, workers, rounds, scale):
            return
        bits = randygpt.load(path).evaluate([self.held_out]).bits_per_byte
        self.results.add(
            Row(
                preset=self.preset,
                seed=self.seed,
                arm=arm,
                text=text,
                workers=workers,
                rounds=rounds,
                scale=scale,
                bits_per_byte=round(bits, 4),
                bytes_moved=moved,
            )
        )

    def base_size(self) -> int:
        """Return the bytes of a checkpoint without optimizer state."""
        return 24 + 4 * inspect_checkpoint(self.base).config.parameter_count

    def data_parallel_bytes(self, arm: str, workers: int) -> int:
        """Return what a ring sends: each worker 2 (W - 1) / W of the gradient in float32, every step."""
        return 2 * (workers - 1) * self.base_size() * self.arguments.steps if arm == "data parallel" else 0


def _merge_file(path: Path) -> MergeFile:
    info = inspect_checkpoint(path)
    assert info.tokenizer  # noqa: S101 (training wrote it)
    return MergeFile(title=path.name, path=path, config=info.config, tokenizer=info.tokenizer)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="tinyshakespeare.txt")
    parser.add_argument("--out", type=Path, required=True, help="JSON file with the results")
    parser.add_argument("--preset", nargs="+", default=["xs", "s"])
    parser.add_argument("--seed", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--workers", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--rounds", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--base-steps", type=int, default=480)
    parser.add_argument("--steps", type=int, default=160, help="of each worker, in all rounds together")
    parser.add_argument("--held-out", type=int, default=100_000, help="bytes of text to evaluate on")
    return parser.parse_args()


def _benches(arguments: argparse.Namespace, results: Results) -> Iterator[Bench]:
    for preset in arguments.preset:
        for seed in arguments.seed:
            with tempfile.TemporaryDirectory() as folder:
                yield Bench(arguments, Path(folder), preset, seed, results)


def main() -> None:
    """Measure the rows that are missing in the results."""
    arguments = _parse()
    for bench in _benches(arguments, Results(arguments.out)):
        bench.run()


if __name__ == "__main__":
    main()
