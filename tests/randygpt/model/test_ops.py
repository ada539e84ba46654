"""Custom autograd functions: gradients, dropout masks, and attention against torch."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from randygpt.model.ops import Dropout, causal_attention, norm, squared_relu


def some(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(probability: float = 0.5, *, seed: int = 1, iteration: int = 0, sequences: range = range(4)) -> Dropout:
    return Dropout(probability).begin(seed=seed, iteration=iteration, sequences=sequences)


def test_gradients_match_numerical_gradients() -> None:
    x = some(3, 5, 8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: norm(x, torch.float64), (x,))
    assert torch.autograd.gradcheck(squared_relu, (x,))


def test_values_match_torch() -> None:
    x = some(3, 5, 8)
    torch.testing.assert_close(norm(x), functional.rms_norm(x, (8,), eps=1e-5))
    torch.testing.assert_close(squared_relu(x), x.relu().square(), rtol=0, atol=0)
    assert norm(x, torch.bfloat16).dtype == torch.bfloat16


def attention(qkv: Tensor, n_head: int) -> Tensor:
    batch, length, width = qkv.shape
    query, keys, values = qkv.view(batch, length, 3, n_head, -1).permute(2, 0, 3, 1, 4)
    output = functional.scaled_dot_product_attention(query, keys, values, is_causal=True)
    return output.transpose(1, 2).reshape(batch, length, width // 3)


@pytest.mark.parametrize("length", [1, 2, 33])
@pytest.mark.parametrize(
    ("batch", "n_head"), [(1, 1), (9, 4), (16, 4)]
)  # 36 (sequence, head) pairs do not fill the last slice
def test_bf16_attention_matches_torch(batch: int, n_head: int, length: int) -> None:
    qkv = some(batch, length, 3 * n_head * 8) * 2
    grad = some(batch, length, n_head * 8, seed=1)
    found: list[torch.Tensor] = []
    expected: list[torch.Tensor] = []
    for dtype, kept, function in ((torch.bfloat16, found, causal_attention), (torch.float32, expected, attention)):
        x = qkv.to(torch.bfloat16).to(dtype).requires_grad_()
        y = function(x, n_head)
        assert y.dtype == dtype
        y.backward(grad.to(dtype))
        assert x.grad is not None
        kept += [y.detach().float(), x.grad.float()]
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < 0.01 * other.norm()


def test_bf16_attention_is_causal() -> None:
    qkv = some(2, 20, 48, dtype=torch.bfloat16)
    changed = qkv.clone()
    changed[:, 11] += 1
    before, after = causal_attention(qkv, 2), causal_attention(changed, 2)
    assert torch.equal(before[:, :11], after[:, :11])
    assert not torch.equal(before[:, 11:], after[:, 11:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.75])
def test_dropout_rate_and_scale(probability: float, dtype: torch.dtype) -> None:
    dropped = seeded(probability)(
        torch.ones(4, 501, 101, dtype=dtype)
    )  # 50,601 elements: not a multiple of the four per random word
    count = dropped.numel()
    zeros = int((dropped == 0).sum())
    deviation = (count * probability * (1 - probability)) ** 0.5
    assert abs(zeros - count * probability) < 5 * deviation
    assert dropped.dtype == dtype
    assert dropped.max().item() == pytest.approx(1 / (1 - probability), rel=0.01)


def test_neighbours_are_dropped_independently() -> None:
    zero = seeded()(torch.ones(4, 1000, 100)).flatten() == 0
    for distance in (1, 2, 3, 4, 5, 100_000):
        together = (zero[:-distance] & zero[distance:]).float().mean().item()
        assert together == pytest.approx(0.25, abs=0.005)


def test_mask_depends_on_seed_iteration_and_sequence() -> None:
    ones = torch.ones(4, 10, 10)
    first = seeded()(ones)
    torch.manual_seed(99)
    assert torch.equal(seeded()(ones), first)
    for other in (seeded(seed=2), seeded(iteration=1), seeded(sequences=range(4, 8)), seeded(seed=2**31 + 1)):
        assert not torch.equal(other(ones), first)
    assert len({tuple(mask.flatten().tolist()) for mask in first}) == 4


def test_mask_does_not_depend_on_micro_batches() -> None:
    ones = torch.ones(4, 10, 10)
    whole, head, tail = seeded(), seeded(sequences=range(3)), seeded(sequences=range(3, 4))
    for _ in range(2):  # an iteration's second mask differs from its first
        assert torch.equal(torch.cat([head(ones[:3]), tail(ones[3:])]), whole(ones))
    assert not torch.equal(seeded()(ones), whole(ones))


def test_dropped_elements_have_no_gradient() -> None:
    x = torch.ones(4, 10, 10, requires_grad=True)
    dropped = seeded()(x)
    dropped.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, dropped == 0)
