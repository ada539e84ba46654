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

from randygpt.decoder import Array, Decoder, KVCache
from randygpt.errors import CallerError
from randygpt.tokenizer import BOS_ID, EOS_ID

_NUCLEUS = 256  # entries looked at before a whole vocabulary is sorted
_WORD = (1 << 64) - 1

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
    """A text being written on from a prompt, token by token; an empty prompt starts from the begin token."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, block_size: int) -> None:
        self.sampling = sampling
        self.window = list(prompt)[-block_size:] or [BOS_ID]
        self.fresh = self.window  # ids the cache has not seen; all of the window: the cache starts anew
        self.finish: Finish | None = None  # why it has ended
        self._block = block_size
        self._count = 0
        self._seed = _mix(secrets.randbits(64) if sampling.seed is None else sampling.seed)

    def uniform(self) -> float:
        """The number in [0, 1) that decides the next token."""
        return (_mix(self._seed + self._count) >> 11) * 2.0**-53

    def take(self, token: int) -> bool:
        """Go on with a token; whether it is part of the text: an end token is not, and ends it."""
        if token == EOS_ID and not self.sampling.ignore_eos:
            self.finish = "stop"
            return False
        self._count += 1
        if self._count == self.sampling.max_tokens:
            self.finish = "length"
        self.window.append(token)
        self.fresh = [token]
        if len(self.window) > self._block:
            self.fresh = self.window = self.window[-max(1, self._block // 2) :]
        return True


def generate(decoder: Decoder, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """Token ids after a prompt, as they are drawn, until `max_tokens` or the end token.

    The same seed gives the same ids.
    """
    text, cache = Continuation(prompt, sampling, decoder.config.block_size), KVCache(decoder.config)
    while text.finish is None:
        if text.fresh is text.window:
            cache.lengths[0] = 0
        token = draw(decoder.next_logits(text.fresh, cache), sampling, text.uniform())
        if text.take(token):
            yield token


class Cutter:
    """Passes a text on up to where one of `stops` begins; what may be the beginning of one is held back.

    Raises CallerError for an empty stop.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise CallerError("a text to stop at is not empty")
        self.found = False  # a stop, so that nothing comes any more
        self._stops = stops
        self._held = ""

    def push(self, piece: str) -> str:
        """What can be passed on when a piece has come."""
        held = self._held + piece
        ends = [held.find(stop) for stop in self._stops if stop in held]
        if ends:
            self.found, self._held = True, ""
            return held[: min(ends)]
        begun = (size for stop in self._stops for size in range(len(stop)) if held.endswith(stop[:size]))
        ready = len(held) - max(begun, default=0)
        self._held = held[ready:]
        return held[:ready]

    def rest(self) -> str:
        """What was held back, when nothing more comes."""
        rest, self._held = self._held, ""
        return rest


def until_stop(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The text of some pieces, up to where one of `stops` begins; raises CallerError for an empty stop."""
    cutter = Cutter(stops)
    for piece in pieces:
        yield cutter.push(piece)
        if cutter.found:
            return
    yield cutter.rest()


def draw(logits: Array, sampling: Sampling, uniform: float) -> int:
    """A token id from logits (V,); `uniform` in [0, 1) decides, so equal arguments give an equal token."""
    return draw_each(logits[None], [sampling], [uniform])[0]


def draw_each(logits: Array, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    """A token id from each row of logits (B, V), as `draw` does it."""
    tokens = logits.argmax(axis=-1).tolist()
    warm = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if not warm:
        return list(tokens)
    exact = logits[warm].astype(np.float64)  # a rounded draw could land beyond the last token that counts
    exact -= exact.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore"):  # next to no temperature: minus infinity will do
        exact /= np.array([[samplings[row].temperature] for row in warm])
    shares = np.exp(exact, out=exact)
    whole = [index for index, row in enumerate(warm) if samplings[row].top_p == 1 and not samplings[row].top_k]
    for index, token in zip(whole, _pick(shares[whole], [uniforms[warm[index]] for index in whole]), strict=True):
        tokens[warm[index]] = token
    for index in sorted(set(range(len(warm))).difference(whole)):
        row = warm[index]
        tokens[row] = _draw_likely(logits[row], shares[index], samplings[row], uniforms[row])
    return list(tokens)


def log_probabilities(logits: Array) -> npt.NDArray[np.float64]:
    """What the network itself says (..., V), before any temperature."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=-1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=-1, keepdims=True))
    return exact


def _draw_likely(logits: Array, shares: npt.NDArray[np.float64], sampling: Sampling, uniform: float) -> int:
    """A token from the likeliest ones that `sampling` leaves."""
    probabilities = shares / shares.sum()
    size = min(len(probabilities), sampling.top_k or len(probabilities))
    tokens = _likeliest(logits, min(size, _NUCLEUS) if sampling.top_p < 1 else size)
    if len(tokens) < size and probabilities[tokens].sum() < sampling.top_p:
        tokens = _likeliest(logits, size)
    values = probabilities[tokens]
    count = max(1, int(np.count_nonzero(values.cumsum() - values < sampling.top_p)))
    return int(tokens[_pick(values[None, :count], [uniform])[0]])


def _pick(shares: npt.NDArray[np.float64], uniforms: Sequence[float]) -> list[int]:
    """For each row of shares (B, N) the entry that a number in [0, 1) falls on, never one without a share."""
    picked = []
    for edges, uniform in zip(shares.cumsum(axis=-1), uniforms, strict=True):
        total = edges[-1]
        index = int(edges.searchsorted(uniform * total, side="right"))
        picked.append(index if index < len(edges) else int(edges.searchsorted(total)))  # it was rounded up
    return picked


def _likeliest(logits: Array, count: int) -> npt.NDArray[np.intp]:
    """The `count` likeliest tokens, likeliest first."""
    if count == len(logits):
        return np.argsort(-logits)
    tokens = np.argpartition(logits, -count)[-count:]
    return tokens[np.argsort(-logits[tokens])]


def _mix(number: int) -> int:
    """64 bits that look like chance, from any whole number (the finaliser of SplitMix64)."""
    number = (number + 1) * 0x9E3779B97F4A7C15 & _WORD
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _WORD
    return number ^ number >> 31
