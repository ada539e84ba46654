"""`randygpt eval`: loss, perplexity and bits per byte of a model on a text."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli.flags import Json, ModelPreset, ModelVocab, Quiet
from randygpt.cli.models import DefaultModelArgument, find_model, note_default
from randygpt.cli.output import byte_progress, emit

if TYPE_CHECKING:
    from randygpt.model.evaluation import Evaluation
    from randygpt.training.text import Text

EXAMPLE = "Example: randygpt eval shakespeare_best.bin --file test.txt"


def evaluate(
    file: Annotated[Path, typer.Option(metavar="TEXT", help="Text to evaluate on; - for standard input.")],
    model: DefaultModelArgument = None,
    preset: ModelPreset = None,
    vocab: ModelVocab = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how well a model predicts a text.

    Bits per byte compares any two models: the lower, the better. Use a text that neither was trained on.
    """
    from randygpt.language_model import load

    text, size = _read(file)
    named = find_model(model)
    if model is None and not quiet:
        note_default(named)
    language_model = load(named.path, preset=preset, vocab=vocab)
    with byte_progress(f"evaluating on {text.source}", shown=not quiet) as update:
        found = language_model.evaluate(text, on_progress=lambda done: update(done, max(size, done)))
    emit(as_json, found.to_json(), _text(found))


def _read(file: Path) -> "tuple[Text, int]":
    """Return the text and its size in bytes; 0 if it is unknown."""
    from randygpt.training.text import Text

    if str(file) == "-":
        data = sys.stdin.buffer.read()
        return Text.of(data, "standard input"), len(data)
    return Text.find(file), file.stat().st_size


def _text(found: "Evaluation") -> str:
    lines = {
        "loss": f"{found.loss:.4f} nats per token",
        "perplexity": f"{found.perplexity:,.2f}",
        "bits per byte": f"{found.bits_per_byte:.4f}",
        "text": f"{found.bytes:,} bytes, {found.tokens:,} tokens",
    }
    if found.unknown:
        lines["unknown"] = f"{found.unknown:,} characters not in the vocabulary, counted at 8 bits per byte"
    return "\n".join(f"{label:<13}  {value}" for label, value in lines.items())
