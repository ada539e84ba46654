"""Engine requests and sequences, and delivery of their outputs to the event loop. No network or disk I/O.

A `Sequence` belongs to the decode worker that runs it, a `Request` to the event loop. The outputs of a decode step pass
from one to the other in `deliver`, which runs on the event loop.
"""

import asyncio
import time
from collections import abc
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

from randygpt.model.sampling import Continuation, Finish, Sampling
from server.models import LoadedModel

if TYPE_CHECKING:
    from randygpt.model.decoder import Array

Prompt: TypeAlias = tuple[abc.Sequence[int], Sampling]


class Token(NamedTuple):
    """A token; with `logprobs`, its log probability and the most likely tokens with theirs.

    The first token of a text has no log probability: nothing precedes it.
    """

    id: int
    logprob: float | None = 0.0
    top_logprobs: tuple[tuple[int, float], ...] = ()


class SequenceOutput(NamedTuple):
    """New tokens of a sequence, and with the last of them why it ended."""

    sequence_index: int  # in its request
    tokens: list[Token]
    finish: Finish | None


class Sequence(Continuation):
    """One sequence of a request. Only its decode worker changes it, except for `cancelled`.

    Attributes:
        cancelled: The request wants no more tokens of it.
        started: It has a first token.
        pending_tokens: Generated and not yet delivered.
        uncomputed_ids: Ids whose keys and values are not in the KV cache yet.
        migrated_kv: Saved KV entries, while the sequence has no slot or moves to another worker.
        prefill_order: Its place in its key's queue for prefill.
    """

    def __init__(self, request: "Request", index: int, prompt: abc.Sequence[int], sampling: Sampling) -> None:
        model = request.model.language_model
        super().__init__(prompt, sampling, model.config.block_size, model.tokenizer.end_ids)
        self.request = request
        self.index = index
        self.cancelled = False
        self.started = False
        self.pending_tokens: list[Token] = []
        self.uncomputed_ids: abc.Sequence[int] = self.new_ids
        self.migrated_kv: tuple[Array, Array] | None = None
        self.prefill_order = 0

    def append_token(self, token: Token) -> None:
        """Append a sampled token."""
        if self.append(token.id):
            self.pending_tokens.append(token)
        self.uncomputed_ids = self.new_ids


class Request:
    """The sequences of one HTTP request. Enter it, or `close` it: that cancels those that still run.

    Args:
        model: The model that generates, until the end of the request.
        prompts: Token ids and sampling parameters of each sequence.
        key: Index of its API key; None without keys.
        logprobs: Number of most likely tokens to report with each token; None reports no log probabilities.
        stream: Deliver tokens as they are generated, not all at the end of the sequence.
        on_close: Called once, on exit.
    """

    def __init__(
        self,
        model: LoadedModel,
        prompts: Iterable[Prompt],
        *,
        key: int | None = None,
        logprobs: int | None = None,
        stream: bool = True,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.key = key
        self.logprobs = logprobs
        self.stream = stream
        self.arrived_at = time.perf_counter()
        self.sequences = [Sequence(self, index, *prompt) for index, prompt in enumerate(prompts)]
        self.inbox: list[Delivery] = []  # put there by `deliver`, and not yet read
        self.received = asyncio.Event()
        self._unfinished = {*range(len(self.sequences))}
        self._on_close = on_close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel all sequences, and count the request as ended. Call once."""
        for sequence in self.sequences:
            sequence.cancelled = True
        self.sequences.clear()  # no reference cycles, so that a replaced model is freed at once
        self.inbox.clear()
        self._on_close()

    @property
    def finished(self) -> bool:
        """True when no more output will come."""
        return not self._unfinished

    def cancel(self, index: int) -> None:
        """Stop generating one sequence, and drop what it generates meanwhile."""
        self.sequences[index].cancelled = True
        self._unfinished.discard(index)

    async def next_outputs(self) -> list[SequenceOutput]:
        """Wait for output and return all that was received, by index.

        Raises:
            Busy: The server is shutting down.
            Exception: Whatever the decode step raised.
        """
        await self.received.wait()
        self.received.clear()
        deliveries, self.inbox = self.inbox, []
        outputs: dict[int, SequenceOutput] = {}
        for sequence, tokens, finish, failure in deliveries:
            index = sequence.index
            if index not in self._unfinished:
                continue
            if failure:
                raise failure
            if finish:
                self._unfinished.discard(index)
            if earlier := outputs.get(index):
                earlier.tokens.extend(tokens)
                tokens = earlier.tokens  # noqa: PLW2901 (joined)
            outputs[index] = SequenceOutput(index, tokens, finish)
        return [outputs[index] for index in sorted(outputs)]


Delivery: TypeAlias = tuple[Sequence, list[Token], Finish | None, Exception | None]  # new tokens, end, error of a step


def failures(sequences: Iterable[Sequence], error: Exception) -> list[Delivery]:
    """Return the deliveries with which sequences fail."""
    return [(sequence, [], None, error) for sequence in sequences]


def deliver(deliveries: Iterable[Delivery]) -> None:
    """Hand the outputs of a decode step to their requests. Call on the event loop."""
    for delivery in deliveries:
        sequence = delivery[0]
        if not sequence.cancelled:
            sequence.request.inbox.append(delivery)
            sequence.request.received.set()
