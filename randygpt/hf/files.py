"""Files of an export for transformers besides the weights: configuration, tokenizer and code. No disk writes.

Both kinds of tokenizer become a BPE `tokenizer.json` without an unknown token, so that characters outside the
vocabulary are dropped; newlines are split off, and decoding joins. As ids must have distinct text there, an entry that
has a later duplicate gets a mark as suffix, which decoding removes.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from randygpt.errors import InvalidModelFile
from randygpt.model.config import ModelConfig
from randygpt.model.layout import tensor_shapes
from randygpt.model.tokenizer import BOS_ID, EOS_ID, BpeTokenizer, CharTokenizer, Tokenizer, tokenizer_from_json

_PRIVATE_USE = range(0xF0000, 0x10FFFE)  # private use characters; the mark is one that the vocabulary lacks
_CODE = ("configuration_randygpt", "modeling_randygpt")


def files(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the name and contents of every file except the weights."""
    backend, texts = _backend(tokenizer)
    special: dict[str, object] = {"bos_token": texts[BOS_ID], "eos_token": texts[EOS_ID], "pad_token": texts[EOS_ID]}
    if more := sorted(tokenizer.special_ids - {BOS_ID, EOS_ID}):  # of a vocabulary of the Rust program
        special |= {"extra_special_tokens": [texts[token] for token in more]}
    ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": EOS_ID}
    ends = {"eos_token_id": sorted(tokenizer.end_ids)} if len(tokenizer.end_ids) > 1 else {}
    contents = {
        "config.json": {
            "architectures": ["RandyGPTForCausalLM"],
            "auto_map": {
                "AutoConfig": "configuration_randygpt.RandyGPTConfig",
                "AutoModelForCausalLM": "modeling_randygpt.RandyGPTForCausalLM",
            },
            "model_type": "randygpt",
            "torch_dtype": "float32",
            **config.to_json(tokenizer.kind),
            **ids,
            "tie_word_embeddings": False,
            "use_cache": True,
        },
        "generation_config.json": {**ids, **ends, "do_sample": True, "temperature": 0.7},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.block_size,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # "<|bos|>" in a text is plain text
            "padding_side": "left",
            **special,
        },
    }
    encoded = {name: json.dumps(each, ensure_ascii=False, indent=1).encode() for name, each in contents.items()}
    code = {f"{name}.py": (resources.files("randygpt.hf") / f"{name}.py").read_bytes() for name in _CODE}
    return encoded | {"tokenizer.json": backend.to_str(pretty=True).encode()} | code


def tensor_names(config: ModelConfig) -> dict[str, str]:
    """Return the transformers name of each tensor in `tensor_shapes`."""
    return {name: f"{name.replace('layer', 'layers.', 1)}.weight" for name in tensor_shapes(config)}


def rust_tensor_names(config: ModelConfig) -> dict[str, str]:
    """Return the name that randyGPT export_hf.py gives to each tensor in `tensor_shapes`."""
    names = {}
    for name in tensor_shapes(config):
        layer, _, part = name.rpartition(".")
        group = "mlp" if part.startswith("fc") else "attn"
        names[name] = f"{layer.replace('layer', 'layers.', 1)}.{group}.{part}.weight" if layer else f"{name}.weight"
    return names


def read_tokenizer_json(raw: object, kind: object) -> Tokenizer:
    """Parse a decoded tokenizer.json; raise InvalidModelFile if it is neither form.

    Args:
        raw: The library's form that `files` writes, or the map of vocab.json that randyGPT export_hf.py writes.
        kind: `tokenizer` in config.json.
    """
    if isinstance(raw, Mapping) and "model" not in raw and {"chars", "vocab"} & {*raw}:
        return tokenizer_from_json(raw)
    try:
        ids, merges = raw["model"]["vocab"], raw["model"]["merges"]  # type: ignore[index]
        raw_decoders = raw["decoder"]["decoders"]  # type: ignore[index]
        marks = [step["pattern"]["String"] for step in raw_decoders if step["type"] == "Replace"]
        texts = [text for text, _ in sorted(ids.items(), key=lambda entry: int(entry[1]))]
        for mark in marks:
            texts = [text.replace(mark, "") for text in texts]
        if sorted(ids.values()) != list(range(len(texts))):
            raise InvalidModelFile("the ids of the tokenizer have gaps")
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise InvalidModelFile("not a tokenizer exported by randygpt") from None
    return CharTokenizer(texts) if kind == "char" else BpeTokenizer.from_json({"vocab": texts, "merges": merges})


def _backend(tokenizer: Tokenizer) -> tuple[tokenizers.Tokenizer, list[str]]:
    """Return the tokenizer for transformers and its entries by id."""
    texts, mark = _distinct(tokenizer.vocab)
    merges = tokenizer.merges_by_priority() if isinstance(tokenizer, BpeTokenizer) else []
    backend = tokenizers.Tokenizer(models.BPE(vocab={text: token for token, text in enumerate(texts)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    unmark = [decoders.Replace(mark, "")] if mark else []
    backend.decoder = decoders.Sequence([*unmark, decoders.Fuse()])
    return backend, texts


def _distinct(texts: Sequence[str]) -> tuple[list[str], str]:
    """Return the entries, with marks appended where a duplicate follows, and the mark, empty if it is not used."""
    counts = Counter(texts)
    used = {char for text in texts for char in text}
    mark = next(chr(point) for point in _PRIVATE_USE if chr(point) not in used)
    distinct = []
    for text in texts:
        counts[text] -= 1
        distinct.append(text + counts[text] * mark)
    return distinct, mark if len(set(texts)) < len(texts) else ""
