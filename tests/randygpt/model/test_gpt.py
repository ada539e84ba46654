"""Torch network: against a plain reference, and as views of one flat vector."""

import math
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support import compile_probe
from support.models import CONFIG
from torch import Tensor

from randygpt.model.config import ModelConfig
from randygpt.model.gpt import GPT, gradient_views
from randygpt.model.layout import tensor_shapes

Array = npt.NDArray[np.float64]


def lively(config: ModelConfig = CONFIG, *, dropout: float = 0.0) -> GPT:
    """Return a model whose weights are so large that logits differ by more than any tolerance."""
    flat = torch.randn(config.parameter_count, generator=torch.Generator().manual_seed(5)) * 0.2
    return GPT(config, flat, dropout=dropout)


def some_ids(batch: int, length: int) -> Tensor:
    return torch.randint(CONFIG.vocab_size, (batch, length), generator=torch.Generator().manual_seed(7))


def norm(x: Array) -> Array:
    scaled: Array = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5)
    return scaled


def reference(model: GPT, ids: list[int]) -> Array:
    """Return logits (T, V), computed naively in double precision."""
    weights, start = {}, 0
    flat = model.flat.double().numpy()
    for name, (rows, columns) in tensor_shapes(model.config).items():
        weights[name] = flat[start : start + rows * columns].reshape(rows, columns)
        start += rows * columns
    x: Array = weights["wte"][ids] + weights["wpe"][: len(ids)]
    size = model.config.n_embd // model.config.n_head
    for layer in range(model.config.n_layer):
        wq, wk, wv, wo, fc1, fc2 = (weights[f"layer{layer}.{name}"] for name in ("wq", "wk", "wv", "wo", "fc1", "fc2"))
        query, key, value = norm(x) @ wq.T, norm(x) @ wk.T, norm(x) @ wv.T
        output = np.zeros_like(x)
        for head in range(model.config.n_head):
            part = slice(head * size, (head + 1) * size)
            for t in range(len(ids)):
                scores = key[: t + 1, part] @ query[t, part] / math.sqrt(size)
                weighted = np.exp(scores - scores.max())
                output[t, part] = weighted / weighted.sum() @ value[: t + 1, part]
        x = x + output @ wo.T
        x = x + np.square(np.maximum(norm(x) @ fc1.T, 0)) @ fc2.T
    return np.asarray(x @ weights["lm_head"].T)


@torch.inference_mode()
def test_logits_match_a_plain_reference() -> None:
    model = lively()
    ids = some_ids(1, 40)
    logits = model(ids)
    assert logits.shape == (1, 40, CONFIG.vocab_size)
    assert logits.std() > 0.5
    np.testing.assert_allclose(logits[0].numpy(), reference(model, ids[0].tolist()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("position", [1, 17, 59])
@torch.inference_mode()
def test_attention_is_causal(position: int) -> None:
    model = lively()
    ids = some_ids(1, 60)
    changed = ids.clone()
    changed[0, position] = (ids[0, position] + 1) % CONFIG.vocab_size
    before, after = model(ids)[0], model(changed)[0]
    assert torch.equal(before[:position], after[:position])
    assert not torch.equal(before[position], after[position])


@torch.inference_mode()
def test_sequences_of_a_batch_are_independent() -> None:
    model = lively()
    ids = some_ids(3, 30)
    torch.testing.assert_close(model(ids)[1:2], model(ids[1:2]), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_parameters_are_views_of_the_flat_vector() -> None:
    model = lively()
    ids = some_ids(1, 8)
    before = model(ids)
    model.flat.mul_(0.5)
    assert not torch.equal(model(ids), before)
    gathered = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert torch.equal(gathered, model.flat)


def test_gradients_are_gathered_in_file_order() -> None:
    model, ids = lively(), some_ids(2, 16)
    separate = torch.autograd.grad(model(ids).square().mean(), list(model.parameters()))
    gradient = torch.zeros_like(model.flat)
    gradient_views(model, gradient)
    model(ids).square().mean().backward()
    torch.testing.assert_close(gradient, torch.cat([part.flatten() for part in separate]))
    assert gradient.abs().max() > 0


def test_initial_weights_depend_only_on_the_seed() -> None:
    first = GPT.initialize(CONFIG, seed=1).flat
    torch.manual_seed(99)
    assert torch.equal(GPT.initialize(CONFIG, seed=1, dropout=0.1).flat, first)
    assert not torch.equal(GPT.initialize(CONFIG, seed=2).flat, first)


def test_initial_weights_have_gpt2_scales() -> None:
    config = ModelConfig(n_embd=64, n_head=2, n_layer=8, vocab_size=100)
    flat, start = GPT.initialize(config, seed=1).flat, 0
    for name, (rows, columns) in tensor_shapes(config).items():
        values = flat[start : start + rows * columns]
        start += rows * columns
        expected = 0.02 / 4 if name.endswith((".wo", ".fc2")) else 0.02  # sqrt(2 * 8 layers)
        assert values.std().item() == pytest.approx(expected, rel=0.06), name
        assert abs(values.mean().item()) < expected / 10, name


@torch.inference_mode()
def test_dropout_acts_only_in_training() -> None:
    ids = some_ids(1, 16)
    model, plain = lively(dropout=0.5), lively()
    model.dropout.begin(seed=1, iteration=0, sequences=range(1))
    assert not torch.equal(model.train()(ids), model(ids))
    assert torch.equal(model.eval()(ids), plain.eval()(ids))
    assert torch.equal(plain.train()(ids), plain(ids))


@pytest.mark.full
def test_network_compiles_to_one_graph() -> None:
    done = subprocess.run([sys.executable, compile_probe.__file__], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "torch.float32\ntorch.bfloat16\n"), done.stderr
