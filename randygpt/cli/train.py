"""`randygpt train`: from a text to a checkpoint."""

import contextlib
import math
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli.output import Json, Quiet, emit, remark
from randygpt.config import DEFAULT_PRESET, ModelConfig, default_batch_size
from randygpt.errors import CallerError

if TYPE_CHECKING:
    from randygpt.text import Text
    from randygpt.tokenizer import Tokenizer
    from randygpt.train import Step, Trainer, TrainOptions

EXAMPLE = "Example: randygpt train --preset xs --iters 200 --train-file shakespeare.txt --checkpoint shakespeare"


def train(
    iters: Annotated[int, typer.Option(min=1, help="Iterations in all, those before a --resume included.")] = 1000,
    preset: Annotated[str | None, typer.Option(help="xs, s, ds, m, l (default), deep or xl.")] = None,
    train_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text to learn; else train.txt, else a built-in sample.")
    ] = None,
    checkpoint: Annotated[
        Path, typer.Option(metavar="PREFIX", help="Writes PREFIX.bin, PREFIX_best.bin and PREFIX.metrics.jsonl.")
    ] = Path("checkpoint"),
    resume: Annotated[
        str | None, typer.Option(metavar="[FILE]", help="Go on from a checkpoint; without a file, from PREFIX.bin.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Windows in a step (64; deep 16).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same model.")] = None,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-4,
    min_lr: Annotated[float, typer.Option(help="Learning rate at the end.")] = 1e-5,
    bpe: Annotated[
        int | None, typer.Option(min=2, metavar="[SIZE]", help="Learn byte pairs: a vocabulary of SIZE (2000).")
    ] = None,
    vocab: Annotated[Path | None, typer.Option(metavar="FILE", help="Use the vocabulary in this vocab.json.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32 or bf16, of the matrix products; by default the faster.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default the fastest there is.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on a text: characters, or byte pairs with --bpe."""
    from randygpt.sidecar import read_sidecar
    from randygpt.text import Text
    from randygpt.train import DEFAULT_SEED, TrainOptions, fastest_precision, keep_memory

    keep_memory()
    text = Text.find(train_file)
    checkpoint = checkpoint.with_name(checkpoint.name.removesuffix(".bin"))
    if not checkpoint.name or not checkpoint.absolute().parent.is_dir():
        raise CallerError(f"{checkpoint}: not a name in a folder that exists")
    start = None if resume is None else Path(resume or f"{checkpoint}.bin")
    before = read_sidecar(start) if start else None  # what that run was told holds, where nothing else is said
    remembered = before.remembered if before else lambda _name, default: default
    place = _device(device)
    options = TrainOptions(
        iterations=iters,
        batch_size=batch or remembered("batch_size", default_batch_size(preset or DEFAULT_PRESET)),
        seed=seed if seed is not None else remembered("seed", DEFAULT_SEED),
        peak_rate=lr,
        lowest_rate=min(min_lr, lr),
        device=place,
        precision=precision or (before and before.training.get("precision")) or fastest_precision(place),
        prefix=checkpoint,
    )
    shown = not (as_json or quiet)
    tell = remark if shown else lambda _: None
    if start:
        trainer = _resume(options, text, start, preset, vocab, bpe, tell)
    else:
        trainer = _start(options, text, preset, vocab, bpe, tell)
    if shown:
        shape = f"{trainer.model.config.name}, {trainer.model.config.parameter_count:,} parameters"
        remark(f"{shape}, {options.device}, {options.precision}, text: {text.source}")
    if trainer.next_iteration >= iters:
        remark(f"nothing to do: {start} is at iteration {trainer.next_iteration} of {iters}")
        return
    _run(trainer, as_json=as_json, shown=shown)


def _resume(
    options: "TrainOptions",
    text: "Text",
    start: Path,
    preset: str | None,
    vocab: Path | None,
    bpe: int | None,
    tell: Callable[[str], None],
) -> "Trainer":
    from randygpt.train import Trainer

    trainer = Trainer.resume(options, text, start, preset=preset, vocab=vocab, tell=tell)
    if bpe and trainer.tokenizer.kind != "bpe":
        raise CallerError(f"{start} was trained on characters, and --bpe asks for byte pairs")
    return trainer


def _start(
    options: "TrainOptions",
    text: "Text",
    preset: str | None,
    vocab: Path | None,
    bpe: int | None,
    tell: Callable[[str], None],
) -> "Trainer":
    from randygpt.sidecar import read_tokenizer
    from randygpt.tokenizer import BpeTokenizer
    from randygpt.train import Trainer

    tokenizer: Tokenizer | None = read_tokenizer(vocab) if vocab else None
    if bpe and not tokenizer:
        tokenizer = BpeTokenizer.train(text, bpe, show_progress=tell is remark and sys.stderr.isatty(), tell=tell)
    name = options.prefix.name

    def config(vocab_size: int) -> ModelConfig:
        return ModelConfig.from_preset(preset or DEFAULT_PRESET, vocab_size=vocab_size)

    name = "" if name == "checkpoint" else name
    return Trainer.start(options, text, config, tokenizer=tokenizer, name=name, tell=tell)


def _device(asked: str | None) -> str:
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked is None:
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there.get(asked.split(":")[0]):
        raise CallerError(f"no device {asked} here; there are {', '.join(name for name in there if there[name])}")
    return asked


def _run(trainer: "Trainer", *, as_json: bool, shown: bool) -> None:
    options = trainer.options
    with _interruptible() as signals, _bar(trainer, shown=shown) as on_step:
        finished = trainer.run(on_step, lambda: bool(signals))
    best = trainer.best_loss
    result = {
        "iteration": trainer.next_iteration - 1,
        "best_val_loss": best if math.isfinite(best) else None,
        "checkpoint": str(options.newest),
        "best": str(options.best),
    }
    measured = f", best validation loss {best:.4f}" if math.isfinite(best) else ""
    emit(as_json, result, f"{options.best} and {options.newest}: iteration {trainer.next_iteration - 1}{measured}")
    if not finished:
        raise typer.Exit(128 + signals[0])


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that the step under way ends and is saved; a second one ends everything."""
    received: list[int] = []
    before = {}

    def note(number: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        remark("saving; once more to stop at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _bar(trainer: "Trainer", *, shown: bool) -> "Iterator[Callable[[Step], None]]":
    """A bar on a terminal, nothing elsewhere."""
    if not shown or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=trainer.options.iterations, completed=trainer.next_iteration)
        perplexity = "-"

        def show(step: "Step") -> None:
            nonlocal perplexity
            if step.val_loss is not None:
                perplexity = f"{math.exp(min(step.val_loss, 99)):.2f}"
            words = f"loss {step.loss:.4f}  val ppl {perplexity}  {step.ms:.0f} ms/iter"
            progress.update(task, completed=step.iteration + 1, description=words)

        yield show
