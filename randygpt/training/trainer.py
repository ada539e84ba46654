"""Training loop: reads a text and a checkpoint, writes checkpoints, sidecars and metrics. Disk I/O.

`PREFIX.bin` is the latest state, `PREFIX_best.bin` the one with the lowest validation loss, each with a sidecar;
`PREFIX.metrics.jsonl` has one line per iteration. Rank 0 writes checkpoints on a background thread.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from randygpt.checkpoint.header import MAX_COUNT, CheckpointHeader
from randygpt.checkpoint.origin import Origin
from randygpt.checkpoint.rgpt import Array, Checkpoint, read_checkpoint
from randygpt.checkpoint.sidecar import CheckpointInfo, Sidecar
from randygpt.errors import CallerError, Diverged, InvalidCheckpoint
from randygpt.model.config import ModelConfig
from randygpt.model.gpt import GPT, gradient_views
from randygpt.model.tokenizer import CharTokenizer, Tokenizer, byte_lengths
from randygpt.training.checkpointing import CheckpointWriter, Metrics, Step
from randygpt.training.data import Corpus, check_vocabulary
from randygpt.training.distributed import World
from randygpt.training.optim import Optimizer, Plateau
from randygpt.training.options import TrainOptions
from randygpt.training.recipe import RECIPES
from randygpt.training.text import Text

EVAL_SEQUENCES = 50
SAVE_EVERY_S = 60.0  # interval for the latest state; the best is saved when it is found
_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(slots=True)
class _State:
    """Training state: everything that a resume restores, apart from the options."""

    model: GPT
    optimizer: Optimizer
    tokenizer: Tokenizer
    plateau: Plateau
    next_iteration: int = 0
    steps: int = 0
    tokens: int = 0  # trained on, over the model's whole life
    train_loss: float | None = None
    val_loss: float | None = None  # of the last evaluation
    best_iteration: int | None = None  # None: not known


class Trainer:
    """Training run: create it with `start` or `resume`, then call `run`."""

    def __init__(
        self,
        options: TrainOptions,
        corpus: Corpus,
        state: _State,
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
        self._recipe = RECIPES[options.recipe]
        self.same_run = False  # resumed from the files that it will overwrite
        self.saved_best: tuple[int | None, float] | None = None  # iteration (None: unknown), loss of the best on disk
        state.model.set_training_dtype(_DTYPES[options.precision])
        mine = world.shard(EVAL_SEQUENCES)
        fixed = corpus.validation(EVAL_SEQUENCES)  # (N, T) each
        self._validation = [part[mine.start : mine.stop].to(options.device) for part in fixed]
        evaluated_bytes = byte_lengths(state.tokenizer)[fixed[1].numpy()].sum()
        self._bytes_per_token = max(1, int(evaluated_bytes)) / fixed[1].numel()
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
        state = _state(options, shape, model.flat, tokenizer)
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
        state = _state(options, found.config, torch.from_numpy(loaded.weights), tokenizer)
        corpus = Corpus(text, tokenizer, found.config.block_size, warn=warn)
        if found.sidecar and not fine_tune:
            name = found.sidecar.name
        base = base or (found.sidecar.base if found.sidecar else None)
        trainer = cls(options, corpus, state, name=name, world=world, base=base)
        if not fine_tune:
            if loaded.header.step + options.iterations - loaded.header.iteration > MAX_COUNT:
                raise InvalidCheckpoint(f"{path}: {loaded.header.step} steps leave no room below {MAX_COUNT}")
            _restore(state, loaded, found.sidecar, options.device)
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
        return loss / math.log(2) / self._bytes_per_token

    def run(self, on_step: Callable[[Step], None], should_stop: Callable[[], bool]) -> bool:
        """Train until the target iteration or the end of the plateau rule.

        The newest checkpoint, and after an evaluation the best one, are on disk when this returns. A run that has
        reached its target writes nothing.

        Args:
            on_step: Called after each iteration.
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
        with CheckpointWriter() as writer, Metrics(metrics_path, first_iteration) as metrics:
            interrupted = False
            while state.next_iteration < options.iterations and not interrupted:
                step, is_best, exhausted = self._iterate()
                metrics.add(step)
                on_step(step)
                if is_best:
                    self._save(writer, options.best)
                if step.val_loss is not None:
                    metrics.flush()
                if exhausted:
                    break
                if time.monotonic() - saved_at > SAVE_EVERY_S:
                    metrics.flush()
                    self._save(writer, options.latest)
                    saved_at = time.monotonic()
                interrupted = self._world.any(should_stop())
            self._save(writer, options.latest)
            if self._evaluated and not self.saved_best:  # resumed elsewhere, and nothing was better since
                self._save(writer, options.best)
        return not interrupted

    def _iterate(self) -> tuple[Step, bool, bool]:
        """Run one iteration; return its report, whether it is the best so far, and whether the plateau rule ended."""
        options, state = self.options, self._state
        iteration, started = state.next_iteration, time.perf_counter()
        lr = self._recipe.schedule(
            iteration, iterations=options.iterations, max_lr=options.max_lr, min_lr=options.min_lr
        )
        lr *= state.plateau.factor
        state.train_loss = self._train_step(iteration, lr)
        state.next_iteration, state.steps = iteration + 1, state.steps + 1
        state.tokens += options.batch_size * self.model.config.block_size
        val_loss, is_best, exhausted = None, False, False
        interval = self._recipe.eval_interval(options.iterations)
        if state.next_iteration % interval == 0 or state.next_iteration == options.iterations:
            state.val_loss = val_loss = self._evaluate()
            self._evaluated = True
            is_best = val_loss < state.plateau.best
            exhausted = state.plateau.update(val_loss)
        if is_best:
            state.best_iteration = iteration
        step = Step(
            iteration=iteration,
            loss=state.train_loss,
            val_loss=val_loss,
            bits_per_byte=None if val_loss is None else self.bits_per_byte(val_loss),
            lr=lr,
            ms=(time.perf_counter() - started) * 1e3,
            tokens=state.tokens,
            waited=state.plateau.waited,
        )
        return step, is_best, exhausted

    def _train_step(self, iteration: int, lr: float) -> float:
        """Take one optimizer step on this process's shard of the batch; return the loss of the whole batch."""
        options, optimizer = self.options, self._state.optimizer
        self.model.train()
        total = torch.zeros((), device=options.device)
        for part in self._micro_batches():
            inputs, targets = self._corpus.batch(
                seed=options.seed,
                iteration=iteration,
                batch_size=options.batch_size,
                part=slice(part.start, part.stop),
            )
            self.model.dropout.begin(seed=options.seed, iteration=iteration, sequences=part)
            loss = _loss(self.model, inputs.to(options.device), targets.to(options.device))
            loss = loss * (len(part) / options.batch_size)
            loss.backward()
            total += loss.detach()
        self._world.all_reduce(total)
        if not math.isfinite(total.item()):  # before the weights change
            raise Diverged(f"the loss is {total.item()} at iteration {iteration}: lower the learning rate (--lr)")
        self._world.all_reduce(optimizer.gradient)
        optimizer.step(lr)
        return total.item()

    def _micro_batches(self) -> Iterator[range]:
        """Yield the indices of this process's shard of the batch, cut into `accumulate` micro-batches."""
        mine, count = self._world.shard(self.options.batch_size), self.options.accumulate
        for index in range(count):
            part = mine[len(mine) * index // count : len(mine) * (index + 1) // count]
            if part:
                yield part

    @torch.inference_mode()
    def _evaluate(self) -> float:
        """Return the mean validation loss, in nats per token."""
        self.model.eval()
        inputs, targets = self._validation
        total = torch.zeros((), device=self.options.device)
        if len(inputs):
            total += _loss(self.model, inputs, targets) * (len(inputs) / EVAL_SEQUENCES)
        self._world.all_reduce(total)
        if not math.isfinite(total.item()):
            raise Diverged(f"the validation loss is {total.item()}: lower the learning rate (--lr)")
        return total.item()

    def _save(self, writer: CheckpointWriter, path: Path) -> None:
        state = self._state
        if path == self.options.best and state.val_loss is not None:
            self.saved_best = state.next_iteration - 1, state.val_loss
        if self._world.rank:
            return
        header = CheckpointHeader(
            magic="RGPT0003",
            vocab_size=self.model.config.vocab_size,
            iteration=state.next_iteration - 1,
            step=state.steps,
            best_loss=state.plateau.best,
        )
        exp_avg, exp_avg_sq = state.optimizer.state
        checkpoint = Checkpoint(
            header=header,
            config=self.model.config,
            weights=_array(self.model.flat),
            optimizer_state=(_array(exp_avg), _array(exp_avg_sq)),
        )
        best = None if math.isinf(state.plateau.best) else state.plateau.best
        best_iteration = {} if state.best_iteration is None else {"best_iteration": state.best_iteration}
        sidecar = Sidecar(
            config=self.model.config,
            tokenizer=state.tokenizer,
            name=self._name,
            iteration=header.iteration,
            losses={"train": state.train_loss, "val": state.val_loss, "best_val": best},
            training=self.options.to_json()
            | {
                "tokens": self._corpus.identity,
                "tokens_seen": state.tokens,
                "plateau_waited": state.plateau.waited,
                "plateau_cuts": state.plateau.cuts,
                "bytes_per_token": self._bytes_per_token,
            }
            | best_iteration,
            base=self._base,
        )
        writer.submit(path, checkpoint, sidecar)


def _state(options: TrainOptions, config: ModelConfig, weights: Tensor, tokenizer: Tokenizer) -> _State:
    """Return the state of a run that has not started, on its device."""
    flat = weights.to(options.device)
    model = GPT(config, flat, dropout=options.dropout)
    gradient = torch.zeros_like(flat)
    gradient_views(model, gradient)
    return _State(model, RECIPES[options.recipe].optimizer(config, flat, gradient), tokenizer, Plateau())


def _restore(state: _State, loaded: Checkpoint, sidecar: Sidecar | None, device: str) -> None:
    """Restore the state that a checkpoint and its sidecar recorded."""
    header = loaded.header
    state.plateau.best, state.next_iteration = header.best_loss, header.iteration + 1
    if loaded.optimizer_state:
        state.steps = header.step
        exp_avg, exp_avg_sq = (torch.from_numpy(part).to(device) for part in loaded.optimizer_state)
        state.optimizer.restore(state.steps, (exp_avg, exp_avg_sq))
    if sidecar and sidecar.iteration == header.iteration:
        state.train_loss, state.val_loss = sidecar.losses.get("train"), sidecar.losses.get("val")
        state.tokens = sidecar.training_value("tokens_seen", 0)
        state.plateau.waited = sidecar.training_value("plateau_waited", 0)
        state.plateau.cuts = sidecar.training_value("plateau_cuts", 0)
        if "best_iteration" in sidecar.training:
            state.best_iteration = sidecar.training_value("best_iteration", 0)


def _loss(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy, in nats per token, of inputs (B, T) against targets (B, T)."""
    return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())  # (B * T, V), (B * T,)


def _array(tensor: Tensor) -> Array:
    """Return a copy on the CPU."""
    return tensor.detach().to("cpu", copy=True).numpy()
