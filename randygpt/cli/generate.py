"""`randygpt generate`: print text from a checkpoint while it is generated."""

import itertools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli.flags import Json, ModelPreset, ModelVocab, Quiet, is_flag_given
from randygpt.cli.interactive import generate_interactively
from randygpt.cli.models import ModelOption, NamedModel, Prefix, find_model, note_default, trained_checkpoint
from randygpt.cli.output import emit, print_stderr, write
from randygpt.errors import CallerError
from relay_client.errors import quote

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
    min_p: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="X", help="Sample from tokens at least X times as likely as the likeliest; 0: all."
        ),
    ] = 0.0,
    repeat_penalty: Annotated[
        float,
        typer.Option(
            metavar="X", help="Make tokens among the last 64 less likely, dividing their logits by X; 1: off."
        ),
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Random seed; same seed, same text.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Stop before this text would appear; repeat for more.")
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Read a prompt per line, from the terminal or standard input.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate text from one or more prompts.

    Only the completions are printed, not the prompts. Without --model and --checkpoint, the current release writes, or
    else checkpoint_best.bin or checkpoint.bin in this folder.

    With --interactive, Ctrl-C stops the text, Ctrl-D leaves, and an empty line continues the last text.
    """
    from randygpt.language_model import load
    from randygpt.model.sampling import Sampling

    if interactive and as_json:
        raise CallerError("--interactive and --json exclude each other")
    try:
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
        )
    except CallerError as error:  # which begins with the name of the field
        field, _, reason = str(error).partition(" ")
        raise CallerError(f"--{field.replace('_', '-')} {reason}") from None
    if is_flag_given(context, "checkpoint") and not is_flag_given(context, "model"):
        model = None  # a flag overrides a setting that excludes it
    named = NamedModel(path=trained_checkpoint(checkpoint)) if checkpoint and not model else find_model(model)
    language_model = load(named.path, preset=preset, vocab=vocab)
    if model is None and not quiet:
        note_default(named)
    if not quiet:
        _warn_of_stops(language_model.tokenizer, stop or [])

    def continue_text(prompt: str) -> Iterator[str]:
        if not quiet:
            _warn_of_unknown(language_model.tokenizer, prompt)
        return language_model.stream(prompt, sampling, stop or ())

    if interactive:
        generate_interactively(continue_text, prompts or [], quiet=quiet)
    elif as_json:
        completions = [{"prompt": prompt, "text": "".join(continue_text(prompt))} for prompt in prompts or [""]]
        emit(as_json, {"completions": completions}, "")
    else:
        _print_all(continue_text, prompts or [""], quiet=quiet)


def _print_all(continue_text: Callable[[str], Iterator[str]], prompts: list[str], *, quiet: bool) -> None:
    """Print the completion of each prompt, as it is generated, until its reader is gone."""
    for number, prompt in enumerate(prompts, start=1):
        if len(prompts) > 1 and sys.stdout.isatty() and not quiet:
            print_stderr(f"prompt {number} of {len(prompts)}: {quote(prompt)}")
        if not all(write(part) for part in itertools.chain(continue_text(prompt), "\n")):
            return


def _warn_of_unknown(tokenizer: "Tokenizer", prompt: str) -> None:
    """Report how many characters of a prompt the vocabulary lacks, in one line."""
    if dropped := tokenizer.count_unknown(prompt):
        print_stderr(f"{dropped} of {len(prompt)} characters of the prompt are not in the vocabulary and are dropped")


def _warn_of_stops(tokenizer: "Tokenizer", stops: list[str]) -> None:
    """Report stop sequences that cannot appear, since the vocabulary lacks some of their characters."""
    for text in stops:
        if tokenizer.count_unknown(text):
            unknown = "".join(dict.fromkeys(letter for letter in text if tokenizer.count_unknown(letter)))
            print_stderr(f"--stop {quote(text)} never appears: the vocabulary lacks {quote(unknown)}")
