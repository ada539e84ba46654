"""The texts of one batch, step by step."""

import pytest
from support.texts import BLOCK, GREEDY, alone, endless_model, some_ids

from randygpt.model.sampling import Continuation
from server import batch as batch_module
from server.models import LoadedModel


def batch_of(loaded: LoadedModel) -> batch_module.Batch[batch_module.Writing]:
    return batch_module.Batch(loaded.language_model.decoder, loaded.cache)


def test_a_long_prompt_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "PREFILL_CHUNK", 8)
    loaded = endless_model()
    batch = batch_of(loaded)
    early, late = (
        batch_module.Writing(text=batch_module.Continuation(prompt, GREEDY, BLOCK))
        for prompt in ([5], some_ids(30, seed=1))
    )
    batch.join(early)
    batch.step()
    batch.join(late)
    counts = []
    for _ in range(5):
        batch.step()
        counts.append((len(early.drawn), len(late.drawn)))
    assert counts == [(2, 0), (3, 0), (4, 0), (5, 1), (6, 2)]


@pytest.mark.parametrize("steps", [0, 1, 2, 6])
def test_a_text_goes_on_in_another_batch(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Before it began, amid its prompt, or later; and behind one that is still at its prompt."""
    monkeypatch.setattr(batch_module, "PREFILL_CHUNK", 8)
    monkeypatch.setattr(batch_module, "_UNDISTURBED", 8)
    prompts = [some_ids(30, seed=1), some_ids(15, seed=2)]
    first, second = (batch_of(endless_model()) for _ in range(2))
    other, text = (batch_module.Writing(text=Continuation(prompt, GREEDY, BLOCK)) for prompt in prompts)
    first.join(text)
    for _ in range(steps):
        first.step()
    second.join(other)
    assert first.release() is text
    assert not first.writings
    assert first.step() == []
    second.join(text)
    while second.writings:
        second.step()
    for prompt, writing in zip(prompts, (other, text), strict=True):
        assert [token.id for token in writing.drawn] == alone(endless_model(), prompt, GREEDY)
