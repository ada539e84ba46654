"""The training loop. Reads a corpus and a checkpoint, writes checkpoints, sidecars and metrics.

`PREFIX.bin` is the newest state, `PREFIX_best.bin` the one with the lowest validation loss, each with its JSON beside
it; `PREFIX.metrics.jsonl` has a line an iteration. Files are written off the training thread, by the first process.
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
from randygpt.checkpoint.rgpt import Array, Checkpoint, read_checkpoint
from randygpt.checkpoint.sidecar import CheckpointInfo, Sidecar
from randygpt.errors import CallerError, Diverged, InvalidCheckpoint
from randygpt.model.config import ModelConfig
from randygpt.model.gpt import GPT, gradient_views
from randygpt.model.tokenizer import CharTokenizer, Tokenizer
from randygpt.training.checkpointing import CheckpointWriter, Metrics, Step
from randygpt.training.data import Corpus
from randygpt.training.distributed import World
from randygpt.training.optim import Optimizer, Plateau
from randygpt.training.options import TrainOptions
from randygpt.training.recipe import RECIPES
from randygpt.training.text import Text

EVAL_WINDOWS = 50
SAVE_EVERY_S = 60.0  # the newest state; the best is saved when it is found
_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(slots=True)
class _State:
    """Everything a resume needs, besides the options."""

    model: GPT
    optimizer: Optimizer
    tokenizer: Tokenizer
    plateau: Plateau
    next_iteration: int = 0
    steps: int = 0
    tokens: int = 0  # trained on, over the model's life
    train_loss: float | None = None
    val_loss: float | None = None


class Trainer:
    """One run: made by `start` or `resume`, carried out by `run`."""

    def __init__(self, options: TrainOptions, corpus: Corpus, state: _State, *, name: str, world: World) -> None:
        self.options = options
        self.model = state.model
        self._corpus = corpus
        self._state = state
        self._name = name
        self._world = world
        self._recipe = RECIPES[options.recipe]
        self.same_run = False  # as the one whose files have our names
        self._best_saved = False
        state.model.set_training_dtype(_DTYPES[options.precision])
        mine = world.shard(EVAL_WINDOWS)
        self._validation = [part[mine.start : mine.stop].to(options.device) for part in corpus.validation(EVAL_WINDOWS)]

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
        """A new model; `config` gives its shape for a vocabulary size. Raises InvalidModelFile and OSError.

        Without a tokenizer, the tokens are the characters of the text. `warn` gets remarks for the person.
        """
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
        name: str = "",
        world: World = World(),  # noqa: B008 (frozen)
        warn: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Go on from a checkpoint. Raises InvalidModelFile, CallerError and OSError.

        The JSON beside it gives the plateau's counters, so the run ends as an unbroken one would have. Without one,
        the counters start afresh; without a vocabulary, the tokens are the text's characters.
        To fine-tune is to keep the weights, and begin anew with everything else, the name included.
        """
        path = found.path
        tokenizer = found.tokenizer or CharTokenizer.from_text(text)
        if tokenizer.vocab_size != found.header.vocab_size:
            raise CallerError(f"{path}: no vocabulary beside it, and the text has {tokenizer.vocab_size} characters")
        loaded = read_checkpoint(path, found.config)
        state = _state(options, found.config, torch.from_numpy(loaded.weights), tokenizer)
        corpus = Corpus(text, tokenizer, found.config.block_size, warn=warn)
        if found.sidecar and not fine_tune:
            name = found.sidecar.name
        trainer = cls(options, corpus, state, name=name, world=world)
        if not fine_tune:
            if loaded.header.step + options.iterations - loaded.header.iteration > MAX_COUNT:
                raise InvalidCheckpoint(f"{path}: after {loaded.header.step} steps there is no room for so many more")
            _restore(state, loaded, found.sidecar, options.device)
            if found.sidecar and found.sidecar.training.get("tokens", corpus.identity) != corpus.identity:
                warn(f"the text is not the one {path} was trained on")
            trainer.same_run = path.resolve() in {options.latest.resolve(), options.best.resolve()}
            trainer._best_saved = trainer.same_run and options.best.is_file()
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
        metrics_path = options.metrics if self._world.rank == 0 else None
        kept = state.next_iteration if self.same_run else 0
        with CheckpointWriter() as writer, Metrics(metrics_path, kept) as metrics:
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
            if not self._best_saved:
                self._save(writer, options.best)
        return not interrupted

    def _iterate(self) -> tuple[Step, bool, bool]:
        """One iteration: (what to report, whether it is the best so far, whether the plateau's cuts are used up)."""
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
        if state.next_iteration % self._recipe.eval_every == 0 or state.next_iteration == options.iterations:
            state.val_loss = val_loss = self._evaluate()
            is_best = val_loss < state.plateau.best
            exhausted = state.plateau.update(val_loss)
        ms = (time.perf_counter() - started) * 1e3
        step = Step(iteration=iteration, loss=state.train_loss, val_loss=val_loss, lr=lr, ms=ms, tokens=state.tokens)
        return step, is_best, exhausted

    def _train_step(self, iteration: int, lr: float) -> float:
        """One step on the global batch, of which each process does its share; the loss of all of it."""
        options, optimizer = self.options, self._state.optimizer
        self.model.train()
        total = torch.zeros((), device=options.device)
        for part in self._parts():
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
        if not math.isfinite(total.item()):  # the files on disk are from before
            raise Diverged(f"the loss is {total.item()} at iteration {iteration}: try a lower learning rate (--lr)")
        self._world.all_reduce(optimizer.gradient)
        optimizer.step(lr)
        return total.item()

    def _parts(self) -> Iterator[range]:
        """Our share of the global batch's windows, in as many parts as asked for."""
        mine, count = self._world.shard(self.options.batch_size), self.options.accumulate
        for index in range(count):
            part = mine[len(mine) * index // count : len(mine) * (index + 1) // count]
            if part:
                yield part

    @torch.inference_mode()
    def _evaluate(self) -> float:
        """Mean loss of the validation windows, in nats a token."""
        self.model.eval()
        inputs, targets = self._validation
        total = torch.zeros((), device=self.options.device)
        if len(inputs):
            total += _loss(self.model, inputs, targets) * (len(inputs) / EVAL_WINDOWS)
        self._world.all_reduce(total)
        if not math.isfinite(total.item()):
            raise Diverged(f"the validation loss is {total.item()}: try a lower learning rate (--lr)")
        return total.item()

    def _save(self, writer: CheckpointWriter, path: Path) -> None:
        state = self._state
        self._best_saved |= path == self.options.best
        if self._world.rank:
            return
        header = CheckpointHeader(
            magic="RGPT0003",
            vocab_size=self.model.config.vocab_size,
            iteration=state.next_iteration - 1,
            step=state.steps,
            best_loss=state.plateau.best,
        )
        first, second = state.optimizer.state
        checkpoint = Checkpoint(
            header=header,
            config=self.model.config,
            weights=_array(self.model.flat),
            optimizer_state=(_array(first), _array(second)),
        )
        best = None if math.isinf(state.plateau.best) else state.plateau.best
        sidecar = Sidecar(
            config=self.model.config,
            tokenizer=state.tokenizer,
            name=self._name,
            iteration=header.iteration,
            losses={"train": state.train_loss, "val": state.val_loss, "best_val": best},
            training={
                "recipe": self.options.recipe,
                "seed": self.options.seed,
                "batch_size": self.options.batch_size,
                "iterations": self.options.iterations,
                "precision": self.options.precision,
                "tokens": self._corpus.identity,
                "tokens_seen": state.tokens,
                "plateau_waited": state.plateau.waited,
                "plateau_cuts": state.plateau.cuts,
            },
        )
        writer.submit(path, checkpoint, sidecar)


def _state(options: TrainOptions, config: ModelConfig, weights: Tensor, tokenizer: Tokenizer) -> _State:
    """A model at its beginning, on its device."""
    flat = weights.to(options.device)
    model = GPT(config, flat, dropout=options.dropout)
    gradient = torch.zeros_like(flat)
    gradient_views(model, gradient)
    return _State(model, RECIPES[options.recipe].optimizer(config, flat, gradient), tokenizer, Plateau())


def _restore(state: _State, loaded: Checkpoint, sidecar: Sidecar | None, device: str) -> None:
    """Take over what a checkpoint and the JSON beside it say of the run that wrote them."""
    header = loaded.header
    state.plateau.best, state.next_iteration = header.best_loss, header.iteration + 1
    if loaded.optimizer_state:
        state.steps = header.step
        first, second = (torch.from_numpy(moment).to(device) for moment in loaded.optimizer_state)
        state.optimizer.restore(state.steps, (first, second))
    if sidecar and sidecar.iteration == header.iteration:
        state.train_loss, state.val_loss = sidecar.losses.get("train"), sidecar.losses.get("val")
        state.tokens = sidecar.training_value("tokens_seen", 0)
        state.plateau.waited = sidecar.training_value("plateau_waited", 0)
        state.plateau.cuts = sidecar.training_value("plateau_cuts", 0)


def _loss(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy, in nats a token, of windows (B, T)."""
    return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def _array(tensor: Tensor) -> Array:
    """A copy on the CPU."""
    return tensor.detach().to("cpu", copy=True).numpy()
