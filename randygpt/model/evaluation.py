"""Evaluation of a model on a text: loss, perplexity and bits per byte, comparable between models. No I/O.

Windows are cut from the text, not from its tokens, so every model is judged by the same ones, whatever its tokenizer
and context length: a segment of at most 1,024 characters is scored, given the segment before it as context. A model
with a shorter context length sees the last tokens that fit, at least half of its context length where the window has
that many. `<|eos|>` ends a document: it is not scored, and no window crosses it.

Every byte of the text counts once. The first token of a document, which nothing precedes, costs ln V nats. A character
that the vocabulary lacks is in no token and costs 8 bits per byte of it, so that a model gains nothing by dropping it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from randygpt.errors import CallerError, InvalidModelFile
from randygpt.model import text_blocks
from randygpt.model.decoder import Decoder, KVCache
from randygpt.model.sampling import log_softmax
from randygpt.model.tokenizer import Tokenizer

SEGMENT = 1024  # characters scored per window, and characters of context, at most
_UNKNOWN_BITS = 8  # per byte of a character that the vocabulary lacks
_MAX_EXPONENT = 700  # e to a higher power is no float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a model needs to predict a text; a text without a token raises CallerError."""

    nats: float  # negative log probability of all tokens
    tokens: int
    bytes: int  # of the text in UTF-8, with those of unknown characters
    unknown: int = 0  # characters that the vocabulary lacks
    unknown_bytes: int = 0

    def __post_init__(self) -> None:
        if not self.bytes:
            raise CallerError("the text to evaluate is empty")
        if not self.tokens:
            raise CallerError("the model's vocabulary has no character of the text")
        if not math.isfinite(self.nats):
            raise InvalidModelFile(f"the model's loss is {self.nats}: its weights are damaged, or training diverged")

    @property
    def loss(self) -> float:
        """Mean loss, in nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Perplexity per token; infinite if it is no float."""
        return math.exp(self.loss) if self.loss < _MAX_EXPONENT else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of the text, the figure to compare models by."""
        return (self.nats / math.log(2) + _UNKNOWN_BITS * self.unknown_bytes) / self.bytes

    def to_json(self) -> dict[str, object]:
        """Return the figures for scripts; a perplexity that is no float is None."""
        return {
            "loss": self.loss,
            "perplexity": self.perplexity if math.isfinite(self.perplexity) else None,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "unknown": self.unknown,
        }


def evaluate(
    decoder: Decoder,
    tokenizer: Tokenizer,
    text: Iterable[str],
    on_progress: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Return how well a network predicts a text.

    Args:
        decoder: The network.
        tokenizer: Its tokenizer.
        text: The text, whole or in blocks; the figures do not depend on how it is cut into blocks.
        on_progress: Called with the bytes evaluated so far.

    Raises:
        CallerError: The text is empty, or has no character of the vocabulary.
        InvalidModelFile: The loss is not finite.
    """
    cache, context = KVCache(decoder.config), list[int]()
    nats, tokens, size, unknown, unknown_bytes = 0.0, 0, 0, 0, 0
    for segment, begins_document in segments(text):
        ids: list[int] = tokenizer.encode(segment).tolist()
        context = [] if begins_document else context
        if ids and not context:
            nats += math.log(decoder.config.vocab_size)
        nats += _nats(decoder, cache, [*context, *ids], max(1, len(context)))
        context = ids or context
        tokens, size = tokens + len(ids), size + _byte_count(segment)
        if dropped := tokenizer.count_unknown(segment):
            unknown += dropped
            unknown_bytes += sum(map(_byte_count, _unknown(tokenizer, segment)))
        on_progress(size)
    return Evaluation(nats=nats, tokens=tokens, bytes=size, unknown=unknown, unknown_bytes=unknown_bytes)


def segments(text: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yield a text in segments of at most `SEGMENT` characters, and whether each begins a document.

    A segment ends after its last newline if its second half has one, else after its last space. No token crosses a
    newline, so the ids are nearly always those of the whole text.
    """
    rest, begins_document = "", True
    for block in text_blocks.rejoin_eos(text):
        *complete, rest = (rest + block).split(text_blocks.EOS)
        for document in complete:
            for segment in filter(None, _cut(document)):
                yield segment, begins_document
                begins_document = False
            begins_document = True
        *parts, rest = _cut(rest)
        for segment in parts:
            yield segment, begins_document
            begins_document = False
    if rest:
        yield rest, begins_document


def _cut(text: str) -> Iterator[str]:
    """Yield a text in segments; the last may continue with text that follows, and may be empty."""
    start = 0
    while len(text) - start > SEGMENT:
        end = start + SEGMENT
        marks = (text.rfind(mark, start + SEGMENT // 2, end) + 1 for mark in "\n ")
        end = next(filter(None, marks), end)
        yield text[start:end]
        start = end
    yield text[start:]


def passes(count: int, first: int, block_size: int) -> Iterator[tuple[int, int]]:
    """Yield the (begin, end) of inputs that predict tokens `first` to `count` - 1, each after its predecessors.

    Inputs begin to end - 1 predict the tokens that follow each; a pass counts those that no earlier pass predicted,
    which have at least half of `block_size` tokens before them, or all that exist.
    """
    while first < count:
        begin = max(0, min(first - max(1, block_size // 2), count - 1 - block_size))
        end = min(begin + block_size, count - 1)
        yield begin, end
        first = end + 1


def _nats(decoder: Decoder, cache: KVCache, ids: Sequence[int], first: int) -> float:
    """Return the negative log probability of ids[first:] given those before each."""
    total = 0.0
    for begin, end in passes(len(ids), first, decoder.config.block_size):
        cache.lengths[0] = 0
        position = begin + 1  # of the id that the next row predicts
        for logits in decoder.iter_logits(ids[begin:end], cache):  # (n, V)
            skipped = min(max(0, first - position), len(logits))
            targets = ids[position + skipped : position + len(logits)]
            total -= float(log_softmax(logits[skipped:])[np.arange(len(targets)), targets].sum())
            position += len(logits)
        first = end + 1
    return total


def _unknown(tokenizer: Tokenizer, text: str) -> Iterator[str]:
    """Yield every character of a text that the vocabulary lacks, as often as it occurs."""
    lacking = {char for char in set(text) if tokenizer.count_unknown(char)}
    return (char for char in text if char in lacking)


def _byte_count(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
