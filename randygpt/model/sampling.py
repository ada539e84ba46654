"""Autoregressive generation: context management, sampling and stop sequences. No I/O.

When the context exceeds `block_size` it is cut to its last half and prefilled again, so that a token costs one decode
step on average; learned position embeddings allow no cheaper exact rule. The random numbers of a sequence depend only
on its seed and the number of its tokens, never on the batch it is in (decision 0029).

Order of the samplers: repeat penalty, temperature, then min-p, top-k and top-p, which all judge the same probabilities;
a token must pass each of them.
"""

import secrets
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from randygpt.errors import CallerError
from randygpt.model.decoder import Array, Decoder, KVCache
from randygpt.model.tokenizer import BOS_ID, EOS_ID
from relay_client.errors import quote

REPEAT_WINDOW = 64  # tokens of the context, the prompt's included, that the repeat penalty applies to
_MAX_TEMPERATURE = 100
_MAX_PENALTY = 10
_END_IDS = frozenset({EOS_ID})
_UINT64 = (1 << 64) - 1

Doubles = npt.NDArray[np.float64]
Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters; a value out of range raises CallerError."""

    max_tokens: int = 256
    temperature: float = 0.7  # 0: greedy
    top_p: float = 1.0  # nucleus: sample from the likeliest tokens that together have this probability
    top_k: int = 0  # sample from this many of the likeliest tokens; 0: all
    min_p: float = 0.0  # sample from tokens with at least this share of the likeliest one's probability; 0: all
    repeat_penalty: float = 1.0  # divides positive logits of tokens in the repeat window, multiplies others; 1: none
    seed: int | None = None  # None: random
    ignore_eos: bool = False  # generate past the end token

    def __post_init__(self) -> None:
        if not (_is_integer(self.max_tokens) and self.max_tokens >= 1):
            raise CallerError(f"max_tokens must be a whole number from 1, not {quote(self.max_tokens)}")
        if not (_is_number(self.temperature) and 0 <= self.temperature <= _MAX_TEMPERATURE):
            raise CallerError(f"temperature must be from 0 to {_MAX_TEMPERATURE}, not {quote(self.temperature)}")
        if not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise CallerError(f"top_p must be above 0 and at most 1, not {quote(self.top_p)}")
        if not (_is_integer(self.top_k) and self.top_k >= 0):
            raise CallerError(f"top_k must be a whole number from 0, not {quote(self.top_k)}")
        if not (_is_number(self.min_p) and 0 <= self.min_p <= 1):
            raise CallerError(f"min_p must be from 0 to 1, not {quote(self.min_p)}")
        if not (_is_number(self.repeat_penalty) and 0 < self.repeat_penalty <= _MAX_PENALTY):
            raise CallerError(
                f"repeat_penalty must be above 0 and at most {_MAX_PENALTY}, not {quote(self.repeat_penalty)}"
            )
        if self.seed is not None and not _is_integer(self.seed):
            raise CallerError(f"seed must be a whole number or None, not {quote(self.seed)}")


class Continuation:
    """Token ids being generated from a prompt; an empty prompt becomes the begin token.

    Attributes:
        context: The ids that the next token is predicted from, at most `block_size`.
        new_ids: The ids that the KV cache lacks. The same list as `context` when the cache has to start over.
        finish: Why generation ended; None while it has not.
    """

    def __init__(
        self, prompt: Sequence[int], sampling: Sampling, block_size: int, end_ids: Container[int] = _END_IDS
    ) -> None:
        self.sampling = sampling
        self.context = list(prompt[-block_size:]) or [BOS_ID]
        self.new_ids = self.context
        self.finish: Finish | None = None
        self._block_size, self._end_ids = block_size, end_ids
        self._count = 0
        self._seed = _mix(secrets.randbits(64) if sampling.seed is None else int(sampling.seed))

    def uniform(self) -> float:
        """Return the number in [0, 1) that decides the next token."""
        return (_mix(self._seed + self._count) >> 11) * 2.0**-53

    def append(self, token: int) -> bool:
        """Append a sampled token id and return True if it belongs to the text; an end token only ends it."""
        if token in self._end_ids and not self.sampling.ignore_eos:
            self.finish = "stop"
            return False
        self._count += 1
        if self._count == self.sampling.max_tokens:
            self.finish = "length"
        self.context.append(token)
        self.new_ids = [token]
        if len(self.context) > self._block_size:
            self.new_ids = self.context = self.context[-max(1, self._block_size // 2) :]
        return True


def generate(
    decoder: Decoder, prompt: Sequence[int], sampling: Sampling, end_ids: Container[int] = _END_IDS
) -> Iterator[int]:
    """Yield token ids that continue a prompt, until `max_tokens` or an end token; equal seeds give equal ids."""
    text, cache = Continuation(prompt, sampling, decoder.config.block_size, end_ids), KVCache(decoder.config)
    while text.finish is None:
        if text.new_ids is text.context:
            cache.lengths[0] = 0
        [token] = sample_next(decoder.next_logits(text.new_ids, cache)[None], [text])
        if text.append(token):
            yield token


def sample_next(logits: Array, texts: Sequence[Continuation]) -> list[int]:
    """Return the next token id of each text from its logits (B, V), which stay as they are."""
    logits = penalize_repeats(logits, texts)
    return sample_batch(logits, [text.sampling for text in texts], [text.uniform() for text in texts])


def penalize_repeats(logits: Array, texts: Sequence[Continuation]) -> Array:
    """Return logits (B, V) after each text's repeat penalty; the same array if none has one.

    Of each token in the last `REPEAT_WINDOW` ids of the context, once however often it occurs, a positive logit is
    divided by the penalty and any other multiplied (the definition of llama.cpp and transformers).
    """
    rows = [row for row, text in enumerate(texts) if text.sampling.repeat_penalty != 1]
    if not rows:
        return logits
    logits = logits.copy()
    for row in rows:
        recent, penalty = texts[row].context[-REPEAT_WINDOW:], texts[row].sampling.repeat_penalty
        values = logits[row, recent]
        logits[row, recent] = np.where(values > 0, values / penalty, values * penalty)
    return logits


class StopFilter:
    """Filter that passes streamed text on until a stop sequence ends; holds back a possible beginning of one.

    Of two stop sequences the one that ends first counts. The cost of a character does not grow with their lengths.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raise CallerError for an empty stop sequence."""
        if not all(stops):
            raise CallerError("a stop sequence must not be empty")
        self.stopped = False  # a stop sequence was found: no more text follows
        self._matchers = [_StopMatcher(stop) for stop in stops]
        self._held = ("", 0)  # the text held back: a stop sequence, and how much of it

    def push(self, piece: str) -> str:
        """Add a piece of text and return what can be passed on."""
        if not self._matchers:
            return piece
        for end, char in enumerate(piece, start=self._held[1] + 1):
            found = [len(matcher.stop) for matcher in self._matchers if matcher.push(char)]
            if found:
                self.stopped = True
                ready = self._take(end - max(found), piece)
                self._held = ("", 0)
                return ready
        longest = max(self._matchers, key=lambda matcher: matcher.size)
        ready = self._take(self._held[1] + len(piece) - longest.size, piece)
        self._held = (longest.stop, longest.size)
        return ready

    def flush(self) -> str:
        """Return the text held back; call when no more text follows."""
        (stop, size), self._held = self._held, ("", 0)
        return stop[:size]

    def _take(self, count: int, piece: str) -> str:
        """Return the first characters of the text held back and `piece`, without copying more."""
        stop, size = self._held
        return stop[: min(count, size)] + piece[: max(0, count - size)]


class _StopMatcher:
    """Length of the longest prefix of a stop sequence that a streamed text ends with (Knuth, Morris and Pratt)."""

    __slots__ = ("_borders", "size", "stop")

    def __init__(self, stop: str) -> None:
        self.stop, self.size, self._borders = stop, 0, _borders(stop)

    def push(self, char: str) -> bool:
        """Add a character and return True if the text now ends with the stop sequence."""
        stop, size = self.stop, self.size
        while size and stop[size] != char:
            size = self._borders[size - 1]
        self.size = size = size + (stop[size] == char)
        return size == len(stop)


@lru_cache(maxsize=64)  # the choices of a request have the same stop sequences
def _borders(stop: str) -> Sequence[int]:
    """Return for each prefix of a text the length of its longest proper prefix that it also ends with."""
    borders, size = [0], 0
    for char in stop[1:]:
        while size and stop[size] != char:
            size = borders[size - 1]
        size += stop[size] == char
        borders.append(size)
    return borders


def until_stop(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """Yield text up to where one of `stops` begins; raise CallerError for an empty stop sequence."""
    stop_filter = StopFilter(stops)
    for piece in pieces:
        yield stop_filter.push(piece)
        if stop_filter.stopped:
            return
    yield stop_filter.flush()


def sample(logits: Array, sampling: Sampling, uniform: float) -> int:
    """Return a token id sampled from logits (V,); `uniform` in [0, 1) decides, so equal arguments give equal tokens."""
    return sample_batch(logits[None], [sampling], [uniform])[0]


def sample_batch(logits: Array, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    """Return a token id for each row of logits (B, V), sampled as `sample` does."""
    tokens: list[int] = logits.argmax(axis=-1).tolist()
    sampled = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if sampled:
        exact = logits[sampled].astype(np.float64)  # in float32 rounding could select a token outside top_p
        exact -= exact.max(axis=-1, keepdims=True)
        with np.errstate(over="ignore"):  # a tiny temperature gives -inf, which is right
            exact /= np.array([[samplings[row].temperature] for row in sampled])
        np.exp(exact, out=exact)
        for row, weights, total in zip(sampled, exact, exact.sum(axis=-1).tolist(), strict=True):
            tokens[row] = _sample_weighted(weights, total, samplings[row], uniforms[row])
    return tokens


def log_softmax(logits: Array) -> Doubles:
    """Return the log probabilities (..., V) of logits (..., V), at temperature 1."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=-1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=-1, keepdims=True))
    return exact


def _sample_weighted(weights: Doubles, total: float, sampling: Sampling, uniform: float) -> int:
    """Return a token id drawn by weights (V,), of which the largest is 1, after min-p, top-k and top-p."""
    if sampling.top_k or sampling.top_p < 1 or sampling.min_p:
        tokens, cumulative = _nucleus(weights, total, sampling)
    else:
        tokens, cumulative = None, weights.cumsum()
    index = int(cumulative.searchsorted(uniform * cumulative[-1], side="right"))
    if index == len(cumulative):  # rounded up to the total: take the last token with a weight
        index = int(cumulative.searchsorted(cumulative[-1]))
    return index if tokens is None else int(tokens[index])


def _nucleus(weights: Doubles, total: float, sampling: Sampling) -> tuple[npt.NDArray[np.intp], Doubles]:
    """Return the fewest tokens that have `top_p` of the weights (V,), and the running sums of their weights.

    They are at most `top_k` (0: all), have at least `min_p` of the largest weight, and come likeliest first. Only
    tokens above a threshold are sorted: those below `floor` together weigh less than what top-p leaves out, so none of
    them is in the nucleus. Nearly always the tokens above 8 times that suffice.
    """
    top_k, top_p, min_p = sampling.top_k, sampling.top_p, sampling.min_p
    wanted, floor = top_p * total, (1 - top_p) * total / len(weights)
    tokens, cumulative = _sorted(weights, np.flatnonzero(weights >= max(8 * floor, min_p)), top_k)
    enough = 0 < top_k == len(tokens) or (len(cumulative) and cumulative[-1] >= wanted)
    if not enough and min_p < 8 * floor:
        tokens, cumulative = _sorted(weights, np.flatnonzero(weights >= max(floor, min_p)), top_k)
    count = 1 + int(cumulative[:-1].searchsorted(wanted))
    return tokens[:count], cumulative[:count]


def _sorted(weights: Doubles, tokens: npt.NDArray[np.intp], top_k: int) -> tuple[npt.NDArray[np.intp], Doubles]:
    """Return at most `top_k` (0: all) of the tokens, likeliest first, and the running sums of their weights."""
    candidates = weights[tokens]
    if 0 < top_k < len(tokens):
        best = np.argpartition(candidates, -top_k)[-top_k:]
        tokens, candidates = tokens[best], candidates[best]
    order = np.argsort(-candidates)
    return tokens[order], candidates[order].cumsum()


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _mix(number: int) -> int:
    """Return 64 pseudo-random bits for a whole number (the finalizer of SplitMix64)."""
    number = (number + 1) * 0x9E3779B97F4A7C15 & _UINT64
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _UINT64
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _UINT64
    return number ^ number >> 31
