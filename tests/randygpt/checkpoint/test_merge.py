"""Merges of checkpoint files: one result on every machine, bounded memory, and inputs that are refused."""

import hashlib
import itertools
import math
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from randygpt.checkpoint.header import HEADER_SIZE, CheckpointHeader
from randygpt.checkpoint.merge import Merged, MergeFile, merge_files
from randygpt.checkpoint.rgpt import Checkpoint, write_checkpoint
from randygpt.errors import CallerError, InvalidCheckpoint
from randygpt.model.config import ModelConfig
from randygpt.model.merge import MergeRule
from randygpt.model.tokenizer import CharTokenizer

FOLDER = Path(__file__).parent / "merge"
TOKENIZER = CharTokenizer.from_text("abc")
CONFIG = ModelConfig(n_embd=4, n_head=1, n_layer=1, vocab_size=TOKENIZER.vocab_size, block_size=4)
NAMES = ("one", "two", "three", "liar")
RULES = {
    "plain": MergeRule(weights=(1, 1, 1, 1)),
    "weighted": MergeRule(weights=(3, 2, 1, 1), scale=Fraction(5, 4)),
    "robust": MergeRule(weights=(1, 1, 1, 1), robust=True),
}
GOLDEN = {  # SHA-256 of the file; a new value would make every merge that was published unverifiable
    "plain": "b3d73362816dfb25f5d7bb530f794bb0958b5afae9962cd5a3b8d429d1d24846",
    "weighted": "2314a22675ebb88eb7d965ba9de88f24c090fb6403b141037d838ec9dd19d4ce",
    "robust": "149a55e28b79a4ceb460cd57d189f196f89e3fccd39cab9a9f7d60f5445487c0",
}


def stored(name: str) -> MergeFile:
    return MergeFile(title=name, path=FOLDER / f"{name}.rgpt", config=CONFIG, tokenizer=TOKENIZER)


def merge(rule: MergeRule, names: Sequence[str] = NAMES) -> Merged:
    return merge_files(stored("base"), [stored(name) for name in names], rule)


def digest(checkpoint: Checkpoint) -> str:
    return hashlib.sha256(checkpoint.header.encode() + checkpoint.weights.astype("<f4").tobytes()).hexdigest()


@pytest.mark.parametrize("name", RULES)
def test_golden_merge(name: str) -> None:
    assert digest(merge(RULES[name]).checkpoint) == GOLDEN[name]


@pytest.mark.parametrize("name", RULES)
def test_result_does_not_depend_on_order(name: str) -> None:
    inputs = list(zip(NAMES, RULES[name].weights, strict=True))
    for order in itertools.permutations(inputs):
        rule = replace(RULES[name], weights=tuple(weight for _, weight in order))
        assert digest(merge(rule, [each for each, _ in order]).checkpoint) == GOLDEN[name]


@pytest.mark.full
@pytest.mark.parametrize(
    "variables",
    [
        {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        {"OMP_NUM_THREADS": "8", "OPENBLAS_NUM_THREADS": "8", "MKL_NUM_THREADS": "8"},
        {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Prescott"},
        {"ATEN_CPU_CAPABILITY": "avx2", "OPENBLAS_CORETYPE": "Haswell"},
        {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL"},
    ],
    ids=["one thread", "eight threads", "oldest processor", "avx2", "numpy without avx"],
)
def test_result_does_not_depend_on_the_processor(variables: dict[str, str]) -> None:
    code = (
        "import sys, warnings; sys.path.insert(0, sys.argv[1]); warnings.simplefilter('ignore')\n"
        "import test_merge\n"
        "print(*(test_merge.digest(test_merge.merge(rule).checkpoint) for rule in test_merge.RULES.values()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == list(GOLDEN.values())


def test_liar_is_named_and_does_not_matter() -> None:
    found = merge(RULES["robust"])
    assert found.reasons == ("", "", "", "points away from the sum of the others")
    header = found.checkpoint.header
    assert (header.iteration, header.step, header.best_loss) == (29, 30, math.inf)  # those of the liar do not count


def written(path: Path, weights: np.ndarray, config: ModelConfig = CONFIG) -> MergeFile:
    header = CheckpointHeader(magic="RGPT0002", vocab_size=config.vocab_size, iteration=0, step=0, best_loss=1.0)
    vector = np.broadcast_to(weights.astype(np.float32), config.parameter_count).copy()
    write_checkpoint(path, Checkpoint(header=header, config=config, weights=vector, optimizer_state=None))
    return MergeFile(title=path.stem, path=path, config=config, tokenizer=TOKENIZER)


def test_optimizer_state_does_not_matter(tmp_path: Path) -> None:
    inputs = []
    for name in NAMES:
        data = (FOLDER / f"{name}.rgpt").read_bytes()
        path = tmp_path / f"{name}.bin"
        path.write_bytes(b"RGPT0003" + data[8:] + bytes(2 * (len(data) - HEADER_SIZE)))
        inputs.append(replace(stored(name), path=path))
    assert digest(merge_files(stored("base"), inputs, RULES["robust"]).checkpoint) == GOLDEN["robust"]


@pytest.mark.parametrize("is_robust", [False, True], ids=["plain", "robust"])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, value: float, *, is_robust: bool) -> None:
    bad = written(tmp_path / "bad.bin", np.array([value]))
    rule = MergeRule(weights=(1, 1, 1), robust=is_robust)
    with pytest.raises(InvalidCheckpoint, match="bad: NaN or infinity in wte"):
        merge_files(stored("base"), [stored("one"), bad, stored("two")], rule)
    with pytest.raises(InvalidCheckpoint, match="bad: NaN or infinity in wte"):
        merge_files(bad, [stored("one"), stored("two")], MergeRule(weights=(1, 1)))


def test_weight_out_of_range_is_refused_or_left_out(tmp_path: Path) -> None:
    huge = written(tmp_path / "huge.bin", np.array([1e30]))
    with pytest.raises(InvalidCheckpoint, match="huge: a weight beyond ±128 in wte, which cannot be merged"):
        merge_files(stored("base"), [stored("one"), huge, stored("two")], MergeRule(weights=(1, 1, 1)))
    rule = MergeRule(weights=(1, 1, 1), robust=True)
    found = merge_files(stored("base"), [stored("one"), huge, stored("two")], rule)
    assert found.reasons == ("", "a weight beyond ±128 in wte", "")
    without = merge_files(stored("base"), [stored("one"), stored("two")], MergeRule(weights=(1, 1)))
    np.testing.assert_allclose(found.checkpoint.weights, without.checkpoint.weights, atol=0.01)


def test_huge_change_is_clipped_to_the_median_norm(tmp_path: Path) -> None:
    huge = written(tmp_path / "huge.bin", np.array([100.0]))
    rule = MergeRule(weights=(1, 1, 1), robust=True)
    merged = merge_files(stored("base"), [stored("one"), stored("two"), huge], rule).checkpoint.weights
    base = np.frombuffer((FOLDER / "base.rgpt").read_bytes()[HEADER_SIZE:], "<f4")
    one = np.frombuffer((FOLDER / "one.rgpt").read_bytes()[HEADER_SIZE:], "<f4")
    assert np.linalg.norm(merged - base) < 1.5 * np.linalg.norm(one - base)


def test_merge_that_leaves_the_range_is_refused(tmp_path: Path) -> None:
    inputs = [written(tmp_path / f"{index}.bin", np.array([100.0])) for index in range(2)]
    with pytest.raises(CallerError, match="the merge has a weight beyond ±128 in wte: use a smaller --scale"):
        merge_files(stored("base"), inputs, MergeRule(weights=(1, 1), scale=Fraction(2)))


def test_other_shape_or_vocabulary_is_refused(tmp_path: Path) -> None:
    wide = written(tmp_path / "wide.bin", np.zeros(1), replace(CONFIG, n_embd=8))
    with pytest.raises(CallerError, match=r"wide has another shape than the base: dim 8, .*, not dim 4,"):
        merge_files(stored("base"), [stored("one"), wide], MergeRule(weights=(1, 1)))
    other = replace(stored("two"), tokenizer=CharTokenizer.from_text("xyz"))
    with pytest.raises(CallerError, match="two has another vocabulary than the base"):
        merge_files(stored("base"), [stored("one"), other], MergeRule(weights=(1, 1)))


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.bin"
    path.write_bytes((FOLDER / "one.rgpt").read_bytes()[:-4])
    with pytest.raises(InvalidCheckpoint, match=r"two: \d+ bytes, but RGPT0002"):
        merge_files(stored("base"), [stored("one"), replace(stored("two"), path=path)], MergeRule(weights=(1, 1)))


@pytest.mark.full
def test_memory_does_not_grow_with_the_inputs(tmp_path: Path) -> None:
    config = ModelConfig(n_embd=128, n_head=4, n_layer=8, vocab_size=TOKENIZER.vocab_size)
    paths = [written(tmp_path / f"{index}.bin", np.array([index / 64]), config) for index in range(4)]
    inputs = [paths[1 + index % 3] for index in range(16)]
    tracemalloc.start()
    try:
        merge_files(paths[0], inputs, MergeRule(weights=(1,) * 16, robust=True))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * config.parameter_count + (50 << 20)  # the result, and blocks of the inputs
