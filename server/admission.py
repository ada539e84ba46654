"""Admission of requests: limits on open sequences and tokens, in total and per API key. No I/O."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import Busy, KeyLimitReached
from server.limits import Limits


class Admission:
    """Counts the sequences of open requests, and the tokens that they may still need.

    A key that has less than an equal share of all sequences is admitted even when the others have taken them all, so
    that full queues of some keys never shut out another.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._sequences: Counter[int | None] = Counter()
        self._tokens: Counter[int | None] = Counter()

    @contextmanager
    def admit(self, key: int | None, *, sequences: int, tokens: int) -> Iterator[None]:
        """Count a request while it is open.

        Args:
            key: Index of its API key; None without keys, which has no limit of its own.
            sequences: Number of its sequences.
            tokens: Most tokens that it can need: prompts, and `max_tokens` of each sequence.

        Raises:
            KeyLimitReached: The key has too many sequences or tokens open.
            Busy: All keys together have too many, and this one has its share.
        """
        self._check(key, sequences, tokens)
        self._sequences[key] += sequences
        self._tokens[key] += tokens
        try:
            yield
        finally:
            self._sequences[key] -= sequences
            self._tokens[key] -= tokens

    def _check(self, key: int | None, sequences: int, tokens: int) -> None:
        limits, open_sequences, open_tokens = self._limits, self._sequences[key], self._tokens[key]
        if key is not None and open_sequences + sequences > limits.max_per_key:
            raise KeyLimitReached(
                f"{open_sequences} of at most {limits.max_per_key} sequences of this key are running or waiting, and "
                f"this request has {sequences}; retry later"
            )
        if key is not None and open_tokens + tokens > limits.max_tokens_per_key:
            raise KeyLimitReached(
                f"{open_tokens} of at most {limits.max_tokens_per_key} tokens of this key are under way, and this "
                f"request may need {tokens}; retry later"
            )
        total, keys = self._sequences.total(), {key, *(+self._sequences)}
        if total + sequences > limits.max_sequences and open_sequences + sequences > limits.max_sequences // len(keys):
            raise Busy(f"{total} of at most {limits.max_sequences} sequences are running or waiting; retry later")
