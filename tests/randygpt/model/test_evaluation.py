"""Evaluation on a text: every byte counts once, whatever the tokenizer and the context length."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import CONFIG, TEXT, TOKENIZER, endless

from randygpt.errors import CallerError, InvalidModelFile
from randygpt.model.config import ModelConfig
from randygpt.model.decoder import Decoder
from randygpt.model.evaluation import SEGMENT, Evaluation, evaluate, passes, segments
from randygpt.model.sampling import log_softmax
from randygpt.model.tokenizer import BpeTokenizer, CharTokenizer, Tokenizer

MODEL = endless()
BPE = BpeTokenizer.train(TEXT, vocab_size=60)


def uniform(tokenizer: Tokenizer, block_size: int = 32) -> Decoder:
    """Return a network that gives every token the same probability."""
    config = ModelConfig(n_embd=2, n_head=1, n_layer=1, vocab_size=tokenizer.vocab_size, block_size=block_size)
    return Decoder.from_flat(config, np.zeros(config.parameter_count, np.float32))


def test_loss_of_a_short_text() -> None:
    text = TEXT[:100]
    ids = TOKENIZER.encode(text)
    rows = log_softmax(MODEL.decoder.logits(ids[:-1].tolist()))
    nats = math.log(CONFIG.vocab_size) - rows[np.arange(99), ids[1:]].sum()
    found = evaluate(MODEL.decoder, TOKENIZER, text)
    assert found.loss == pytest.approx(nats / 100)
    assert found.perplexity == pytest.approx(math.exp(nats / 100))
    assert found.bits_per_byte == pytest.approx(nats / 100 / math.log(2))
    assert (found.tokens, found.bytes, found.unknown) == (100, 100, 0)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, BPE], ids=["characters", "bpe"])
def test_every_token_and_byte_counts_once(tokenizer: Tokenizer) -> None:
    done: list[int] = []
    found = evaluate(uniform(tokenizer), tokenizer, TEXT, done.append)
    assert (found.tokens, found.bytes) == (len(tokenizer.encode(TEXT)), len(TEXT))
    assert found.loss == pytest.approx(math.log(tokenizer.vocab_size))
    assert found.bits_per_byte == pytest.approx(found.tokens * math.log2(tokenizer.vocab_size) / len(TEXT))
    assert done == sorted(done)
    assert done[-1] == len(TEXT)


def test_figures_do_not_depend_on_blocks() -> None:
    text = f"{TEXT[:1500]}<|eos|>{TEXT[:30]}<|eos|>{TEXT[7:1300]}"
    blocks = [text[at : at + 37] for at in range(0, len(text), 37)]
    assert evaluate(MODEL.decoder, TOKENIZER, blocks) == evaluate(MODEL.decoder, TOKENIZER, text)


def test_context_comes_from_the_segment_before() -> None:
    first, second = (segment for segment, _ in segments(TEXT[:1500]))
    together = evaluate(MODEL.decoder, TOKENIZER, TEXT[:1500])
    alone = [evaluate(MODEL.decoder, TOKENIZER, part) for part in (first, second)]
    assert together.tokens == sum(each.tokens for each in alone)
    assert together.nats != pytest.approx(sum(each.nats for each in alone))


def test_documents_are_independent() -> None:
    parts = [TEXT[:50], TEXT[50:120]]
    both = evaluate(MODEL.decoder, TOKENIZER, "<|eos|>".join(["", *parts, ""]))
    alone = [evaluate(MODEL.decoder, TOKENIZER, part) for part in parts]
    assert both.nats == pytest.approx(sum(each.nats for each in alone))
    assert (both.bytes, both.unknown) == (120, 0)


def test_unknown_characters_cost_eight_bits_per_byte() -> None:
    text = TEXT[:50]
    known, more = evaluate(MODEL.decoder, TOKENIZER, text), evaluate(MODEL.decoder, TOKENIZER, f"é{text}€€")
    assert (more.unknown, more.bytes, more.tokens) == (3, 50 + 2 + 3 + 3, 50)
    assert more.loss == pytest.approx(known.loss)
    assert more.bits_per_byte * 58 == pytest.approx(known.bits_per_byte * 50 + 8 * 8)


@pytest.mark.parametrize("text", ["", "<|eos|>", "€€"])
def test_text_without_tokens_is_refused(text: str) -> None:
    with pytest.raises(CallerError, match=r"is empty|has no character"):
        evaluate(MODEL.decoder, TOKENIZER, text)


def test_loss_that_is_not_finite_is_refused() -> None:
    config = uniform(TOKENIZER).config
    broken = Decoder.from_flat(config, np.full(config.parameter_count, np.nan, np.float32))
    with pytest.raises(InvalidModelFile, match="loss is nan"):
        evaluate(broken, TOKENIZER, "the fox")


def test_huge_loss_has_no_perplexity() -> None:
    assert Evaluation(nats=1e4, tokens=1, bytes=1).to_json()["perplexity"] is None


@given(st.lists(st.sampled_from(["\n", " ", "x", "y" * 700, "<|eos|>", "z\n" * 900]), max_size=12))
def test_segments_are_the_text(parts: list[str]) -> None:
    text = "".join(parts)
    found = [*segments(parts)]
    assert "".join(segment for segment, _ in found) == text.replace("<|eos|>", "")
    assert sum(begins for _, begins in found) == sum(map(bool, text.split("<|eos|>")))
    assert all(0 < len(segment) <= SEGMENT for segment, _ in found)
    inner = (first for (first, _), (_, begins) in itertools.pairwise(found) if not begins)
    assert all(len(segment) > SEGMENT // 2 for segment in inner)


@given(st.integers(1, 12), st.integers(1, 40), st.data())
def test_passes_predict_each_token_once(block_size: int, first: int, data: st.DataObject) -> None:
    count = first + data.draw(st.integers(0, 50))
    wanted = first
    for begin, end in passes(count, first, block_size):
        assert 0 <= begin < end <= begin + block_size
        assert begin == 0 or wanted - begin >= max(1, block_size // 2)
        wanted = end + 1
    assert wanted == count


def test_char_tokenizer_begin_character_is_known() -> None:
    tokenizer = CharTokenizer(["<", ">", "a"])
    assert evaluate(uniform(tokenizer), tokenizer, "a<a").unknown == 0
