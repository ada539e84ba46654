"""The engine: batching does not change what a sequence generates."""

import asyncio
import contextlib
import threading
from dataclasses import replace

import numpy as np
import pytest
from support.models import CONFIG, decoder_of, endless
from support.sequences import (
    BLOCK,
    ENDLESS,
    GREEDY,
    WAIT_S,
    complete,
    drain,
    endless_model,
    gated_model,
    random_ids,
    reference,
    tokens_of,
)

from randygpt.language_model import LanguageModel
from randygpt.model.config import ModelConfig
from randygpt.model.decoder import Decoder, KVCache
from randygpt.model.gpt import GPT
from randygpt.model.sampling import Continuation, Sampling
from randygpt.model.tokenizer import CharTokenizer
from server.engine import Engine
from server.models import LoadedModel


def load(engine: Engine) -> tuple[int, int]:
    return engine.running, engine.waiting


@pytest.mark.parametrize("temperature", [0, 0.9])
async def test_batching_does_not_change_any_sequence(temperature: float) -> None:
    model = endless_model()
    cases = [
        (random_ids(7 * row % 300, seed=row), Sampling(max_tokens=3 + 11 * row % 90, temperature=temperature, seed=row))
        for row in range(40)
    ]
    cases += [([5], replace(GREEDY, max_tokens=2 * BLOCK)), ([], replace(GREEDY, top_k=3, temperature=1, seed=1))]
    cases += [([5, 6], replace(GREEDY, repeat_penalty=1.3, max_tokens=2 * BLOCK)), ([7], Sampling(seed=3, min_p=0.2))]
    expected = [reference(model, *case) for case in cases]
    for threads in (1, 2):
        with contextlib.closing(Engine(threads=threads)) as engine:
            assert await asyncio.gather(*(tokens_of(engine, model, *case) for case in cases)) == expected


async def test_full_batch_of_a_larger_model_is_exact_up_to_ties(engine: Engine) -> None:
    """Batched and single products round differently, which may decide between two nearly equal logits."""
    config = ModelConfig.from_preset("xs", vocab_size=500)
    weights = np.random.default_rng(3).standard_normal(config.parameter_count, dtype=np.float32) * np.float32(0.1)
    tokenizer = CharTokenizer([chr(point) for point in range(33, 533)])
    language_model = LanguageModel(decoder=Decoder.from_flat(config, weights), tokenizer=tokenizer)
    model = LoadedModel(language_model=language_model, release_id=None, label="xs")
    sampling = replace(GREEDY, max_tokens=20, ignore_eos=True)
    prompts = [np.random.default_rng(row).integers(2, 500, size=1 + 4 * row).tolist() for row in range(32)]
    found = await asyncio.gather(*(tokens_of(engine, model, prompt, sampling) for prompt in prompts))
    expected = [reference_up_to_a_tie(language_model.decoder, prompt, sampling) for prompt in prompts]
    assert [tokens[: len(sure)] for tokens, sure in zip(found, expected, strict=True)] == expected
    assert {len(tokens) for tokens in found} == {20}
    assert sum(map(len, expected)) > 500


def reference_up_to_a_tie(decoder: Decoder, prompt: list[int], sampling: Sampling) -> list[int]:
    """Return the greedy tokens up to where the two best logits differ by less than 1e-4."""
    text, cache, ids = Continuation(prompt, sampling, decoder.config.block_size), KVCache(decoder.config), []
    while text.finish is None:
        logits = decoder.next_logits(text.new_ids, cache)
        second, first = np.sort(logits)[-2:]
        if first - second < 1e-4:
            break
        ids.append(int(logits.argmax()))
        text.append(ids[-1])
    return ids


async def test_tokens_stream_and_the_last_has_the_finish_reason(engine: Engine) -> None:
    model = endless_model()
    tokens, finishes = [], []
    with engine.submit(model, [([5, 6], GREEDY)]) as request:
        while not request.finished:
            for output in await request.next_outputs():
                tokens += [token.id for token in output.tokens]
                finishes.append(output.finish)
    assert tokens == reference(model, [5, 6], GREEDY)
    assert finishes[-1] == "length"
    assert set(finishes[:-1]) <= {None}
    assert load(engine) == (0, 0)


async def test_unread_outputs_are_joined(engine: Engine) -> None:
    model, sampling = endless_model(), replace(GREEDY, max_tokens=50)
    with engine.submit(model, [([5], sampling)]) as slow_reader:
        await tokens_of(engine, model, [6], replace(GREEDY, max_tokens=200))
        [output] = await slow_reader.next_outputs()
    assert [token.id for token in output.tokens] == reference(model, [5], sampling)
    assert output.finish == "length"


async def test_end_token_stops_a_sequence_unless_ignored(engine: Engine) -> None:
    gpt = GPT.initialize(CONFIG, seed=1)  # nearly uniform: the end token comes soon
    model = LoadedModel(
        language_model=LanguageModel(decoder=decoder_of(gpt), tokenizer=endless().tokenizer),
        release_id=None,
        label="brief",
    )
    sampling = Sampling(max_tokens=1000, temperature=1.0, seed=3)
    _, tokens, finish = await complete(engine, model, [5], sampling)
    assert [token.id for token in tokens] == reference(model, [5], sampling)
    assert finish == "stop"
    _, more, finish = await complete(engine, model, [5], replace(sampling, ignore_eos=True))
    assert (len(more), finish) == (1000, "length")
    assert [token.id for token in more[: len(tokens)]] == [token.id for token in tokens]


async def test_logprobs_are_reported_only_where_requested(engine: Engine) -> None:
    model = endless_model()
    (_, tokens, _), (_, plain, _), (_, bare, _) = await asyncio.gather(
        complete(engine, model, [5, 6], GREEDY, logprobs=3),
        complete(engine, model, [5, 6], GREEDY),
        complete(engine, model, [5, 6], GREEDY, logprobs=0),
    )
    assert [token.id for token in tokens] == [token.id for token in plain]
    assert {token.top_logprobs for token in [*plain, *bare]} == {()}
    logits = model.language_model.decoder.logits([5, 6]).astype(np.float64)[-1]
    expected = logits - np.log(np.exp(logits).sum())
    best = np.argsort(-expected)[:3]
    assert [other for other, _ in tokens[0].top_logprobs] == best.tolist()
    np.testing.assert_allclose([value for _, value in tokens[0].top_logprobs], expected[best], atol=1e-4)
    assert tokens[0].logprob == tokens[0].top_logprobs[0][1]
    assert bare[0].logprob == pytest.approx(tokens[0].logprob, abs=1e-6)  # the batch size shows in the last digit


async def test_second_key_is_served_while_the_first_fills_the_queue(engine: Engine) -> None:
    model, long = endless_model(max_slots=4), replace(GREEDY, max_tokens=ENDLESS)
    with engine.submit(model, [([row + 2], long) for row in range(40)], key=1) as flood:
        await flood.next_outputs()
        async with asyncio.timeout(WAIT_S):
            for prompt in range(2, 6):
                with engine.submit(model, [([prompt], GREEDY)], key=2, stream=False) as request:
                    [output] = await request.next_outputs()
                assert [token.id for token in output.tokens] == reference(model, [prompt], GREEDY)
    assert load(engine) == (0, 0)
    await engine.heartbeat()  # so that no step outlives the event loop


async def test_preempted_sequences_continue_exactly(engine: Engine) -> None:
    model, sampling = endless_model(max_slots=4), replace(GREEDY, max_tokens=60)
    prompts = [random_ids(3 * row, seed=row) for row in range(24)]  # each key has eight, the first takes all slots
    found = await asyncio.gather(
        *(complete(engine, model, prompt, sampling, key=row // 8) for row, prompt in enumerate(prompts))
    )
    assert [[token.id for token in output.tokens] for output in found] == [
        reference(model, prompt, sampling) for prompt in prompts
    ]


async def test_saved_kv_entries_are_limited(engine: Engine) -> None:
    model, sampling, slots, keys = endless_model(max_slots=32), replace(GREEDY, max_tokens=4000), 32, 8
    scheduler, most, requests = engine._scheduler, 0, []
    async with asyncio.timeout(WAIT_S):
        for key in range(keys):  # each key comes when the others have equal shares
            requests.append(engine.submit(model, [([2], sampling)] * slots, key=key))
            for _ in range(20):
                await engine.heartbeat()
                with scheduler.changed:
                    most = max(most, sum(each.migrated_kv is not None for each in scheduler._queue))
            assert scheduler._slots_by_key()[key]
    for request in requests:
        request.close()
    while any(engine.loads):
        await engine.heartbeat()
    assert slots // 2 < most <= slots + keys


async def test_sequences_beyond_the_slots_wait(engine: Engine) -> None:
    model = endless_model(max_slots=3)
    assert len(model.cache.lengths) == 3
    found = await asyncio.gather(*(tokens_of(engine, model, [row + 2], GREEDY) for row in range(20)))
    assert found == [reference(model, [row + 2], GREEDY) for row in range(20)]


async def test_running_and_waiting_sequences_are_counted(engine: Engine, gate: threading.Event) -> None:
    model = gated_model(gate, max_slots=3)
    with engine.submit(model, [([row + 2], GREEDY) for row in range(5)]) as request:
        async with asyncio.timeout(WAIT_S):
            while engine.waiting > 2:  # noqa: ASYNC110 (there is no event for it)
                await asyncio.sleep(0.001)
        assert load(engine) == (3, 2)
        gate.set()
        await drain(request)
    assert load(engine) == (0, 0)


async def test_two_models_decode_concurrently(engine: Engine) -> None:
    pair = [endless_model(), endless_model()]
    pair[1].language_model.decoder._wpe[:] = 0
    sampling = replace(GREEDY, max_tokens=100)
    found = await asyncio.gather(*(tokens_of(engine, pair[row % 2], [5, 6], sampling) for row in range(6)))
    expected = [reference(model, [5, 6], sampling) for model in pair]
    assert expected[0] != expected[1]
    assert found == expected * 3


async def test_leaving_a_request_frees_its_slot(engine: Engine) -> None:
    model = endless_model(max_slots=1)
    with engine.submit(model, [([5], replace(GREEDY, max_tokens=ENDLESS))]) as request:
        await request.next_outputs()
    assert load(engine) == (0, 0)
    async with asyncio.timeout(WAIT_S):
        assert len(await tokens_of(engine, model, [5], GREEDY)) == 20


async def test_cancelled_request_leaves_the_queue(gate: threading.Event, engine: Engine) -> None:
    model = gated_model(gate)
    cancelled = asyncio.create_task(complete(engine, model, [5], replace(GREEDY, max_tokens=ENDLESS)))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert load(engine) == (0, 0)
    gate.set()
    assert len(await tokens_of(engine, model, [5], GREEDY)) == 20


@pytest.mark.parametrize("count", [1, 12])
async def test_failed_step_fails_its_batch_only(engine: Engine, count: int) -> None:
    broken = endless_model()
    broken.language_model.decoder._layers = None  # type: ignore[assignment]
    failed = await asyncio.gather(
        *(complete(engine, broken, [5], GREEDY) for _ in range(count)), return_exceptions=True
    )
    assert [type(error) for error in failed] == [TypeError] * count
    assert load(engine) == (0, 0)
    assert len(await tokens_of(engine, endless_model(), [5], GREEDY)) == 20


async def test_one_sequence_of_a_request_can_be_cancelled(engine: Engine) -> None:
    model = endless_model(max_slots=2)
    prompts = [([5], replace(GREEDY, max_tokens=ENDLESS)), ([6], GREEDY), ([7], GREEDY)]
    with engine.submit(model, prompts) as request:
        request.cancel(0)
        found: dict[int, list[int]] = {1: [], 2: []}
        while not request.finished:
            for output in await request.next_outputs():
                found[output.sequence_index] += [token.id for token in output.tokens]
    assert found == {1: reference(model, [6], GREEDY), 2: reference(model, [7], GREEDY)}
