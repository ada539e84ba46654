"""Exports loaded by transformers: equal ids, logits and texts, without randygpt's code."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.command import TIMEOUT_S
from support.models import TEXT

import randygpt
from randygpt.checkpoint.export import export_model, import_model
from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.rgpt import Checkpoint, read_weights, write_checkpoint
from randygpt.checkpoint.sidecar import Sidecar, inspect_checkpoint, sidecar_path
from randygpt.errors import InvalidModelFile
from randygpt.hf.files import files, read_tokenizer_json
from randygpt.language_model import LanguageModel
from randygpt.model.config import ModelConfig
from randygpt.model.gpt import GPT
from randygpt.model.tokenizer import BpeTokenizer, CharTokenizer, Tokenizer, tokenizer_from_json

PROBE = Path(__file__).parents[2] / "support" / "transformers_probe.py"
CHARS = CharTokenizer.from_text(TEXT)
BPE = BpeTokenizer.train(TEXT, 60)
TEXTS = [
    TEXT[:200],
    "",
    "\n",
    "the\n\n  quick\tfox é€\U0001f600 <|bos|> <|eos|> <> Zebra\r\n",
    "dog.\n" * 50,
    "lazylazylazy the the",
]


@dataclass(frozen=True)
class Loaded:
    """An export loaded by transformers and by randygpt."""

    answers: dict[str, Any]
    ids: torch.Tensor
    prompts: list[str]
    ours: LanguageModel
    saved: Path  # saved by transformers in bfloat16


@pytest.fixture(scope="module", params=[CHARS, BPE], ids=["characters", "bpe"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder, tokenizer = tmp_path_factory.mktemp("hf"), request.param
    path = folder / "m.bin"
    config = ModelConfig(n_embd=16, n_head=2, n_layer=2, vocab_size=tokenizer.vocab_size)
    header = CheckpointHeader(magic="RGPT0002", vocab_size=config.vocab_size, iteration=3, step=4, best_loss=2.5)
    weights = GPT.initialize(config, seed=0).flat.numpy() * 8  # far from uniform, as a trained model is
    write_checkpoint(path, Checkpoint(header=header, config=config, weights=weights, optimizer_state=None))
    sidecar_path(path).write_bytes(Sidecar(config=config, tokenizer=tokenizer, name="tiny").encode())
    export_model(inspect_checkpoint(path), folder / "export", "hf")
    ids = torch.randint(config.vocab_size, (2, 256), generator=torch.Generator().manual_seed(1))
    prompts = ["the quick", "fox jumps over the lazy", "o"]
    done = subprocess.run(
        [sys.executable, PROBE, folder / "export", folder / "saved"],
        input=json.dumps({"ids": ids.tolist(), "prompts": prompts, "texts": TEXTS}),
        env=os.environ | {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    return Loaded(answers=answers, ids=ids, prompts=prompts, ours=randygpt.load(path), saved=folder / "saved")


@pytest.mark.full
def test_every_weight_is_loaded(loaded: Loaded) -> None:
    assert all(not problems for problems in loaded.answers["loading"].values())
    assert loaded.answers["dtype"] == "torch.float32"


@pytest.mark.full
@pytest.mark.parametrize("how", ["logits", "in two steps"])
def test_hf_logits_match(loaded: Loaded, how: str) -> None:
    ours = loaded.ours.logits(loaded.ids)
    assert ours.std() > 0.1
    torch.testing.assert_close(torch.tensor(loaded.answers[how]), ours, rtol=0, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("how", ["cached", "uncached"])
def test_hf_greedy_texts_match(loaded: Loaded, how: str) -> None:
    decode = loaded.ours.tokenizer.decode
    for ids, prompt in zip(loaded.answers[how], loaded.prompts, strict=True):
        assert decode(ids) == prompt + loaded.ours.generate(prompt, max_tokens=24, temperature=0)


@pytest.mark.full
def test_hf_left_padding_changes_nothing(loaded: Loaded) -> None:
    alone = [loaded.ours.generate(prompt, max_tokens=24, temperature=0) for prompt in loaded.prompts]
    assert len(set(map(len, loaded.prompts))) == 3
    assert loaded.answers["padded"] == alone


@pytest.mark.full
def test_hf_sampling_and_beam_search(loaded: Loaded) -> None:
    prompt = len(loaded.ours.tokenizer.encode(loaded.prompts[0]))
    assert prompt < loaded.answers["beams"] <= prompt + 24
    assert prompt < loaded.answers["sampled"] <= prompt + 24


@pytest.mark.full
def test_hf_context_overflow_is_refused(loaded: Loaded) -> None:
    assert 253 < loaded.answers["to the last position"] <= 256
    assert loaded.answers["too long"] == "257 tokens exceed the context length of 256"
    assert loaded.answers["too long, uncached"] == "257 tokens exceed the context length of 256"
    assert "static caches are not supported" in loaded.answers["static"]


@pytest.mark.full
def test_hf_tokenizer_matches(loaded: Loaded) -> None:
    ours = [loaded.ours.tokenizer.encode(text).tolist() for text in TEXTS]
    assert loaded.answers["encoded"] == ours
    assert loaded.answers["decoded"] == [loaded.ours.tokenizer.decode(ids) for ids in ours]
    assert loaded.answers["untrusted"] == ours[0]


@pytest.mark.full
def test_hf_model_can_be_trained(loaded: Loaded) -> None:
    assert loaded.answers["gradients"]


@pytest.mark.full
def test_model_saved_by_transformers_is_imported(loaded: Loaded, tmp_path: Path) -> None:
    import_model(loaded.saved, tmp_path / "back.bin")
    back = randygpt.load(tmp_path / "back.bin")
    ours = torch.from_numpy(read_weights(loaded.saved.parent / "m.bin", loaded.ours.config))
    saved = torch.from_numpy(read_weights(tmp_path / "back.bin", back.config))
    assert torch.equal(saved, ours.bfloat16().float())
    assert back.tokenizer.to_json() == loaded.ours.tokenizer.to_json()
    assert back.config == loaded.ours.config


def backend(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    config = ModelConfig(n_embd=4, n_head=1, n_layer=1, vocab_size=tokenizer.vocab_size)
    return tokenizers.Tokenizer.from_str(files(config, tokenizer)["tokenizer.json"].decode())


def agree(tokenizer: Tokenizer, texts: Sequence[str], ids: Sequence[Sequence[int]] = ()) -> None:
    theirs = backend(tokenizer)
    for text in texts:
        assert theirs.encode(text).ids == tokenizer.encode(text).tolist()
    for each in ids or [tokenizer.encode(text).tolist() for text in texts]:
        assert theirs.decode([token for token in each if token > 1]) == tokenizer.decode(each)


def test_hf_tokenizer_of_rust_vocabularies(golden: Path) -> None:
    cases = json.loads((golden / "bpe2000_tokens.json").read_bytes())
    texts = [case["text"] for case in cases]
    for name in ("bpe2000", "xs_char"):
        tokenizer = tokenizer_from_json(json.loads((golden / f"{name}_vocab.json").read_bytes()))
        agree(tokenizer, texts)
        config = ModelConfig(n_embd=4, n_head=1, n_layer=1, vocab_size=tokenizer.vocab_size)
        raw = json.loads(files(config, tokenizer)["tokenizer.json"])
        assert read_tokenizer_json(raw, tokenizer.kind).to_json() == tokenizer.to_json()


@given(st.text(alphabet="thequickfox \n<>|é\U000f0000", max_size=60))
def test_any_text_has_equal_ids(text: str) -> None:
    agree(CHARS, [text])
    agree(BPE, [text])


def test_duplicate_entries_encode_to_the_later_id() -> None:
    chars = CharTokenizer(["<", ">", "a", "<", "b", "a", "\U000f0000", "a", ">", "\n"])
    agree(chars, ["<a>b\n\U000f0000\U000f0001"], ids=[[2, 3, 4, 5, 6, 7, 8, 9]])
    assert backend(chars).decode([2, 5, 7]) == "aaa"
    pairs = BpeTokenizer(
        ["<|bos|>", "<|eos|>", "a", "b", "c", "ab", "bc", "abc", "abc", "a"], [("a", "bc"), ("b", "c")]
    )
    agree(pairs, ["abcab\nabc", "cba"], ids=[[2, 5, 7, 8, 9]])
    for tokenizer in (chars, pairs):
        config = ModelConfig(n_embd=4, n_head=1, n_layer=1, vocab_size=tokenizer.vocab_size)
        back = read_tokenizer_json(json.loads(files(config, tokenizer)["tokenizer.json"]), tokenizer.kind)
        assert tuple(back.vocab) == tuple(tokenizer.vocab)


REPEATED = BpeTokenizer(
    ["<|bos|>", "<|eos|>", "a", "b", "ab", "<|bos|>", "|", "<|eos|>", "<", ">", "o", "s", "e"], [("a", "b")]
)


def exported(tokenizer: Tokenizer) -> dict[str, bytes]:
    return files(ModelConfig(n_embd=4, n_head=1, n_layer=1, vocab_size=tokenizer.vocab_size), tokenizer)


def test_repeated_end_tokens_are_exported_as_special() -> None:
    config = json.loads(exported(REPEATED)["tokenizer_config.json"])
    assert config["extra_special_tokens"] == ["<|bos|>", "<|eos|>"]
    assert "extra_special_tokens" not in json.loads(exported(BPE)["tokenizer_config.json"])


@pytest.mark.full
def test_transformers_shows_no_repeated_end_token(tmp_path: Path) -> None:
    import transformers  # noqa: PLC0415 (two seconds)

    for name, content in exported(REPEATED).items():
        (tmp_path / name).write_bytes(content)
    loaded = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ids = [0, 4, 5, 2, 7, 1]
    assert loaded.decode(ids, skip_special_tokens=True) == REPEATED.decode(ids) == "aba"
    assert loaded("a<|bos|>b")["input_ids"] == REPEATED.encode("a<|bos|>b").tolist()


def test_merges_apply_by_result_id() -> None:
    tokenizer = BpeTokenizer(["<|bos|>", "<|eos|>", "a", "b", "c", "ab", "bc"], [("b", "c"), ("a", "b")])
    assert tokenizer.encode("abc").tolist() == [5, 4]
    agree(tokenizer, ["abc"])


def test_large_vocabulary() -> None:
    chars = CharTokenizer(["<", ">", *(chr(point) for point in range(0x4E00, 0x9000)), "\n"])
    text = "".join(random.Random(1).choices(chars.chars[2:], k=2000))  # noqa: S311
    agree(chars, [text])


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        {},
        {"model": {"vocab": [], "merges": []}, "decoder": {"decoders": []}},
        {"model": {"vocab": {"a": "x"}, "merges": []}, "decoder": {"decoders": []}},
        {"model": {"vocab": {"a": float("inf")}, "merges": []}, "decoder": {"decoders": []}},
        {"model": {"vocab": {"a": 0, "b": 2}, "merges": []}, "decoder": {"decoders": []}},
        {"model": {"vocab": {"a": 0, "b": 1}, "merges": []}, "decoder": {"decoders": [{"type": "Replace"}]}},
        {"model": {"vocab": {"a": 0, "b": 1}, "merges": [["a", "c"]]}, "decoder": {"decoders": []}},
    ],
)
def test_unsupported_tokenizer_is_refused(raw: object) -> None:
    with pytest.raises(InvalidModelFile):
        read_tokenizer_json(raw, "bpe")
