"""Numpy decoder: against the torch network, with and without a KV cache, and at the context limit."""

import numpy as np
import pytest
import torch
from support.models import CONFIG, decoder_of

from randygpt.model.decoder import Decoder, KVCache
from randygpt.model.gpt import GPT

BLOCK = CONFIG.block_size


def lively() -> GPT:
    """Return a model whose weights are so large that logits differ by more than any tolerance."""
    return GPT(CONFIG, torch.randn(CONFIG.parameter_count, generator=torch.Generator().manual_seed(5)) * 0.2)


def some_ids(length: int, *, seed: int = 7) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(CONFIG.vocab_size, size=length)]


@pytest.fixture(params=["numpy", "kernel"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    decoder = decoder_of(lively())
    if request.param == "numpy":
        decoder._kernel = None
    elif decoder._kernel is None:
        pytest.skip("the decode kernel is not compiled: no C compiler")
    return decoder


@pytest.mark.parametrize("length", [1, 2, 40, BLOCK])
@torch.inference_mode()
def test_logits_match_the_torch_network(decoder: Decoder, length: int) -> None:
    ids = some_ids(length)
    expected = lively()(torch.tensor([ids]))[0].numpy()
    assert expected.std() > 0.5
    logits = decoder.logits(ids)
    assert (logits.shape, logits.dtype.name) == ((length, CONFIG.vocab_size), "float32")
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prompt", [1, 2, 100, BLOCK - 1])
def test_cached_decoding_matches_full_forward(decoder: Decoder, prompt: int) -> None:
    ids = some_ids(BLOCK)
    whole = decoder.logits(ids)
    cache = KVCache(CONFIG)
    np.testing.assert_allclose(decoder.next_logits(ids[:prompt], cache), whole[prompt - 1], rtol=0, atol=1e-5)
    for position in range(prompt, BLOCK):
        np.testing.assert_allclose(decoder.next_logits([ids[position]], cache), whole[position], rtol=0, atol=1e-5)
    assert cache.lengths.tolist() == [BLOCK]


def test_prefill_in_several_chunks(decoder: Decoder) -> None:
    ids = some_ids(60)
    cache = KVCache(CONFIG)
    for part in (ids[:7], ids[7:8], ids[8:50]):
        decoder.next_logits(part, cache)
    last = decoder.next_logits(ids[50:], cache)
    np.testing.assert_allclose(last, decoder.logits(ids)[-1], rtol=0, atol=1e-5)


def test_a_reset_slot_behaves_like_a_new_one(decoder: Decoder) -> None:
    ids, cache = some_ids(20), KVCache(CONFIG)
    decoder.next_logits(some_ids(50, seed=8), cache)
    cache.lengths[0] = 0
    np.testing.assert_allclose(decoder.next_logits(ids, cache), decoder.logits(ids)[-1], rtol=0, atol=1e-5)


def test_weights_are_copied() -> None:
    weights = lively().flat.numpy()
    decoder = Decoder.from_flat(CONFIG, weights)
    before = decoder.logits([2, 3])
    weights *= 0.5
    assert np.array_equal(decoder.logits([2, 3]), before)


@pytest.mark.parametrize(
    ("before", "length"),
    [(0, BLOCK + 1), (BLOCK, 1), (10, BLOCK - 9), (0, 0)],
    ids=["long prompt", "full cache", "prompt and cache", "no tokens"],
)
def test_tokens_beyond_the_context_are_refused(decoder: Decoder, before: int, length: int) -> None:
    cache = KVCache(CONFIG)
    if before:
        decoder.next_logits(some_ids(before), cache)
    with pytest.raises(ValueError, match=f"{length} tokens after {before} do not fit a context length of {BLOCK}"):
        decoder.next_logits(some_ids(length), cache)
    assert cache.lengths.tolist() == [before]


@pytest.mark.parametrize("lengths", [[7, 7, 7], [1, 30, 12], [200, 3, 90, 255]])
def test_batched_sequences_match_single_ones(decoder: Decoder, lengths: list[int]) -> None:
    texts = [some_ids(length + 1, seed=length) for length in lengths]
    cache, after = KVCache(CONFIG, len(texts) + 2), len(texts)
    for slot, text in enumerate(texts):
        decoder.next_logits(text[:-1], cache, slot)
    late = some_ids(20, seed=99)
    decoder.next_logits(late[:5], cache, after + 1)
    logits = decoder.forward(cache, [text[-1] for text in texts], [(after, late[:4]), (after + 1, late[5:])])
    for row, text in zip(logits, [*texts, late[:4], late], strict=True):
        np.testing.assert_allclose(row, decoder.logits(text)[-1], rtol=0, atol=1e-5)
    assert cache.lengths.tolist() == [*(length + 1 for length in lengths), 4, 20]


def test_moving_a_sequence_to_another_slot(decoder: Decoder) -> None:
    text, cache = some_ids(41), KVCache(CONFIG, 3)
    decoder.next_logits(some_ids(100, seed=3), cache, 0)
    decoder.next_logits(text[:40], cache, 2)
    cache.move(2, 0)
    np.testing.assert_allclose(decoder.forward(cache, text[40:], [])[0], decoder.logits(text)[-1], rtol=0, atol=1e-5)
    assert cache.lengths.tolist() == [41, 0, 40]


@torch.inference_mode()
def test_softmax_does_not_overflow() -> None:
    model = lively()
    for name, weights in model.named_parameters():
        if name.endswith("qkv"):
            weights[: 2 * CONFIG.n_embd] *= 30
    ids = some_ids(40)
    logits = decoder_of(model).logits(ids)
    np.testing.assert_allclose(logits, model(torch.tensor([ids]))[0].numpy(), rtol=0, atol=1e-2)
