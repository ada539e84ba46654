"""Generation: prompts, seeds, end of text, context overflow and stop sequences."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.cpu import cpu_limit
from support.models import CONFIG, decoder_of

from randygpt.errors import CallerError
from randygpt.model.config import ModelConfig
from randygpt.model.gpt import GPT
from randygpt.model.sampling import Continuation, Sampling, generate, sample, until_stop
from randygpt.model.tokenizer import BOS_ID, EOS_ID

BLOCK = CONFIG.block_size
WARM = Sampling(max_tokens=40, temperature=1.0, seed=1)


def talkative(config: ModelConfig = CONFIG) -> GPT:
    """Return a model with varied output that never ends: constant dimension 0 suppresses the end token."""
    generator = torch.Generator().manual_seed(11)
    model = GPT(config, torch.randn(config.parameter_count, generator=generator) * 0.3)
    with torch.no_grad():
        model.wte.mul_(5)[:, 0] = 0
        model.wpe[:, 0] = 3
        model.lm_head.mul_(0.5)[:, 0] = 0
        model.lm_head[EOS_ID] = 0
        model.lm_head[EOS_ID, 0] = -20
        for name, weights in model.named_parameters():
            if name.endswith(("wo", "fc2")):
                weights[0] = 0
    return model


def tokens(model: GPT, prompt: list[int], sampling: Sampling) -> list[int]:
    return list(generate(decoder_of(model), prompt, sampling))


@torch.inference_mode()
def generate_without_cache(model: GPT, prompt: list[int], sampling: Sampling) -> list[int]:
    """Generate by the same rules without a cache: a full forward pass per token."""
    text = Continuation(prompt, sampling, model.config.block_size)
    context, written = prompt[-model.config.block_size :], []
    for _ in range(sampling.max_tokens):
        token = sample(model(torch.tensor([context]))[0, -1].numpy(), sampling, text.uniform())
        text.append(token)
        written.append(token)
        context.append(token)
        if len(context) > model.config.block_size:
            context = context[-(model.config.block_size // 2) :]
    return written


def test_random_numbers_are_uniform_and_depend_on_seed_and_position() -> None:
    def numbers(seed: int, size: int) -> list[float]:
        text, found = Continuation([2], replace(WARM, seed=seed, max_tokens=size), BLOCK), []
        while text.finish is None:
            found.append(text.uniform())
            text.append(2)
        return found

    drawn = numbers(5, 4000)
    assert numbers(5, 10) == drawn[:10]
    assert all(0 <= number < 1 for number in drawn)
    for decile in range(10):
        assert abs(sum(decile <= 10 * number < decile + 1 for number in drawn) - 400) < 100
    assert not {*drawn} & {*numbers(6, 4000)}
    assert numbers(-1, 3) != numbers(1, 3)
    assert numbers(10**30, 3) != numbers(0, 3)


def test_equal_seeds_give_equal_tokens() -> None:
    model = talkative()
    first = tokens(model, [2, 3], WARM)
    assert tokens(model, [2, 3], WARM) == first
    assert tokens(model, [2, 3], replace(WARM, seed=2)) != first


def test_no_seed_gives_different_texts() -> None:
    model = talkative()
    assert tokens(model, [2, 3], replace(WARM, seed=None)) != tokens(model, [2, 3], replace(WARM, seed=None))


def test_global_random_state_does_not_matter() -> None:
    model = talkative()
    first = tokens(model, [2, 3], WARM)
    torch.manual_seed(5)
    random.seed(5)
    assert tokens(model, [2, 3], WARM) == first


@pytest.mark.parametrize("count", [1, 2, 40, 300])
def test_max_tokens_is_exact(count: int) -> None:
    assert len(tokens(talkative(), [2, 3], replace(WARM, max_tokens=count))) == count


def test_temperature_0_is_greedy() -> None:
    model = talkative()
    written = tokens(model, [2, 3], Sampling(max_tokens=10, temperature=0))
    sequence = [2, 3]
    for token in written:
        with torch.inference_mode():
            assert token == model(torch.tensor([sequence]))[0, -1].argmax()
        sequence.append(token)


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=30, top_k=1), Sampling(max_tokens=30, top_p=1e-6)])
def test_top_k_1_and_tiny_top_p_are_greedy(sampling: Sampling) -> None:
    model = talkative()
    assert tokens(model, [2, 3], sampling) == tokens(model, [2, 3], Sampling(max_tokens=30, temperature=0))


def test_an_empty_prompt_starts_from_the_begin_token() -> None:
    model = talkative()
    assert tokens(model, [], WARM) == tokens(model, [BOS_ID], WARM)
    assert tokens(model, [], WARM) != tokens(model, [5], WARM)


def test_end_token_stops_generation_and_is_not_yielded() -> None:
    model = talkative()
    with torch.no_grad():
        model.lm_head[EOS_ID, 0] = 20
    assert tokens(model, [2, 3], WARM) == []


def test_every_end_token_stops_generation() -> None:
    model = talkative()
    with torch.no_grad():
        model.lm_head[7, 0] = 20
    assert list(generate(decoder_of(model), [2, 3], WARM, frozenset({EOS_ID, 7}))) == []
    assert len(tokens(model, [2, 3], WARM)) == WARM.max_tokens


def test_end_token_can_be_ignored() -> None:
    model = talkative()
    with torch.no_grad():
        model.lm_head[EOS_ID, 0] = 20
    assert tokens(model, [2, 3], replace(WARM, ignore_eos=True, max_tokens=5)) == [EOS_ID] * 5


def test_some_texts_end_with_the_end_token() -> None:
    model = GPT.initialize(CONFIG, seed=1)  # all tokens about equally likely
    lengths = [len(tokens(model, [2], replace(WARM, max_tokens=100, seed=seed))) for seed in range(8)]
    assert any(0 < length < 100 for length in lengths)
    assert all(EOS_ID not in tokens(model, [2], replace(WARM, max_tokens=100, seed=seed)) for seed in range(2))


@pytest.mark.parametrize("prompt", [1, 47, 48, 60])
def test_context_overflow_keeps_the_last_half(prompt: int) -> None:
    model = talkative(replace(CONFIG, block_size=48))
    start = [2 + position * position % 29 for position in range(prompt)]
    sampling = Sampling(max_tokens=200, temperature=1.0, seed=3)
    written = tokens(model, start, sampling)
    assert written == generate_without_cache(model, start, sampling)
    assert len(set(written)) > 15


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_any_context_length_works(block: int) -> None:
    model = talkative(replace(CONFIG, block_size=block))
    sampling = Sampling(max_tokens=20, temperature=1.0, seed=3)
    assert len(tokens(model, [2, 3, 4], sampling)) == 20


def test_long_prompt_is_cut_to_its_end() -> None:
    model = talkative()
    end = [2 + position % 7 for position in range(BLOCK)]
    assert tokens(model, [9] * 100 + end, WARM) == tokens(model, end, WARM)


def test_prompt_is_not_modified() -> None:
    prompt = [2, 3]
    tokens(talkative(), prompt, WARM)
    assert prompt == [2, 3]


def test_tokens_are_streamed() -> None:
    stream = generate(decoder_of(talkative()), [2], replace(WARM, max_tokens=10**9))
    assert [next(stream) for _ in range(5)] == tokens(talkative(), [2], replace(WARM, max_tokens=5))


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["ab", "cd"], [], "abcd"),
        (["ab", "cd"], ["x"], "abcd"),
        (["ab", "cd"], ["bc"], "a"),
        (["ab", "cd"], ["d"], "abc"),
        (["ab", "cd"], ["cd", "b"], "a"),
        (["abcd"], ["d", "b"], "a"),  # the first of two in one piece
        (["a", "a", "b", "c"], ["ab"], "a"),
        (["a", "b", "a", "b", "c"], ["abc"], "ab"),
        (["x", "\n", "y", "\n", "\n", "z"], ["\n\n"], "x\ny"),
        (["ab"], ["abc"], "ab"),  # the text ends first
        (["ab"], ["ab"], ""),
        ([], ["ab"], ""),
        (["aabaabaac"], ["aabaac"], "aab"),  # the match begins within a failed one
        (["a", "b", "cx"], ["abcd", "bc"], "a"),  # the first to end counts
        (["abcd"], ["abcd", "bc"], "a"),
        (["xabc"], ["bc", "abc"], "x"),  # of those that end together, the longest
    ],
)
def test_stop_sequences(pieces: list[str], stops: list[str], expected: str) -> None:
    assert "".join(until_stop(pieces, stops)) == expected


@given(st.lists(st.text("ab", max_size=4), max_size=12), st.lists(st.text("ab", min_size=1, max_size=5), max_size=4))
def test_stop_is_found_however_the_text_is_cut(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    ends = [end for end in range(len(text) + 1) if text[:end].endswith(tuple(stops))]
    longest = max((len(stop) for stop in stops if ends and text[: ends[0]].endswith(stop)), default=0)
    assert "".join(until_stop(pieces, stops)) == (text[: ends[0] - longest] if ends else text)


def test_cost_of_a_stop_does_not_grow_with_its_length() -> None:
    text = "a" * 50_000
    with cpu_limit(5):  # seconds; it takes a fraction of one
        assert "".join(until_stop(text, ["a" * 40_000 + "b"] * 2)) == text


def test_text_that_cannot_start_a_stop_is_passed_on_immediately() -> None:
    read: list[str] = []

    def pieces() -> Iterator[str]:
        for piece in ("ab", "xx", "yz"):
            read.append(piece)
            yield piece

    stream = until_stop(pieces(), ["bxxy"])
    assert next(stream) == "a"
    assert read == ["ab"]
    assert next(stream) == ""
    assert next(stream) == ""
    assert read == ["ab", "xx", "yz"]


def test_no_piece_is_read_after_a_stop() -> None:
    drawn: list[str] = []

    def pieces() -> Iterator[str]:
        for piece in "abcdef":
            drawn.append(piece)
            yield piece

    assert "".join(until_stop(pieces(), ["c"])) == "ab"
    assert drawn == ["a", "b", "c"]


def test_empty_stop_sequence_is_refused() -> None:
    with pytest.raises(CallerError, match="a stop sequence must not be empty"):
        list(until_stop(["a"], ["b", ""]))
