"""Learns 500 byte pairs from the text named, encodes it, and does both with the plain calls of `tokenizers`.

Prints the seconds as {"train_s", "plain_train_s", "encode_s", "plain_encode_s"}, and {"bytes"} of the text.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tokenizers

from randygpt.model.tokenizer import BpeTokenizer
from randygpt.training.text import Text

SIZE = 500
T = TypeVar("T")


def main() -> None:
    """Measure, and print."""
    path = Path(sys.argv[1])
    text, whole = Text.find(path), path.read_text(encoding="utf-8")
    result: dict[str, float] = {"bytes": path.stat().st_size}
    plain, result["plain_train_s"] = timed(lambda: plainly_trained(whole))
    learned, result["train_s"] = timed(lambda: BpeTokenizer.train(text, SIZE))
    encoded, result["encode_s"] = timed(lambda: sum(len(ids) for ids in learned.encode_corpus(text)))
    plain.model = tokenizers.models.BPE(
        vocab={entry: token for token, entry in enumerate(learned.vocab)}, merges=learned.merges_by_priority()
    )
    plainly_encoded, result["plain_encode_s"] = timed(lambda: len(plain.encode(whole).ids))
    if encoded != plainly_encoded:
        raise RuntimeError(f"{encoded} tokens here, {plainly_encoded} there: these are not the same work")
    print(json.dumps(result))


def plainly_trained(text: str) -> tokenizers.Tokenizer:
    """What the library learns from the lines of a text."""
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.Split("\n", "isolated")
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=SIZE, show_progress=False)
    learner.train_from_iterator(text.splitlines(keepends=True), trainer)
    return learner


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What some work gives, and its seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
