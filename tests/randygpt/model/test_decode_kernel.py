"""The compiled decode step: against numpy, alone and in a batch, on several threads, and where it cannot be used."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import hatch_build
from randygpt.model import decode_kernel
from randygpt.model.config import ModelConfig
from randygpt.model.decoder import Array, Decoder, KVCache

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
SMALL = {"n_embd": 32, "n_head": 2, "n_layer": 2, "vocab_size": 70, "block_size": 40}


def random_decoder(**shape: int) -> Decoder:
    config = ModelConfig(**SMALL | shape)
    weights = np.random.default_rng(3).standard_normal(config.parameter_count).astype(np.float32)
    return Decoder.from_flat(config, weights * np.float32(0.3))


def generate(decoder: Decoder, rows: list[int], *, threads: int = 1, steps: int = 36) -> Array:
    """Return the logits (steps, rows, V) of sequences that each begin with another token and go on with fixed ones."""
    cache = KVCache(decoder.config, len(rows))
    tokens = [[row % decoder.config.vocab_size for row in rows]]
    draws = np.random.default_rng(4)
    ids = draws.integers(decoder.config.vocab_size, size=(steps, 100))
    tokens += [[int(step[row]) for row in rows] for step in ids[1:]]
    return np.stack([decoder.forward(cache, step, (), threads=threads) for step in tokens])


def without_kernel(decoder: Decoder) -> Decoder:
    decoder._kernel = None
    return decoder


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"n_embd": 116, "n_head": 4},  # preset xs: no whole number of vectors
        {"n_embd": 18, "n_head": 3},  # heads smaller than a vector
        {"n_embd": 160, "n_head": 2, "vocab_size": 1000},
        {"n_embd": 384, "n_head": 8, "n_layer": 1},
        {"n_embd": 600, "n_head": 3, "n_layer": 1, "vocab_size": 2},  # narrow blocks
    ],
    ids=lambda shape: "x".join(map(str, shape.values())) or "small",
)
@pytest.mark.parametrize("rows", [1, 2, 5, 8])
def test_logits_match_numpy(shape: dict[str, int], rows: int) -> None:
    decoder = random_decoder(**shape)
    assert decoder._kernel
    logits = generate(decoder, list(range(rows)), steps=12)
    expected = generate(without_kernel(decoder), list(range(rows)), steps=12)
    assert logits.shape == (12, rows, decoder.config.vocab_size)
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4 * float(np.abs(expected).max()))


def test_logits_do_not_depend_on_batch_or_threads() -> None:
    decoder = random_decoder()
    together = generate(decoder, list(range(7)))
    for row in range(7):
        assert np.array_equal(generate(decoder, [row])[:, 0], together[:, row])
    assert np.array_equal(generate(decoder, list(range(7)), threads=2), together)
    assert np.array_equal(generate(decoder, list(range(7)), threads=3), together)


def test_long_contexts_match_numpy() -> None:
    decoder = random_decoder(block_size=300)
    logits = generate(decoder, [1, 2], steps=300)
    np.testing.assert_allclose(logits, generate(without_kernel(decoder), [1, 2], steps=300), rtol=0, atol=2e-3)


def test_several_callers_at_once() -> None:
    decoder = random_decoder()
    expected = generate(decoder, [0, 1, 2])
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: generate(decoder, [0, 1, 2], threads=2), range(12)))
    assert all(np.array_equal(result, expected) for result in results)


def test_forked_process_decodes() -> None:
    decoder = random_decoder()
    expected = generate(decoder, [0], threads=2)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(generate(decoder, [0], threads=2), expected) else 1)
    assert os.waitpid(child, 0) == (child, 0)


@pytest.mark.parametrize("token", [-1, 70])
def test_token_outside_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(IndexError):
        random_decoder().forward(KVCache(ModelConfig(**SMALL)), [token], ())


def test_full_context_is_refused() -> None:
    decoder = random_decoder()
    cache = KVCache(decoder.config)
    cache.lengths[0] = decoder.config.block_size
    with pytest.raises(IndexError):
        decoder.forward(cache, [1], ())


@pytest.fixture
def fresh_load() -> Iterator[None]:
    decode_kernel._load.cache_clear()
    yield
    decode_kernel._load.cache_clear()


@pytest.mark.usefixtures("fresh_load")
def test_kernel_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(decode_kernel.SWITCH, "0")
    assert random_decoder()._kernel is None


@pytest.mark.usefixtures("fresh_load")
def test_library_of_another_source_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = tmp_path / "decode_step.c"
    changed.write_bytes(decode_kernel.SOURCE.read_bytes() + b"\n")
    monkeypatch.setattr(decode_kernel, "SOURCE", changed)
    assert random_decoder()._kernel is None


@pytest.mark.usefixtures("fresh_load")
def test_missing_library_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_kernel, "LIBRARY", tmp_path / "none.so")
    decoder = random_decoder()
    assert decoder._kernel is None
    assert np.isfinite(generate(decoder, [1], steps=2)).all()


@pytest.mark.parametrize(("compiler", "said"), [("/nonexistent/cc", "is not installed"), ("false", "failed")])
def test_build_goes_without_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, said: str
) -> None:
    source = tmp_path / hatch_build.SOURCE
    source.parent.mkdir(parents=True)
    source.write_bytes(decode_kernel.SOURCE.read_bytes())
    monkeypatch.setenv("CC", compiler)
    assert said in str(hatch_build.compile_library(tmp_path))
    assert list(source.parent.iterdir()) == [source]
