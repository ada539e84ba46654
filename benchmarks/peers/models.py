"""Write a GPT-2 of random weights for the peers: `models.py FOLDER WIDTH HEADS LAYERS VOCABULARY`.

`hf/` is for transformers, `ct2/` for CTranslate2, and `model.gguf` for llama.cpp; all have the same float32 weights.
With its biases and LayerNorms, a GPT-2 computes a little more than our network of the same shape.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

CONTEXT = 256
FIRST = "t0"  # token 0, which ends a text
NORMS = {"ln_1": "attn_norm", "ln_2": "ffn_norm"}
PRODUCTS = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}


def main(folder: Path, width: int, heads: int, layers: int, vocabulary: int) -> None:
    """Write the three models and print {"parameters"}."""
    disable_progress_bar()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=CONTEXT,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    model.save_pretrained(folder / "hf")
    words = Tokenizer(models.WordLevel({f"t{index}": index for index in range(vocabulary)}, unk_token=FIRST))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token=FIRST, bos_token=FIRST, eos_token=FIRST)
    tokenizer.save_pretrained(folder / "hf")
    TransformersConverter(str(folder / "hf")).convert(str(folder / "ct2"))
    write_gguf(folder / "model.gguf", model, config)
    print(json.dumps({"parameters": sum(parameter.numel() for parameter in model.parameters())}))


def write_gguf(path: Path, model: GPT2LMHeadModel, config: GPT2Config) -> None:
    """Write the model as GGUF, with the names and the layout of llama.cpp's GPT-2."""
    arrays = {name.removeprefix("transformer."): value.numpy() for name, value in model.state_dict().items()}
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{index}" for index in range(config.vocab_size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    writer.add_token_merges(["t 0"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    add = writer.add_tensor
    add("token_embd.weight", arrays["wte.weight"])
    add("position_embd.weight", arrays["wpe.weight"])
    add("output.weight", arrays["wte.weight"].copy())
    for part in ("weight", "bias"):
        add(f"output_norm.{part}", arrays[f"ln_f.{part}"])
        for layer in range(config.n_layer):
            for name, target in NORMS.items():
                add(f"blk.{layer}.{target}.{part}", arrays[f"h.{layer}.{name}.{part}"])
            for name, target in PRODUCTS.items():
                array = arrays[f"h.{layer}.{name}.{part}"]  # weights are (in, out) in GPT-2, and (out, in) in GGUF
                add(f"blk.{layer}.{target}.{part}", np.ascontiguousarray(array.T))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:6]))
