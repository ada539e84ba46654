"""Writing many texts side by side: each as if it were alone, however they come and go."""

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest
from support.models import CONFIG, decoder_of, endless
from support.texts import BLOCK, GREEDY, NEVER_DONE, WAIT_S, alone, drain, endless_model, gated_model, some_ids, written

from randygpt.language_model import LanguageModel
from randygpt.model.config import ModelConfig
from randygpt.model.decoder import Decoder, KVCache
from randygpt.model.gpt import GPT
from randygpt.model.sampling import Continuation, Sampling
from randygpt.model.tokenizer import CharTokenizer
from server import models
from server.engine import Engine
from server.errors import Busy
from server.models import LoadedModel


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("temperature", [0, 0.9])
async def test_each_of_many_texts_is_as_if_it_were_alone(threads: int, temperature: float) -> None:
    loaded = endless_model()
    cases = [
        (some_ids(7 * row % 300, seed=row), Sampling(max_tokens=3 + 11 * row % 90, temperature=temperature, seed=row))
        for row in range(40)
    ]
    cases += [([5], replace(GREEDY, max_tokens=2 * BLOCK)), ([], replace(GREEDY, top_k=3, temperature=1, seed=1))]
    engine = Engine(threads=threads)
    try:
        texts = await asyncio.gather(*(written(engine, loaded, *case) for case in cases))
    finally:
        engine.close()
    assert texts == [alone(loaded, *case) for case in cases]


async def test_each_of_32_greedy_texts_of_a_larger_model_is_as_if_it_were_alone(engine: Engine) -> None:
    config = ModelConfig.from_preset("xs", vocab_size=500)
    weights = np.random.default_rng(3).standard_normal(config.parameter_count, dtype=np.float32) * np.float32(0.1)
    tokenizer = CharTokenizer([chr(point) for point in range(33, 533)])
    model = LanguageModel(decoder=Decoder.from_flat(config, weights), tokenizer=tokenizer)
    loaded = LoadedModel(language_model=model, release_id=None, label="xs")
    sampling = replace(GREEDY, max_tokens=60, ignore_eos=True)
    prompts = [np.random.default_rng(row).integers(2, 500, size=1 + 8 * row).tolist() for row in range(32)]
    texts = await asyncio.gather(*(written(engine, loaded, prompt, sampling) for prompt in prompts))
    for prompt, text in zip(prompts, texts, strict=True):
        sure = until_a_tie(model.decoder, prompt, sampling)
        assert text[: len(sure)] == sure
        assert len(text) == 60
    assert sum(len(until_a_tie(model.decoder, prompt, sampling)) for prompt in prompts) > 1500


def until_a_tie(decoder: Decoder, prompt: list[int], sampling: Sampling) -> list[int]:
    """What a model writes greedily, alone, up to where its two best logits differ by less than 1e-4."""
    text, cache, ids = Continuation(prompt, sampling, decoder.config.block_size), KVCache(decoder.config), []
    while text.finish is None:
        if text.new_ids is text.context:
            cache.lengths[0] = 0
        logits = decoder.next_logits(text.new_ids, cache)
        second, first = np.sort(logits)[-2:]
        if first - second < 1e-4:
            break
        ids.append(int(logits.argmax()))
        text.append(ids[-1])
    return ids


async def test_tokens_come_as_they_are_drawn_the_last_with_why_it_ends(engine: Engine) -> None:
    loaded = endless_model()
    tokens, finishes = [], []
    with engine.order(loaded, [([5, 6], GREEDY)]) as order:
        while order.is_open:
            for piece in await order.next():
                tokens += [token.id for token in piece.tokens]
                finishes.append(piece.finish)
    assert tokens == alone(loaded, [5, 6], GREEDY)
    assert finishes[-1] == "length"
    assert set(finishes[:-1]) <= {None}
    assert engine.count == 0


async def test_a_text_that_ends_by_itself(engine: Engine) -> None:
    model = GPT.initialize(CONFIG, seed=1)  # every token about as likely as any other
    loaded = LoadedModel(
        language_model=LanguageModel(decoder=decoder_of(model), tokenizer=endless().tokenizer),
        release_id=None,
        label="brief",
    )
    sampling = Sampling(max_tokens=1000, temperature=1.0, seed=3)
    _, tokens, finish = await engine.complete(loaded, [5], sampling)
    assert [token.id for token in tokens] == alone(loaded, [5], sampling)
    assert finish == "stop"
    _, on, finish = await engine.complete(loaded, [5], replace(sampling, ignore_eos=True))
    assert (len(on), finish) == (1000, "length")
    assert [token.id for token in on[: len(tokens)]] == [token.id for token in tokens]


async def test_log_probabilities_where_they_are_asked_for(engine: Engine) -> None:
    loaded = endless_model()
    (_, tokens, _), (_, plain, _), (_, bare, _) = await asyncio.gather(
        engine.complete(loaded, [5, 6], GREEDY, logprobs=3),
        engine.complete(loaded, [5, 6], GREEDY),
        engine.complete(loaded, [5, 6], GREEDY, logprobs=0),
    )
    assert [token.id for token in tokens] == [token.id for token in plain]
    assert {token.likeliest for token in [*plain, *bare]} == {()}
    logits = loaded.language_model.decoder.logits([5, 6]).astype(np.float64)[-1]
    expected = logits - np.log(np.exp(logits).sum())
    best = np.argsort(-expected)[:3]
    assert [other for other, _ in tokens[0].likeliest] == best.tolist()
    np.testing.assert_allclose([value for _, value in tokens[0].likeliest], expected[best], atol=1e-4)
    assert tokens[0].logprob == tokens[0].likeliest[0][1]
    assert bare[0].logprob == pytest.approx(tokens[0].logprob, abs=1e-6)  # who is beside it shows in the last digit


async def test_one_too_many_is_told_so_and_the_others_are_answered(gate: threading.Event) -> None:
    engine = Engine(threads=1, max_waiting=3)
    loaded = gated_model(gate)
    prompts = [[5], [6], [7]]
    tasks = [asyncio.create_task(written(engine, loaded, prompt, GREEDY)) for prompt in prompts]
    await asyncio.sleep(0)
    assert engine.count == 3
    with pytest.raises(Busy, match="3 requests are waiting already"):
        await engine.complete(loaded, [8], GREEDY)
    gate.set()
    try:
        assert await asyncio.gather(*tasks) == [alone(loaded, prompt, GREEDY) for prompt in prompts]
        assert len(await written(engine, loaded, [8], GREEDY)) == 20
        assert engine.count == 0
    finally:
        engine.close()


async def test_more_texts_than_slots_wait_their_turn(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    monkeypatch.setattr(models, "SLOTS", 3)
    loaded = endless_model()
    assert len(loaded.cache.lengths) == 3
    texts = await asyncio.gather(*(written(engine, loaded, [row + 2], GREEDY) for row in range(20)))
    assert texts == [alone(loaded, [row + 2], GREEDY) for row in range(20)]


async def test_those_without_a_place_are_counted(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, gate: threading.Event
) -> None:
    monkeypatch.setattr(models, "SLOTS", 3)
    loaded = gated_model(gate)
    with engine.order(loaded, [([row + 2], GREEDY) for row in range(5)]) as order:
        async with asyncio.timeout(WAIT_S):
            while engine.waiting > 2:  # noqa: ASYNC110 (there is nothing to wait on)
                await asyncio.sleep(0.001)
        assert (engine.count, engine.waiting) == (5, 2)
        gate.set()
        await drain(order)
    assert (engine.count, engine.waiting) == (0, 0)


async def test_models_write_side_by_side(engine: Engine) -> None:
    pair = [endless_model(), endless_model()]
    pair[1].language_model.decoder._position[:] = 0
    sampling = replace(GREEDY, max_tokens=100)
    texts = await asyncio.gather(*(written(engine, pair[row % 2], [5, 6], sampling) for row in range(6)))
    expected = [alone(loaded, [5, 6], sampling) for loaded in pair]
    assert expected[0] != expected[1]
    assert texts == expected * 3


async def test_nobody_writes_for_a_client_that_is_gone(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    monkeypatch.setattr(models, "SLOTS", 1)
    loaded = endless_model()
    with engine.order(loaded, [([5], replace(GREEDY, max_tokens=NEVER_DONE))]) as order:
        await order.next()
    assert engine.count == 0
    async with asyncio.timeout(WAIT_S):
        assert len(await written(engine, loaded, [5], GREEDY)) == 20


async def test_a_client_that_goes_while_it_waits_makes_room(gate: threading.Event, engine: Engine) -> None:
    loaded = gated_model(gate)
    gone = asyncio.create_task(engine.complete(loaded, [5], replace(GREEDY, max_tokens=NEVER_DONE)))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert engine.count == 0
    gate.set()
    assert len(await written(engine, loaded, [5], GREEDY)) == 20


@pytest.mark.parametrize("count", [1, 12])
async def test_a_failure_is_told_to_all_in_its_batch_and_to_nobody_else(engine: Engine, count: int) -> None:
    broken = endless_model()
    broken.language_model.decoder._layers = None  # type: ignore[assignment]
    failed = await asyncio.gather(*(engine.complete(broken, [5], GREEDY) for _ in range(count)), return_exceptions=True)
    assert [type(error) for error in failed] == [TypeError] * count
    assert engine.count == 0
    assert len(await written(engine, endless_model(), [5], GREEDY)) == 20


async def test_one_text_of_an_order_may_be_given_up(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    monkeypatch.setattr(models, "SLOTS", 2)
    loaded = endless_model()
    with engine.order(loaded, [([5], replace(GREEDY, max_tokens=NEVER_DONE)), ([6], GREEDY), ([7], GREEDY)]) as order:
        order.give_up(0)
        found: dict[int, list[int]] = {1: [], 2: []}
        while order.is_open:
            for piece in await order.next():
                found[piece.number] += [token.id for token in piece.tokens]
    assert found == {1: alone(loaded, [6], GREEDY), 2: alone(loaded, [7], GREEDY)}
