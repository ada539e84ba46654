"""`randygpt generate`: print text from a checkpoint while it is generated."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli.flags import Json, ModelPreset, ModelVocab, Quiet, check_file_path, is_flag_given
from randygpt.cli.output import emit, print_stderr, write
from randygpt.errors import CallerError

if TYPE_CHECKING:
    from randygpt.model.tokenizer import Tokenizer

EXAMPLE = 'Example: randygpt generate "Once upon a time" --model shakespeare_best.bin --seed 1'

Prefix = Annotated[Path, typer.Option(metavar="PREFIX", help="Without --model: use PREFIX_best.bin, else PREFIX.bin.")]


def generate(
    context: typer.Context,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="Text to continue; default: none."),
    ] = None,
    model: Annotated[Path | None, typer.Option(metavar="FILE", help="Checkpoint, or folder of a release.")] = None,
    checkpoint: Prefix = Path("checkpoint"),
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

    Only the completions are printed, not the prompts.
    """
    from randygpt.language_model import load
    from randygpt.model.sampling import Sampling

    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    if is_flag_given(context, "checkpoint") and not is_flag_given(context, "model"):
        model = None  # a flag overrides a setting that excludes it
    language_model = load(model or trained_checkpoint(checkpoint), preset=preset, vocab=vocab)
    if not quiet:
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


def trained_checkpoint(prefix: Path) -> Path:
    """Return the checkpoint that training wrote for a prefix, the best one if it exists.

    Raises:
        CallerError: Training wrote neither file.
    """
    prefix = check_file_path(prefix).with_name(prefix.name.removesuffix(".bin") or prefix.name)
    for path in (prefix.with_name(f"{prefix.name}_best.bin"), prefix.with_name(f"{prefix.name}.bin")):
        if path.is_file():
            return path
    raise CallerError(
        f"neither {prefix}_best.bin nor {prefix}.bin exists; name a checkpoint with --model, or run randygpt train"
    )
