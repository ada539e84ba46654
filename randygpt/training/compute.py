"""Training steps and evaluations on a run's device. No disk I/O apart from the text's token cache.

Losses are returned as tensors on the device: the caller decides when to wait for them.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from randygpt.model.gpt import GPT
from randygpt.model.tokenizer import byte_lengths
from randygpt.training.data import Corpus
from randygpt.training.distributed import World
from randygpt.training.options import TrainOptions
from randygpt.training.run_state import RunState

EVAL_SEQUENCES = 50
_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


class Compute:
    """Forward and backward passes of a run, on this process's shard of each batch."""

    def __init__(self, options: TrainOptions, corpus: Corpus, state: RunState, world: World) -> None:
        self._options = options
        self._corpus = corpus
        self._model, self._optimizer = state.model, state.optimizer
        self._world = world
        self._model.set_training_dtype(_DTYPES[options.precision])
        fixed = corpus.validation(EVAL_SEQUENCES)  # (N, T) each
        mine = world.shard(EVAL_SEQUENCES)
        self._validation = [part[mine.start : mine.stop].to(options.device) for part in fixed]
        evaluated_bytes = byte_lengths(state.tokenizer)[fixed[1].numpy()].sum()
        self.bytes_per_token = max(1, int(evaluated_bytes)) / fixed[1].numel()  # of the validation sequences

    def train_step(self, iteration: int, lr: float) -> Tensor:
        """Take one optimizer step; return the mean loss of the whole batch, (), in nats per token."""
        options = self._options
        self._model.train()
        total = torch.zeros((), device=options.device)
        for part in self._micro_batches():
            inputs, targets = self._corpus.batch(
                seed=options.seed,
                iteration=iteration,
                batch_size=options.batch_size,
                part=slice(part.start, part.stop),
                device=options.device,
            )
            self._model.dropout.begin(seed=options.seed, iteration=iteration, sequences=part, device=options.device)
            loss = _loss(self._model, inputs, targets) * (len(part) / options.batch_size)
            loss.backward()
            total += loss.detach()
        self._world.all_reduce(total)
        self._world.all_reduce(self._optimizer.gradient)
        self._optimizer.step(lr)
        return total

    @torch.inference_mode()
    def evaluate(self) -> Tensor:
        """Return the mean validation loss, (), in nats per token."""
        self._model.eval()
        inputs, targets = self._validation
        total = torch.zeros((), device=self._options.device)
        if len(inputs):
            total += _loss(self._model, inputs, targets) * (len(inputs) / EVAL_SEQUENCES)
        self._world.all_reduce(total)
        return total

    def _micro_batches(self) -> Iterator[range]:
        """Yield the indices of this process's shard of the batch, cut into `accumulate` micro-batches."""
        mine, count = self._world.shard(self._options.batch_size), self._options.accumulate
        for index in range(count):
            part = mine[len(mine) * index // count : len(mine) * (index + 1) // count]
            if part:
                yield part


def _loss(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy, in nats per token, of inputs (B, T) against targets (B, T)."""
    return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())  # (B * T, V), (B * T,)
