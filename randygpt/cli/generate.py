"""`randygpt generate`: print text from a checkpoint while it is generated."""

from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli.flags import Json, ModelPreset, ModelVocab, Quiet, is_flag_given
from randygpt.cli.models import ModelOption, NamedModel, Prefix, find_model, note_default, trained_checkpoint
from randygpt.cli.output import emit, print_stderr, write

if TYPE_CHECKING:
    from randygpt.model.tokenizer import Tokenizer

EXAMPLE = 'Example: randygpt generate "Once upon a time" --model shakespeare_best.bin --seed 1'


def generate(
    context: typer.Context,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="Text to continue; default: none."),
    ] = None,
    model: ModelOption = None,
    checkpoint: Prefix = None,
    preset: ModelPreset = None,
    vocab: ModelVocab = None,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of tokens to generate.")] = 256,
    temperature: Annotated[
        float,
        typer.Option(min=0, max=100, metavar="X", help="Sampling temperature; 0 always takes the likeliest token."),
    ] = 0.7,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, metavar="X", help="Sample from the likeliest tokens of total probability X.")
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option(min=0, metavar="N", help="Sample from the N likeliest tokens; 0: all of them.")
    ] = 0,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Random seed; same seed, same text.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Stop before this text would appear; repeat for more.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate text from one or more prompts.

    Only the completions are printed, not the prompts. Without --model and --checkpoint, the current release writes, or
    else checkpoint_best.bin or checkpoint.bin in this folder.
    """
    from randygpt.language_model import load
    from randygpt.model.sampling import Sampling

    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    if is_flag_given(context, "checkpoint") and not is_flag_given(context, "model"):
        model = None  # a flag overrides a setting that excludes it
    named = NamedModel(path=trained_checkpoint(checkpoint)) if checkpoint and not model else find_model(model)
    language_model = load(named.path, preset=preset, vocab=vocab)
    if not quiet:
        if model is None:
            note_default(named)
        _warn_of_unknown(language_model.tokenizer, prompts or [])
    completions = []
    for prompt in prompts or [""]:
        parts = []
        for part in language_model.stream(prompt, sampling, stop or ()):
            parts.append(part)
            if not as_json and not write(part):
                return
        if not as_json:
            write("\n")
        completions.append({"prompt": prompt, "text": "".join(parts)})
    if as_json:
        emit(as_json, {"completions": completions}, "")


def _warn_of_unknown(tokenizer: "Tokenizer", prompts: list[str]) -> None:
    """Report how many characters of the prompts the vocabulary lacks, in one line."""
    if dropped := sum(map(tokenizer.count_unknown, prompts)):
        total = sum(map(len, prompts))
        print_stderr(f"{dropped} of {total} characters of the prompt are not in the vocabulary and are dropped")
