"""Texts of one model, written side by side: who is in which slot, and what a step does. No I/O.

Texts join and leave between steps. Those in the first slots have seen all of their prompt and get one token a step;
the rest get their prompt in chunks, first come first served, so that a long one makes nobody wait long.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from randygpt.model.decoder import PREFILL_CHUNK, Array, Decoder, KVCache
from randygpt.model.sampling import Continuation, log_softmax, sample_batch

Chunks = list[tuple[int, Sequence[int]]]  # slot, ids
_UNDISTURBED = 4 * PREFILL_CHUNK  # tokens of prompts in one pass while there is nobody whom a longer one makes wait


class Token(NamedTuple):
    """A token of a text, and where they were asked for: its log probability, and the likeliest tokens with theirs."""

    id: int
    logprob: float = 0.0
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True, eq=False, kw_only=True)
class Writing:
    """A text on its way through a batch."""

    text: Continuation
    logprobs: int | None = None  # how many of the likeliest tokens to tell beside the one that was drawn
    gone: bool = False  # nobody waits for it any more
    drawn: list[Token] = field(default_factory=list)  # and not yet taken away
    unseen: Sequence[int] = ()  # ids that the cache has yet to see
    seen: tuple[Array, Array] | None = None  # keys and values of the others, on the way from one batch to another

    def take(self, token: Token) -> None:
        """Go on with a token."""
        if self.text.append(token.id):
            self.drawn.append(token)
        self.unseen = self.text.new_ids


W = TypeVar("W", bound=Writing)


class Batch(Generic[W]):
    """The texts that one thread writes with one model, at most as many as its cache has slots."""

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self._decoder, self._cache = decoder, cache
        self._slots: list[W] = []
        self._ready = 0  # slots whose prompt was seen; they come first

    @property
    def writings(self) -> Sequence[W]:
        """Who is in it."""
        return self._slots

    @property
    def has_room(self) -> bool:
        """Whether another text may join."""
        return len(self._slots) < len(self._cache.lengths)

    def join(self, writing: W) -> None:
        """Take a text in, behind the others."""
        slot = len(self._slots)
        if writing.seen:
            self._cache.put(slot, *writing.seen)
            writing.seen = None
        else:
            self._cache.lengths[slot] = 0
            writing.unseen = writing.text.new_ids
        self._slots.append(writing)

    def release(self) -> W:
        """Let the last text go, with what was seen of it, to another batch; without the memory, MemoryError."""
        slot = len(self._slots) - 1
        self._slots[slot].seen = self._cache.get(slot)
        self._ready = min(self._ready, slot)
        return self._slots.pop()

    def step(self) -> list[W]:
        """Go on with every text; those that got a token or ended."""
        for slot in reversed(range(len(self._slots))):
            if self._slots[slot].gone:
                self._leave(slot)
        chunks = self._next_chunks()
        drawn = self._draw(*self._compute(chunks))
        for slot, ids in chunks:
            writing = self._slots[slot]
            writing.unseen = writing.unseen[len(ids) :]
            self._ready += not writing.unseen
        for slot, token in drawn:
            self._slots[slot].take(token)
        news = self._slots[: self._ready]
        for slot in reversed(range(self._ready)):
            text = self._slots[slot].text
            if text.finish:
                self._leave(slot)
            elif text.new_ids is text.context:
                self.join(self._leave(slot))
        return news

    def _next_chunks(self) -> Chunks:
        chunks: Chunks = []
        room = PREFILL_CHUNK if self._ready else _UNDISTURBED
        for slot in range(self._ready, len(self._slots)):
            ids = self._slots[slot].unseen[:room]
            if not ids:
                break
            chunks.append((slot, ids))
            room -= len(ids)
        return chunks

    def _compute(self, chunks: Chunks) -> tuple[list[int], Array]:
        """(slots that get a token, logits (n, V) for it): those that are ready, and chunks that end a prompt."""
        tokens = [self._slots[slot].unseen[0] for slot in range(self._ready)]
        if not tokens and not chunks:
            return [], np.empty((0, self._decoder.config.vocab_size), np.float32)
        logits = self._decoder.forward(self._cache, tokens, chunks)
        ended = (slot for slot, ids in chunks if len(ids) == len(self._slots[slot].unseen))  # but for the last, all
        slots = [*range(self._ready), *ended]
        return slots, logits[: len(slots)]

    def _draw(self, slots: Sequence[int], logits: Array) -> list[tuple[int, Token]]:
        """Tokens by slot, from their logits (n, V)."""
        if not slots:
            return []
        writings = [self._slots[slot] for slot in slots]
        texts = [writing.text for writing in writings]
        ids = sample_batch(logits, [text.sampling for text in texts], [text.uniform() for text in texts])
        return [
            (slot, Token(token) if writing.logprobs is None else _told(token, row, writing.logprobs))
            for slot, token, row, writing in zip(slots, ids, logits, writings, strict=True)
        ]

    def _leave(self, slot: int) -> W:
        """Empty a slot, and close the gap it leaves in its row."""
        writing = self._slots[slot]
        if slot < self._ready:
            self._ready -= 1
            self._move(self._ready, slot)
            slot = self._ready
        self._move(len(self._slots) - 1, slot)
        self._slots.pop()
        return writing

    def _move(self, source: int, target: int) -> None:
        if source != target:
            self._slots[target] = self._slots[source]
            self._cache.move(source, target)


def _told(token: int, logits: Array, count: int) -> Token:
    values = log_softmax(logits)
    likeliest = np.argsort(-values, kind="stable")[:count] if count else ()
    return Token(token, float(values[token]), tuple((int(other), float(values[other])) for other in likeliest))
