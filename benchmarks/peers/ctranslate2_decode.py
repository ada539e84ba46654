"""Tokens per second of CTranslate2 in this process: `ctranslate2_decode.py FOLDER SEQUENCES TOKENS THREADS TYPE`.

TYPE is float32 or int8. The sampling is that of `scripts/decoding.py`. Prints {"tokens_per_s"}.
"""

import json
import sys
import time
from pathlib import Path

import ctranslate2

PROMPT = ["t5"] * 16


def main(folder: Path, sequences: int, tokens: int, threads: int, *, compute_type: str) -> None:
    """Measure and print the figures."""
    generator = ctranslate2.Generator(str(folder), compute_type=compute_type, inter_threads=1, intra_threads=threads)
    generate(generator, sequences, 8)
    start = time.perf_counter()
    count = generate(generator, sequences, tokens)
    seconds = time.perf_counter() - start
    if count != sequences * tokens:
        raise RuntimeError(f"{count} tokens instead of {sequences * tokens}: invalid measurement")
    print(json.dumps({"tokens_per_s": count / seconds}))


def generate(generator: ctranslate2.Generator, sequences: int, tokens: int) -> int:
    """Generate tokens in all sequences, and return how many there are."""
    found = generator.generate_batch(
        [PROMPT] * sequences,
        max_length=tokens,
        min_length=tokens,
        include_prompt_in_result=False,
        sampling_topk=0,
        sampling_topp=0.9,
        sampling_temperature=0.8,
    )
    return sum(len(each.sequences_ids[0]) for each in found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]), compute_type=sys.argv[5])
