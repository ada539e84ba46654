"""A batch, step by step."""

import pytest
from support.sequences import BLOCK, GREEDY, endless_model, random_ids, reference

from randygpt.model.sampling import Sampling
from server.batch import Batch
from server.models import LoadedModel
from server.sequence import Request, Sequence

CHUNK = 8


def batch_of(model: LoadedModel) -> Batch:
    """Return an empty batch with small prefill chunks."""
    decoder = model.language_model.decoder
    return Batch(decoder, model.cache, prefill_tokens=CHUNK, idle_prefill_tokens=CHUNK)


def sequence_of(prompt: list[int], sampling: Sampling = GREEDY, *, key: int | None = None) -> Sequence:
    return Request(endless_model(), [(prompt, sampling)], key=key).sequences[0]


def generated(sequence: Sequence) -> list[int]:
    return [token.id for token in sequence.pending_tokens]


def test_long_prompt_does_not_stall_decoding() -> None:
    batch, early, late = batch_of(endless_model()), sequence_of([5]), sequence_of(random_ids(30, seed=1))
    batch.add(early)
    batch.step()
    batch.add(late)
    counts = []
    for _ in range(5):
        batch.step()
        counts.append((len(early.pending_tokens), len(late.pending_tokens)))
    assert counts == [(2, 0), (3, 0), (4, 0), (5, 1), (6, 2)]


@pytest.mark.parametrize("steps", [0, 1, 2, 6])
def test_sequence_continues_in_another_batch(steps: int) -> None:
    """Detach before, during and after its prefill; the other batch is still in the prefill of its own sequence."""
    prompts = [random_ids(30, seed=1), random_ids(15, seed=2)]
    source, target = (batch_of(endless_model()) for _ in range(2))
    resident, migrant = (sequence_of(prompt) for prompt in prompts)
    source.add(migrant)
    for _ in range(steps):
        source.step()
    target.add(resident)
    assert source.detach() is migrant
    assert not source.sequences
    assert source.step() == []
    target.add(migrant)
    while target.sequences:
        target.step()
    for prompt, sequence in zip(prompts, (resident, migrant), strict=True):
        assert generated(sequence) == reference(endless_model(), prompt, GREEDY)


def test_full_context_restarts_without_losing_its_slot() -> None:
    sampling = Sampling(max_tokens=2 * BLOCK, temperature=0)
    batch, prompts = batch_of(endless_model()), [[5], random_ids(BLOCK - 3, seed=1), [6]]
    sequences = [sequence_of(prompt, sampling) for prompt in prompts]
    for sequence in sequences:
        batch.add(sequence)
    while batch.sequences:
        unfinished = [sequence for sequence in sequences if not sequence.finish]
        assert {*batch.sequences} == {*unfinished}
        batch.step()
    for prompt, sequence in zip(prompts, sequences, strict=True):
        assert generated(sequence) == reference(endless_model(), prompt, sampling)


def test_keys_take_turns_at_the_prefill() -> None:
    batch = batch_of(endless_model())
    flood = [sequence_of(random_ids(10 * CHUNK, seed=row), key=1) for row in range(3)]
    for sequence in flood:
        batch.add(sequence)
    batch.step()
    late = [sequence_of(random_ids(CHUNK, seed=9), key=2), sequence_of(random_ids(2 * CHUNK, seed=8), key=2)]
    for sequence in late:
        batch.add(sequence)
    counts = []
    for _ in range(8):
        batch.step()
        counts.append([len(sequence.pending_tokens) for sequence in (*flood, *late)])
    assert [each[:3] for each in counts] == [[0, 0, 0]] * 8
    assert [min(each[3], 1) for each in counts][2:] == [1] * 6  # within three steps
    assert counts[-1][4]
    while batch.sequences:
        batch.step()
    for sequence, seed, length in zip((*flood, *late), (0, 1, 2, 9, 8), (80, 80, 80, 8, 16), strict=True):
        assert generated(sequence) == reference(endless_model(), random_ids(length, seed=seed), GREEDY)
