"""Training and encoding of BPE with 500 tokens on a text, by us and by plain calls of `tokenizers`: `bpe.py TEXT`.

Prints seconds as {"train_s", "plain_train_s", "encode_s", "plain_encode_s"}, and the size of the text as {"bytes"}.
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
    """Measure and print the figures."""
    path = Path(sys.argv[1])
    text, whole = Text.find(path), path.read_text(encoding="utf-8")
    result: dict[str, float] = {"bytes": path.stat().st_size}
    plain, result["plain_train_s"] = timed(lambda: plain_train(whole))
    learned, result["train_s"] = timed(lambda: BpeTokenizer.train(text, SIZE))
    encoded, result["encode_s"] = timed(lambda: sum(len(ids) for ids in learned.encode_corpus(text)))
    plain.model = tokenizers.models.BPE(
        vocab={entry: token for token, entry in enumerate(learned.vocab)}, merges=learned.merges_by_priority()
    )
    plain_encoded, result["plain_encode_s"] = timed(lambda: len(plain.encode(whole).ids))
    if encoded != plain_encoded:
        raise RuntimeError(f"{encoded} tokens here, {plain_encoded} with the plain call")
    print(json.dumps(result))


def plain_train(text: str) -> tokenizers.Tokenizer:
    """Train the library's BPE on the lines of a text."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("\n", "isolated")
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=SIZE, show_progress=False)
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return the result of `work` and its seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
