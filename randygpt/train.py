"""The training loop. Reads a corpus and a checkpoint, writes checkpoints, sidecars and metrics.

`PREFIX.bin` is the newest state, `PREFIX_best.bin` the one with the lowest validation loss, each with its JSON beside
it; `PREFIX.metrics.jsonl` has a line an iteration. Files are written off the training thread.
"""

import ctypes
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from randygpt.checkpoint import Array, Checkpoint, read_checkpoint
from randygpt.config import ModelConfig
from randygpt.data import Corpus
from randygpt.errors import CallerError, Diverged
from randygpt.header import CheckpointHeader
from randygpt.model import GPT, gradient_views
from randygpt.optim import FlatAdamW, Plateau, learning_rate
from randygpt.saving import CheckpointWriter, open_metrics
from randygpt.sidecar import Sidecar, describe
from randygpt.text import Text
from randygpt.tokenizer import CharTokenizer, Tokenizer

EVAL_EVERY = 25  # iterations
EVAL_WINDOWS = 50
SAVE_EVERY_S = 60.0  # the newest state; the best is saved when it is found
DROPOUT = 0.1
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
DEFAULT_SEED = 1337
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h
MAX_SEED = 2**31 - 1  # with the iteration behind it, it fits the 64 bits of a generator


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What a run is asked to do; a value out of range raises CallerError."""

    iterations: int  # the target, counted from the first iteration of the model's life
    batch_size: int = 64  # windows in a step
    seed: int = DEFAULT_SEED
    peak_rate: float = 1e-4
    lowest_rate: float = 1e-5
    dropout: float = DROPOUT
    device: str = "cpu"
    precision: str = "float32"  # of the linear maps in training steps: float32 or bf16
    prefix: Path = Path("checkpoint")

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.batch_size < 1 or not 0 <= self.seed <= MAX_SEED:
            raise CallerError(f"iterations and batch size are at least 1, a seed is from 0 to {MAX_SEED}")
        if not 0 < self.lowest_rate <= self.peak_rate < math.inf or not 0 <= self.dropout < 1:
            raise CallerError("learning rates are over 0, the lowest at most the peak; dropout is from 0 to under 1")

        if self.precision not in PRECISIONS:
            raise CallerError(f"precision is {' or '.join(PRECISIONS)}, not {self.precision}")

    @property
    def newest(self) -> Path:
        """Where the newest state goes."""
        return self.prefix.with_name(f"{self.prefix.name}.bin")

    @property
    def best(self) -> Path:
        """Where the best state goes."""
        return self.prefix.with_name(f"{self.prefix.name}_best.bin")

    @property
    def metrics(self) -> Path:
        """Where the metrics go."""
        return self.prefix.with_name(f"{self.prefix.name}.metrics.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One iteration, as it is reported."""

    iteration: int  # index, from 0
    loss: float
    val_loss: float | None  # where it was measured
    rate: float
    ms: float  # milliseconds


@dataclass(slots=True)
class _State:
    """Everything a resume needs, besides the options."""

    model: GPT
    optimizer: FlatAdamW
    tokenizer: Tokenizer
    plateau: Plateau
    next_iteration: int = 0
    steps: int = 0
    train_loss: float | None = None
    val_loss: float | None = None


class Trainer:
    """One run: made by `start` or `resume`, carried out by `run`."""

    def __init__(self, options: TrainOptions, corpus: Corpus, state: _State, *, name: str) -> None:
        self.options = options
        self.model = state.model
        self._corpus = corpus
        self._state = state
        self._name = name
        self._best_saved = False
        state.model.set_training_dtype(PRECISIONS[options.precision])
        self._validation = [part.to(options.device) for part in corpus.validation(EVAL_WINDOWS)]

    @classmethod
    def start(
        cls,
        options: TrainOptions,
        text: Text | str,
        config: Callable[[int], ModelConfig],
        *,
        tokenizer: Tokenizer | None = None,
        name: str = "",
        tell: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """A new model; `config` gives its shape for a vocabulary size. Raises InvalidModelFile and OSError.

        Without a tokenizer, the tokens are the characters of the text. `tell` gets remarks for the person.
        """
        tokenizer = tokenizer or CharTokenizer.from_text(text)
        shape = config(tokenizer.vocab_size)
        model = GPT.initialise(shape, seed=options.seed, dropout=options.dropout, device=options.device)
        state = _State(model, _optimizer(model), tokenizer, Plateau())
        return cls(options, Corpus(text, tokenizer, shape.block_size, tell=tell), state, name=name)

    @classmethod
    def resume(
        cls,
        options: TrainOptions,
        text: Text | str,
        path: Path,
        *,
        preset: str | None = None,
        vocab: Path | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Go on from a checkpoint. Raises InvalidModelFile, CallerError and OSError.

        The JSON beside it gives the seed and the plateau's counters, so the run ends as an unbroken one would have.
        Without one, the vocabulary is the one in `vocab`, else the text's characters, and the counters start afresh.
        """
        found = describe(path, preset=preset, vocab=vocab)
        tokenizer = found.tokenizer or CharTokenizer.from_text(text)
        if tokenizer.vocab_size != found.header.vocab_size:
            raise CallerError(f"{path}: no vocabulary beside it, and the text has {tokenizer.vocab_size} characters")
        loaded = read_checkpoint(path, found.config)
        model = GPT(found.config, _tensor(loaded.weights, options.device), dropout=options.dropout)
        state = _State(model, _optimizer(model), tokenizer, Plateau(best=loaded.header.best_loss))
        state.next_iteration = loaded.header.iteration + 1
        if loaded.moments:
            state.steps = loaded.header.step
            first, second = (_tensor(moment, options.device) for moment in loaded.moments)
            state.optimizer.restore(state.steps, (first, second))
        sidecar = found.sidecar
        if sidecar and sidecar.iteration == loaded.header.iteration:
            state.train_loss, state.val_loss = sidecar.losses.get("train"), sidecar.losses.get("val")
            state.plateau.waited = sidecar.remembered("plateau_waited", 0)
            state.plateau.cuts = sidecar.remembered("plateau_cuts", 0)
        corpus = Corpus(text, tokenizer, found.config.block_size, tell=tell)
        if sidecar and sidecar.training.get("tokens", corpus.identity) != corpus.identity:
            tell(f"the text is not the one {path} was trained on")
        trainer = cls(options, corpus, state, name=sidecar.name if sidecar else "")
        trainer._best_saved = options.best.is_file()
        return trainer

    @property
    def tokenizer(self) -> Tokenizer:
        """What the text is cut into tokens with."""
        return self._state.tokenizer

    @property
    def next_iteration(self) -> int:
        """Index of the iteration that comes next."""
        return self._state.next_iteration

    @property
    def best_loss(self) -> float:
        """Lowest validation loss so far, infinite before the first."""
        return self._state.plateau.best

    def run(self, on_step: Callable[[Step], None], should_stop: Callable[[], bool]) -> bool:
        """Train to the target, or to a plateau's end; False if `should_stop` ended it first. Raises OSError.

        Raises Diverged, and then the files are those of before. Both files are on disk when it returns; a run that is
        at its target already writes nothing.
        """
        options, state = self.options, self._state
        if state.next_iteration >= options.iterations:
            return True
        saved_at = time.monotonic()
        with CheckpointWriter() as writer, open_metrics(options.metrics, state.next_iteration) as metrics:
            interrupted = False
            while state.next_iteration < options.iterations and not interrupted:
                step, is_best, exhausted = self._iterate()
                metrics.write(_metrics_line(step))
                on_step(step)
                if is_best:
                    self._save(writer, options.best)
                if step.val_loss is not None:
                    metrics.flush()
                if exhausted:
                    break
                if time.monotonic() - saved_at > SAVE_EVERY_S:
                    metrics.flush()
                    self._save(writer, options.newest)
                    saved_at = time.monotonic()
                interrupted = should_stop()
            self._save(writer, options.newest)
            if not self._best_saved:
                self._save(writer, options.best)
        return not interrupted

    def _iterate(self) -> tuple[Step, bool, bool]:
        """One iteration: (what to report, whether it is the best so far, whether the plateau's cuts are used up)."""
        options, state = self.options, self._state
        iteration, started = state.next_iteration, time.perf_counter()
        rate = learning_rate(
            iteration, iterations=options.iterations, peak=options.peak_rate, lowest=options.lowest_rate
        )
        rate *= state.plateau.factor
        state.train_loss = self._learn(iteration, rate)
        state.next_iteration, state.steps = iteration + 1, state.steps + 1
        val_loss, is_best, exhausted = None, False, False
        if state.next_iteration % EVAL_EVERY == 0 or state.next_iteration == options.iterations:
            state.val_loss = val_loss = self._evaluate()
            is_best = val_loss < state.plateau.best
            exhausted = state.plateau.update(val_loss)
        ms = (time.perf_counter() - started) * 1e3
        step = Step(iteration=iteration, loss=state.train_loss, val_loss=val_loss, rate=rate, ms=ms)
        return step, is_best, exhausted

    def _learn(self, iteration: int, rate: float) -> float:
        options = self.options
        inputs, targets = self._corpus.batch(seed=options.seed, iteration=iteration, batch_size=options.batch_size)
        self.model.train()
        self.model.dropout.begin(seed=options.seed, iteration=iteration, windows=range(options.batch_size))
        loss = _loss(self.model, inputs.to(options.device), targets.to(options.device))
        if not math.isfinite(loss.item()):  # the files on disk are from before
            raise Diverged(f"the loss is {loss.item()} at iteration {iteration}: try a lower learning rate (--lr)")
        loss.backward()  # type: ignore[no-untyped-call]
        self._state.optimizer.step(rate)
        return loss.item()

    @torch.inference_mode()
    def _evaluate(self) -> float:
        self.model.eval()
        return _loss(self.model, *self._validation).item()

    def _save(self, writer: CheckpointWriter, path: Path) -> None:
        state = self._state
        self._best_saved |= path == self.options.best
        header = CheckpointHeader(
            magic="RGPT0003",
            vocab_size=self.model.config.vocab_size,
            iteration=state.next_iteration - 1,
            step=state.steps,
            best_loss=state.plateau.best,
        )
        first, second = state.optimizer.moments
        checkpoint = Checkpoint(
            header=header,
            config=self.model.config,
            weights=_array(self.model.flat),
            moments=(_array(first), _array(second)),
        )
        best = None if math.isinf(state.plateau.best) else state.plateau.best
        sidecar = Sidecar(
            config=self.model.config,
            tokenizer=state.tokenizer,
            name=self._name,
            iteration=header.iteration,
            losses={"train": state.train_loss, "val": state.val_loss, "best_val": best},
            training={
                "seed": self.options.seed,
                "batch_size": self.options.batch_size,
                "iterations": self.options.iterations,
                "precision": self.options.precision,
                "tokens": self._corpus.identity,
                "plateau_waited": state.plateau.waited,
                "plateau_cuts": state.plateau.cuts,
            },
        )
        writer.submit(path, checkpoint, sidecar)


def _optimizer(model: GPT) -> FlatAdamW:
    gradient = torch.zeros_like(model.flat)
    gradient_views(model, gradient)
    return FlatAdamW(model.flat, gradient)


def _loss(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy, in nats a token, of windows (B, T)."""
    return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def _tensor(values: Array, device: str) -> Tensor:
    return torch.from_numpy(values).to(device)


def _array(tensor: Tensor) -> Array:
    """A copy on the CPU."""
    return tensor.detach().to("cpu", copy=True).numpy()


def _metrics_line(step: Step) -> str:
    values: dict[str, float] = {"iter": step.iteration, "loss": round(step.loss, 6)}
    if step.val_loss is not None:
        values["val_loss"] = round(step.val_loss, 6)
    values |= {"lr": step.rate, "ms_per_iter": round(step.ms, 3)}
    return json.dumps(values) + "\n"


def keep_memory() -> None:
    """Keep what is freed, for the next step to use: the kernel's pages are slow to come by. On glibc, else nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(option, value)


def fastest_precision(device: str) -> str:
    """The precision that is faster here and follows the loss of float32: bf16 where the processor multiplies it."""
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # Says nothing in older releases of torch, which then train in float32.
    there = torch.cpu.get_capabilities() if device == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if there.get("avx512_bf16") or there.get("amx_bf16") else "float32"
