"""Writing on from a prompt: what the network is given next, when a text ends, how tokens are drawn. No I/O.

Past block_size the window keeps its last half and is prefilled once, so a token costs one step on average (learned
positions allow no cheaper exact rule). Chance depends on a text's seed and on how far it has come, never on who else
is served at the time.
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from randygpt.errors import CallerError
from randygpt.model.decoder import Array, Decoder, KVCache
from randygpt.model.tokenizer import BOS_ID, EOS_ID

_WORD = (1 << 64) - 1

Doubles = npt.NDArray[np.float64]
Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn; a value out of range raises CallerError."""

    max_tokens: int = 256
    temperature: float = 0.7  # 0: always the likeliest
    top_p: float = 1.0  # draw from the likeliest tokens that together have this probability
    top_k: int = 0  # draw from this many likeliest; 0: all
    seed: int | None = None  # None: another text each time
    ignore_eos: bool = False  # write on behind the end token

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise CallerError(f"max_tokens is at least 1, not {self.max_tokens}")
        if not 0 <= self.temperature <= 100:  # noqa: PLR2004 (NaN fails too)
            raise CallerError(f"temperature is from 0 to 100, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise CallerError(f"top_p is over 0 and at most 1, not {self.top_p}")
        if self.top_k < 0:
            raise CallerError(f"top_k is not negative, as {self.top_k} is")


class Continuation:
    """Token ids being generated from a prompt; an empty prompt becomes the begin token.

    Attributes:
        context: The ids that the next token is predicted from, at most `block_size`.
        new_ids: The ids that the KV cache lacks. The same list as `context` when the cache has to start over.
        finish: Why generation ended; None while it has not.
    """

    def __init__(self, prompt: Sequence[int], sampling: Sampling, block_size: int) -> None:
        self.sampling = sampling
        self.context = list(prompt)[-block_size:] or [BOS_ID]
        self.new_ids = self.context
        self.finish: Finish | None = None
        self._block_size = block_size
        self._count = 0
        self._seed = _mix(secrets.randbits(64) if sampling.seed is None else sampling.seed)

    def uniform(self) -> float:
        """Return the number in [0, 1) that decides the next token."""
        return (_mix(self._seed + self._count) >> 11) * 2.0**-53

    def append(self, token: int) -> bool:
        """Append a sampled token id and return True if it belongs to the text; an end token only ends it."""
        if token == EOS_ID and not self.sampling.ignore_eos:
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


def generate(decoder: Decoder, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """Token ids after a prompt, as they are drawn, until `max_tokens` or the end token.

    The same seed gives the same ids.
    """
    text, cache = Continuation(prompt, sampling, decoder.config.block_size), KVCache(decoder.config)
    while text.finish is None:
        if text.new_ids is text.context:
            cache.lengths[0] = 0
        token = sample(decoder.next_logits(text.new_ids, cache), sampling, text.uniform())
        if text.append(token):
            yield token


class StopFilter:
    """Filter that passes streamed text on until a stop sequence begins; holds back a possible beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Raise CallerError for an empty stop sequence."""
        if not all(stops):
            raise CallerError("a stop sequence must not be empty")
        self.stopped = False  # a stop sequence was found: no more text follows
        self._stops = stops
        self._held = ""

    def push(self, piece: str) -> str:
        """Add a piece of text and return what can be passed on."""
        held = self._held + piece
        ends = [held.find(stop) for stop in self._stops if stop in held]
        if ends:
            self.stopped, self._held = True, ""
            return held[: min(ends)]
        begun = (size for stop in self._stops for size in range(len(stop)) if held.endswith(stop[:size]))
        ready = len(held) - max(begun, default=0)
        self._held = held[ready:]
        return held[:ready]

    def flush(self) -> str:
        """Return the text held back; call when no more text follows."""
        rest, self._held = self._held, ""
        return rest


def until_stop(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """Yield text up to where one of `stops` begins; raises CallerError for an empty stop sequence."""
    stop_filter = StopFilter(stops)
    for piece in pieces:
        yield stop_filter.push(piece)
        if stop_filter.stopped:
            return
    yield stop_filter.flush()


def sample(logits: Array, sampling: Sampling, uniform: float) -> int:
    """A token id from logits (V,); `uniform` in [0, 1) decides, so equal arguments give an equal token."""
    return sample_batch(logits[None], [sampling], [uniform])[0]


def sample_batch(logits: Array, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    """A token id from each row of logits (B, V), as `sample` does."""
    tokens: list[int] = logits.argmax(axis=-1).tolist()
    warm = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if warm:
        exact = logits[warm].astype(np.float64)  # a rounded draw could land beyond the last token that counts
        exact -= exact.max(axis=-1, keepdims=True)
        with np.errstate(over="ignore"):  # next to no temperature: minus infinity will do
            exact /= np.array([[samplings[row].temperature] for row in warm])
        np.exp(exact, out=exact)
        for row, shares, total in zip(warm, exact, exact.sum(axis=-1).tolist(), strict=True):
            tokens[row] = _draw_share(shares, total, samplings[row], uniforms[row])
    return tokens


def log_softmax(logits: Array) -> Doubles:
    """What the network itself says (..., V), before any temperature."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=-1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=-1, keepdims=True))
    return exact


def _draw_share(shares: Doubles, total: float, sampling: Sampling, uniform: float) -> int:
    """A token by its share (V,) of the `total` among those that `sampling` leaves."""
    if sampling.top_k or sampling.top_p < 1:
        tokens, edges = _likeliest(shares, total, sampling.top_k, sampling.top_p)
    else:
        tokens, edges = None, shares.cumsum()
    index = int(edges.searchsorted(uniform * edges[-1], side="right"))
    if index == len(edges):  # it was rounded up: the last token with a share
        index = int(edges.searchsorted(edges[-1]))
    return index if tokens is None else int(tokens[index])


def _likeliest(shares: Doubles, total: float, top_k: int, top_p: float) -> tuple[npt.NDArray[np.intp], Doubles]:
    """The fewest tokens that have `top_p` of the `total` of shares (V,), and their running sums.

    They are at most `top_k` (0: any number), the likeliest first. Most tokens have so little that they are out without
    being sorted: all that have less than an even part of what is left out; and nearly always those that have less than
    eight times as much.
    """
    wanted, part = top_p * total, (1 - top_p) * total / len(shares)
    tokens, edges = _sorted(shares, np.flatnonzero(shares >= 8 * part), top_k)
    if not (0 < top_k == len(tokens) or (len(edges) and edges[-1] >= wanted)):
        tokens, edges = _sorted(shares, np.flatnonzero(shares >= part), top_k)
    count = 1 + int(edges[:-1].searchsorted(wanted))
    return tokens[:count], edges[:count]


def _sorted(shares: Doubles, tokens: npt.NDArray[np.intp], top_k: int) -> tuple[npt.NDArray[np.intp], Doubles]:
    """Tokens, at most `top_k` (0: all), likeliest first, and the running sums of their shares."""
    held = shares[tokens]
    if 0 < top_k < len(tokens):
        best = np.argpartition(held, -top_k)[-top_k:]
        tokens, held = tokens[best], held[best]
    order = np.argsort(-held)
    return tokens[order], held[order].cumsum()


def _mix(number: int) -> int:
    """64 bits that look like chance, from any whole number (the finaliser of SplitMix64)."""
    number = (number + 1) * 0x9E3779B97F4A7C15 & _WORD
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _WORD
    return number ^ number >> 31
