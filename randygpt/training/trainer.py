"""Training loop: reads a text and a checkpoint, writes checkpoints, sidecars and metrics. Disk I/O.

`PREFIX.bin` is the latest state, `PREFIX_best.bin` the one with the lowest validation loss, each with a sidecar;
`PREFIX.metrics.jsonl` has one line per iteration. Rank 0 writes checkpoints on a background thread.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch

from randygpt.checkpoint.header import MAX_COUNT
from randygpt.checkpoint.origin import Origin
from randygpt.checkpoint.rgpt import read_checkpoint
from randygpt.checkpoint.sidecar import CheckpointInfo
from randygpt.errors import CallerError, InvalidCheckpoint
from randygpt.model.config import ModelConfig
from randygpt.model.gpt import GPT
from randygpt.model.tokenizer import CharTokenizer, Tokenizer
from randygpt.training.checkpointing import CheckpointWriter, Metrics, Step
from randygpt.training.compute import Compute
from randygpt.training.data import Corpus, check_vocabulary
from randygpt.training.distributed import World
from randygpt.training.iterations import Iterations
from randygpt.training.options import TrainOptions
from randygpt.training.recipe import RECIPES
from randygpt.training.run_state import RunState
from randygpt.training.text import Text

SAVE_EVERY_S = 60.0  # interval for the latest state; the best is saved when it is found


class Trainer:
    """Training run: create it with `start` or `resume`, then call `run`."""

    def __init__(
        self,
        options: TrainOptions,
        corpus: Corpus,
        state: RunState,
        *,
        name: str,
        world: World,
        base: Origin | None = None,
    ) -> None:
        self.options = options
        self.model = state.model
        self._corpus = corpus
        self._state = state
        self._name = name
        self._base = base
        self._world = world
        self._compute = Compute(options, corpus, state, world)
        self._iterations = Iterations(options, state, self._compute)
        self.same_run = False  # resumed from the files that it will overwrite
        self.saved_best: tuple[int | None, float] | None = None  # iteration (None: unknown), loss of the best on disk
        self._evaluated = False  # in this run

    @classmethod
    def start(
        cls,
        options: TrainOptions,
        text: Text | str,
        config: Callable[[int], ModelConfig],
        *,
        tokenizer: Tokenizer | None = None,
        name: str = "",
        world: World = World(),  # noqa: B008 (frozen)
        warn: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Start training a new model.

        Args:
            options: The options of the run.
            text: The training text.
            config: Returns the model's shape for a vocabulary size.
            tokenizer: None for a character tokenizer of the text.
            name: Name to publish the model under.
            world: The processes of the run.
            warn: Receives messages for the user.

        Raises:
            CallerError: The vocabulary lacks too many of the text's characters.
            InvalidModelFile: The text is too short or not UTF-8, or the shape is impossible.
            OSError: The text cannot be read.
        """
        if tokenizer:
            check_vocabulary(text, tokenizer, drop_unknown=options.drop_unknown, warn=warn)
        tokenizer = tokenizer or CharTokenizer.from_text(text)
        shape = config(tokenizer.vocab_size)
        model = GPT.initialize(shape, seed=options.seed, dropout=options.dropout)
        RECIPES[options.recipe].prepare(model)
        state = RunState.start(options, shape, model.flat, tokenizer)
        return cls(options, Corpus(text, tokenizer, shape.block_size, warn=warn), state, name=name, world=world)

    @classmethod
    def resume(
        cls,
        options: TrainOptions,
        text: Text | str,
        found: CheckpointInfo,
        *,
        fine_tune: bool = False,
        base: Origin | None = None,
        name: str = "",
        world: World = World(),  # noqa: B008 (frozen)
        warn: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Continue from a checkpoint.

        The sidecar restores the plateau rule's counters, so that the run ends as an uninterrupted one would. Without a
        sidecar the counters start at zero; without a vocabulary the tokens are the text's characters.

        Args:
            options: The options of the run.
            text: The training text.
            found: The checkpoint.
            fine_tune: Keep only the weights and the vocabulary, and start a new run.
            base: The release that the checkpoint is; by default the base that its sidecar names.
            name: Name to publish the model under, if the sidecar has none.
            world: The processes of the run.
            warn: Receives messages for the user.

        Raises:
            InvalidModelFile: The checkpoint or the text is wrong.
            CallerError: The vocabulary lacks too many of the text's characters, or it is missing and does not follow
                from the text.
            OSError: A file cannot be read.
        """
        path = found.path
        if found.tokenizer:
            check_vocabulary(text, found.tokenizer, drop_unknown=options.drop_unknown, warn=warn)
        tokenizer = found.tokenizer or CharTokenizer.from_text(text)
        if tokenizer.vocab_size != found.header.vocab_size:
            needed, size = tokenizer.vocab_size, found.header.vocab_size
            raise CallerError(f"{path} has no vocabulary, and the text needs {needed} entries, not {size}")
        loaded = read_checkpoint(path, found.config)
        state = RunState.start(options, found.config, torch.from_numpy(loaded.weights), tokenizer)
        corpus = Corpus(text, tokenizer, found.config.block_size, warn=warn)
        if found.sidecar and not fine_tune:
            name = found.sidecar.name
        base = base or (found.sidecar.base if found.sidecar else None)
        trainer = cls(options, corpus, state, name=name, world=world, base=base)
        if not fine_tune:
            if loaded.header.step + options.iterations - loaded.header.iteration > MAX_COUNT:
                raise InvalidCheckpoint(f"{path}: {loaded.header.step} steps leave no room below {MAX_COUNT}")
            state.restore(loaded, found.sidecar)
            if found.sidecar and found.sidecar.training.get("tokens", corpus.identity) != corpus.identity:
                warn(f"{path} was trained on another text")
            trainer.same_run = path.resolve() in {options.latest.resolve(), options.best.resolve()}
            if trainer.same_run and options.best.is_file() and math.isfinite(state.plateau.best):
                trainer.saved_best = state.best_iteration, state.plateau.best
        return trainer

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model."""
        return self._state.tokenizer

    @property
    def text_sizes(self) -> tuple[int, int]:
        """Number of tokens for training and for validation."""
        return self._corpus.sizes

    @property
    def next_iteration(self) -> int:
        """Index of the next iteration."""
        return self._state.next_iteration

    @property
    def best_iteration(self) -> int | None:
        """Index of the iteration with the lowest validation loss, None if that is not known."""
        return self._state.best_iteration

    @property
    def best_loss(self) -> float:
        """Lowest validation loss so far, infinite before the first."""
        return self._state.plateau.best

    def bits_per_byte(self, loss: float) -> float:
        """Return a loss in bits per UTF-8 byte of the validation text, which is comparable between tokenizers."""
        return self._iterations.bits_per_byte(loss)

    def run(self, on_step: Callable[[Step], None], should_stop: Callable[[], bool]) -> bool:
        """Train until the target iteration or the end of the plateau rule.

        The newest checkpoint, and after an evaluation the best one, are on disk when this returns. A run that has
        reached its target writes nothing.

        Args:
            on_step: Called with each iteration; on an accelerator, with several at a time.
            should_stop: Polled after each iteration; True saves and ends the run.

        Returns:
            False if `should_stop` ended the run.

        Raises:
            Diverged: A loss is not finite; the checkpoints on disk are from before.
            OSError: A file cannot be written.
        """
        options, state = self.options, self._state
        if state.next_iteration >= options.iterations:
            return True
        saved_at = time.monotonic()
        metrics_path = options.metrics if self._world.rank == 0 else None
        first_iteration = state.next_iteration if self.same_run else 0
        interrupted = False
        with CheckpointWriter() as writer, Metrics(metrics_path, first_iteration) as metrics:
            while state.next_iteration < options.iterations and not interrupted:
                self._iterations.advance()
                is_read_due = self._iterations.is_read_due
                is_save_due = time.monotonic() - saved_at > SAVE_EVERY_S
                if (is_read_due or is_save_due) and self._report(writer, metrics, on_step):
                    break
                if is_save_due:
                    metrics.flush()
                    self._save(writer, options.latest)
                    saved_at = time.monotonic()
                if is_read_due or self._world.size == 1:  # the processes of a run ask each other at the same iterations
                    interrupted = self._world.any(should_stop())
            self._report(writer, metrics, on_step)
            self._save(writer, options.latest)
            if self._evaluated and not self.saved_best:  # resumed elsewhere, and nothing was better since
                self._save(writer, options.best)
        return not interrupted

    def _report(self, writer: CheckpointWriter, metrics: Metrics, on_step: Callable[[Step], None]) -> bool:
        """Report the iterations since the last report, and save the best; return whether the plateau rule ended."""
        reading = self._iterations.read()
        for step in reading.steps:
            metrics.add(step)
            on_step(step)
        if reading.is_best:
            self._save(writer, self.options.best)
        if any(step.val_loss is not None for step in reading.steps):
            self._evaluated = True
            metrics.flush()
        return reading.exhausted

    def _save(self, writer: CheckpointWriter, path: Path) -> None:
        state = self._state
        if path == self.options.best and state.val_loss is not None:
            self.saved_best = state.next_iteration - 1, state.val_loss
        if self._world.rank:
            return
        run = self.options.to_json() | {
            "tokens": self._corpus.identity,
            "bytes_per_token": self._compute.bytes_per_token,
        }
        writer.submit(path, state.checkpoint(), state.sidecar(name=self._name, base=self._base, run=run))
