"""Decoding: one sequence, a key-value cache, one token a step. No I/O.

Past block_size the window keeps its last half and is prefilled once, so a token costs one step on average (learned
positions allow no cheaper exact rule).
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from randygpt.decoder import Array, Decoder, KVCache
from randygpt.errors import CallerError
from randygpt.tokenizer import BOS_ID, EOS_ID

_NUCLEUS = 256  # entries looked at before a whole vocabulary is sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn; a value out of range raises CallerError."""

    max_tokens: int = 256
    temperature: float = 0.7  # 0: always the likeliest
    top_p: float = 1.0  # draw from the likeliest tokens that together have this probability
    top_k: int = 0  # draw from this many likeliest; 0: all
    seed: int | None = None  # None: another text each time

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise CallerError(f"max_tokens is at least 1, not {self.max_tokens}")
        if not 0 <= self.temperature <= 100:  # noqa: PLR2004 (NaN fails too)
            raise CallerError(f"temperature is from 0 to 100, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise CallerError(f"top_p is over 0 and at most 1, not {self.top_p}")
        if self.top_k < 0:
            raise CallerError(f"top_k is not negative, as {self.top_k} is")


def generate(decoder: Decoder, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """Token ids after a prompt, as they are drawn, until `max_tokens` or the end token.

    An empty prompt starts from the begin token. The same seed gives the same ids.
    """
    uniform = random.Random(sampling.seed)  # noqa: S311 (not a secret)
    block = decoder.config.block_size
    window = list(prompt)[-block:] or [BOS_ID]
    cache = KVCache(decoder.config)
    fresh = window  # ids the cache has not seen
    for _ in range(sampling.max_tokens):
        token = draw(decoder.next_logits(fresh, cache), sampling, uniform.random())
        if token == EOS_ID:
            return
        yield token
        window.append(token)
        fresh = [token]
        if len(window) > block:
            window = window[-max(1, block // 2) :]
            cache.length, fresh = 0, window


def until_stop(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The text of some pieces, up to where one of `stops` begins; what may be the beginning of one is held back.

    Raises CallerError for an empty stop.
    """
    if not all(stops):
        raise CallerError("a text to stop at is not empty")
    held = ""
    for piece in pieces:
        held += piece
        ends = [held.find(stop) for stop in stops if stop in held]
        if ends:
            yield held[: min(ends)]
            return
        begun = (size for stop in stops for size in range(len(stop)) if held.endswith(stop[:size]))
        ready = len(held) - max(begun, default=0)
        yield held[:ready]
        held = held[ready:]
    yield held


def draw(logits: Array, sampling: Sampling, uniform: float) -> int:
    """A token id from logits (V,); `uniform` in [0, 1) decides, so equal arguments give an equal token."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    exact = logits.astype(np.float64)  # a rounded draw could land beyond the last token that counts
    exact -= exact.max()
    with np.errstate(over="ignore"):  # next to no temperature: minus infinity will do
        exact /= sampling.temperature
    probabilities = np.exp(exact)
    probabilities /= probabilities.sum()
    size = min(len(probabilities), sampling.top_k or len(probabilities))
    tokens = _likeliest(logits, min(size, _NUCLEUS) if sampling.top_p < 1 else size)
    if len(tokens) < size and probabilities[tokens].sum() < sampling.top_p:
        tokens = _likeliest(logits, size)
    values = probabilities[tokens]
    edges = values.cumsum()
    count = max(1, int(np.count_nonzero(values[edges - values < sampling.top_p])))
    index = int(np.searchsorted(edges[:count], uniform * edges[count - 1], side="right"))
    return int(tokens[min(index, count - 1)])


def _likeliest(logits: Array, count: int) -> npt.NDArray[np.intp]:
    """The `count` likeliest tokens, likeliest first."""
    if count == len(logits):
        return np.argsort(-logits)
    tokens = np.argpartition(logits, -count)[-count:]
    return tokens[np.argsort(-logits[tokens])]
