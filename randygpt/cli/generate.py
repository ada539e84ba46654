"""`randygpt generate`: text from a checkpoint, as it is drawn."""

from pathlib import Path
from typing import Annotated

import typer

from randygpt.cli.output import Json, Quiet, check_file_path, emit, is_flag_given, validate_preset, write
from randygpt.errors import CallerError

EXAMPLE = 'Example: randygpt generate "Once upon a time" --model shakespeare_best.bin --seed 1'

Prefix = Annotated[
    Path, typer.Option(metavar="PREFIX", help="Where no --model is named: PREFIX_best.bin, else PREFIX.bin.")
]


def generate(
    context: typer.Context,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="None: from the beginning.")
    ] = None,
    model: Annotated[Path | None, typer.Option(metavar="FILE", help="A checkpoint, or a release's folder.")] = None,
    checkpoint: Prefix = Path("checkpoint"),
    preset: Annotated[
        str | None, typer.Option(callback=validate_preset, help="Its shape, where nothing beside the file says.")
    ] = None,
    vocab: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its vocab.json, if not what is beside the file.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Stop after so many tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens of this probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from so many likeliest tokens; 0: all.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Same seed, same text.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End where this text would begin; repeat for more.")
    ] = None,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Write on from a prompt, or from several; the completion alone is printed."""
    from randygpt.language_model import load
    from randygpt.model.sampling import Sampling

    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    if is_flag_given(context, "checkpoint") and not is_flag_given(context, "model"):
        model = None  # a flag outweighs a setting that does not go with it
    language_model = load(model or trained(checkpoint), preset=preset, vocab=vocab)
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


def trained(prefix: Path) -> Path:
    """The better of the files that training leaves; raises CallerError if there is none."""
    prefix = check_file_path(prefix).with_name(prefix.name.removesuffix(".bin") or prefix.name)
    for path in (prefix.with_name(f"{prefix.name}_best.bin"), prefix.with_name(f"{prefix.name}.bin")):
        if path.is_file():
            return path
    raise CallerError(f"neither {prefix}_best.bin nor {prefix}.bin is there; name a file with --model, or train one")
