"""Continuous batching of one worker's sequences of one model: slots, chunked prefill, decode steps. No I/O.

Sequences join and leave between steps. Those in the first slots are prefilled and get one token per step. The others
are prefilled in chunks, so that a long prompt does not stall the decoding of the rest. Keys take turns at the prefill,
and the sequences of one key are prefilled in order of arrival.
"""

import itertools
from collections import abc

import numpy as np

from randygpt.model.decoder import PREFILL_CHUNK, Array, Decoder, KVCache
from randygpt.model.sampling import log_softmax, sample_next
from server.sequence import Sequence, Token

Chunks = list[tuple[int, abc.Sequence[int]]]  # slot, ids


class Batch:
    """Sequences in the slots of one KV cache.

    Args:
        decoder: The network.
        cache: Keys and values; its slots limit the number of sequences.
        prefill_tokens: Prompt tokens per step while other sequences decode.
        idle_prefill_tokens: Prompt tokens per step while none do.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: KVCache,
        *,
        prefill_tokens: int = PREFILL_CHUNK,
        idle_prefill_tokens: int = 4 * PREFILL_CHUNK,
    ) -> None:
        self._decoder, self._cache = decoder, cache
        self._prefill_tokens, self._idle_prefill_tokens = prefill_tokens, idle_prefill_tokens
        self._slots: list[Sequence] = []
        self._decoding = 0  # number of prefilled sequences; they have the first slots
        self._prefilled: dict[int | None, int] = {}  # tokens by key, of keys with sequences in prefill
        self._order = itertools.count()

    @property
    def sequences(self) -> abc.Sequence[Sequence]:
        """The sequences, by slot."""
        return self._slots

    def add(self, sequence: Sequence) -> None:
        """Put a sequence in the next slot, with the KV entries that migrated with it."""
        slot = len(self._slots)
        sequence.prefill_order = next(self._order)
        if sequence.migrated_kv:
            self._cache.put(slot, *sequence.migrated_kv)
            sequence.migrated_kv = None
        else:
            self._cache.lengths[slot] = 0
        self._slots.append(sequence)

    def detach(self, slot: int | None = None) -> Sequence:
        """Remove a sequence (default: the last), to be added to a batch with its KV entries.

        Raises:
            MemoryError: The KV entries could not be copied; the sequence stays.
        """
        slot = len(self._slots) - 1 if slot is None else slot
        sequence = self._slots[slot]
        sequence.migrated_kv = self._cache.get(slot)
        self._remove(slot)
        return sequence

    def step(self, *, threads: int = 1) -> list[Sequence]:
        """Run one step.

        Decode one token per prefilled sequence, prefill others within the token budget; return those that got a token.

        Args:
            threads: Threads to decode with.
        """
        for slot in reversed(range(len(self._slots))):
            if self._slots[slot].cancelled:
                self._remove(slot)
        chunks = self._next_chunks()
        sampled = self._sample(*self._compute(chunks, threads))
        for slot, ids in chunks:
            sequence = self._slots[slot]
            sequence.uncomputed_ids = sequence.uncomputed_ids[len(ids) :]
        ended = sorted(slot for slot, _ in chunks if not self._slots[slot].uncomputed_ids)
        for slot, token in sampled:
            self._slots[slot].append_token(token)
        for slot in ended:
            self._swap(slot, self._decoding)
            self._decoding += 1
        advanced = self._slots[: self._decoding]
        for slot in reversed(range(self._decoding)):
            sequence = self._slots[slot]
            if sequence.finish:
                self._remove(slot)
            elif sequence.new_ids is sequence.context:
                self._restart(slot)
        return advanced

    def _next_chunks(self) -> Chunks:
        """Return the chunks to prefill, of the key with fewest prefilled tokens first."""
        chunks: Chunks = []
        budget = self._prefill_tokens if self._decoding else self._idle_prefill_tokens
        waiting = dict(enumerate(self._slots[self._decoding :], start=self._decoding))
        known = [self._prefilled[key] for each in waiting.values() if (key := each.request.key) in self._prefilled]
        start = min(known, default=0)  # of a key that had nothing to prefill until now
        self._prefilled = {each.request.key: self._prefilled.get(each.request.key, start) for each in waiting.values()}
        while waiting and budget:
            slot = min(waiting, key=lambda each: self._turn(waiting[each]))
            sequence = waiting.pop(slot)
            ids = sequence.uncomputed_ids[:budget]
            chunks.append((slot, ids))
            budget -= len(ids)
            self._prefilled[sequence.request.key] += len(ids)
        return chunks

    def _turn(self, sequence: Sequence) -> tuple[int, int]:
        return self._prefilled[sequence.request.key], sequence.prefill_order

    def _compute(self, chunks: Chunks, threads: int) -> tuple[list[int], Array]:
        """Return the slots that get a token, and its logits (n, V): decoding ones, and those whose prefill ends."""
        tokens = [self._slots[slot].uncomputed_ids[0] for slot in range(self._decoding)]
        if not tokens and not chunks:
            return [], np.empty((0, self._decoder.config.vocab_size), np.float32)
        logits = self._decoder.forward(self._cache, tokens, chunks, threads=threads)
        ended = (slot for slot, ids in chunks if len(ids) == len(self._slots[slot].uncomputed_ids))  # all but the last
        slots = [*range(self._decoding), *ended]
        return slots, logits[: len(slots)]

    def _sample(self, slots: abc.Sequence[int], logits: Array) -> list[tuple[int, Token]]:
        """Sample a token for each slot from its logits (n, V)."""
        if not slots:
            return []
        sequences = [self._slots[slot] for slot in slots]
        ids = sample_next(logits, sequences)
        return [
            (slot, Token(token) if (count := each.request.logprobs) is None else token_with_logprobs(token, row, count))
            for slot, token, row, each in zip(slots, ids, logits, sequences, strict=True)
        ]

    def _restart(self, slot: int) -> None:
        """Context shift: queue a sequence for prefill of its shortened context. It keeps a slot throughout."""
        self._move_to_end(slot)
        self._slots[-1].prefill_order = next(self._order)
        self._cache.lengths[len(self._slots) - 1] = 0

    def _remove(self, slot: int) -> None:
        self._move_to_end(slot)
        self._slots.pop()

    def _move_to_end(self, slot: int) -> None:
        """Move a sequence to the last slot, without its KV entries; prefilled ones stay in front."""
        sequence, last = self._slots[slot], len(self._slots) - 1
        if slot < self._decoding:
            self._decoding -= 1
            self._move(self._decoding, slot)
            slot = self._decoding
        self._move(last, slot)
        self._slots[last] = sequence

    def _swap(self, slot: int, other: int) -> None:
        if slot != other:
            entries = self._cache.get(slot)
            self._cache.move(other, slot)
            self._cache.put(other, *entries)
            self._slots[slot], self._slots[other] = self._slots[other], self._slots[slot]

    def _move(self, source: int, target: int) -> None:
        if source != target:
            self._slots[target] = self._slots[source]
            self._cache.move(source, target)


def score_prompt(decoder: Decoder, ids: abc.Sequence[int], count: int) -> list[Token]:
    """Return the tokens of a prompt, each with its log probability after those before it, and `count` likely ones."""
    tokens, following = [Token(id=token, logprob=None) for token in ids[:1]], iter(ids[1:])
    if len(ids) > 1:
        for logits in decoder.iter_logits(ids[:-1], KVCache(decoder.config)):  # (n, V)
            tokens += [token_with_logprobs(next(following), row, count) for row in logits]
    return tokens


def token_with_logprobs(token: int, logits: Array, count: int) -> Token:
    """Return a token with its log probability and the `count` most likely ones, from logits (V,)."""
    values = log_softmax(logits)
    some = 0 < count < len(values)
    top = np.argpartition(values, -count)[-count:] if some else np.arange(len(values) if count else 0)
    top = top[np.lexsort((top, -values[top]))]  # likeliest first; of equal ones the lowest id
    return Token(token, float(values[token]), tuple((int(other), float(values[other])) for other in top))
