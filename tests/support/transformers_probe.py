"""A program without randygpt: loads an exported folder with transformers, and says what comes out as JSON.

    python transformers_probe.py DIR < questions

It runs in a process of its own, with HF_HOME elsewhere, because transformers copies the code that it trusts.
"""

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("error")

import torch  # noqa: E402 (what importing warns of counts too)
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast  # noqa: E402


def refusal(model: torch.nn.Module, ids: torch.Tensor, **options: object) -> str:
    try:
        model.generate(ids, do_sample=False, **options)  # type: ignore[operator]
    except ValueError as error:
        return str(error)
    return "none"


def main(folder: Path, saved: Path) -> dict[str, object]:
    asked = json.load(sys.stdin)
    ids = torch.tensor(asked["ids"])
    model, loading = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    greedy = {"max_new_tokens": 24, "do_sample": False}
    singles = [tokenizer(prompt, return_tensors="pt") for prompt in asked["prompts"]]
    batch = tokenizer(asked["prompts"], return_tensors="pt", padding=True)
    padded = model.generate(**batch, **greedy)[:, batch["input_ids"].shape[1] :]
    whole = ids[:1, : model.config.block_size]
    with torch.no_grad():
        first = model(ids[:, :5], use_cache=True)
        rest = model(ids[:, 5:], past_key_values=first.past_key_values).logits
        logits = model(ids).logits
    result: dict[str, object] = {
        "loading": {name: sorted(map(str, problems)) for name, problems in loading.items()},
        "dtype": str(model.dtype),
        "logits": logits.tolist(),
        "in two steps": torch.cat([first.logits, rest], dim=1).tolist(),
        "cached": [model.generate(**one, **greedy)[0].tolist() for one in singles],
        "uncached": [model.generate(**one, **greedy, use_cache=False)[0].tolist() for one in singles],
        "padded": [tokenizer.decode(row, skip_special_tokens=True) for row in padded],
        "beams": model.generate(**singles[0], **greedy, num_beams=3).shape[1],
        "sampled": model.generate(**singles[0], max_new_tokens=24).shape[1],  # as generation_config.json has it
        "to the last position": model.generate(whole[:, :-3], do_sample=False, max_new_tokens=3).shape[1],
        "too long": refusal(model, whole, max_new_tokens=3),
        "too long, uncached": refusal(model, whole, max_new_tokens=3, use_cache=False),
        "static": refusal(model, whole[:, :3], max_new_tokens=3, cache_implementation="static"),
        "encoded": [tokenizer(text)["input_ids"] for text in asked["texts"]],
        "decoded": [
            tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) for text in asked["texts"]
        ],
        "untrusted": PreTrainedTokenizerFast.from_pretrained(folder)(asked["texts"][0])["input_ids"],
    }
    model(ids, labels=ids).loss.backward()
    result["gradients"] = all(bool(parameter.grad.any()) for parameter in model.parameters())
    tokenizer.save_pretrained(saved)
    model.to(torch.bfloat16).save_pretrained(saved)
    return result


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
