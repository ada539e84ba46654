"""`randygpt train`: train a model on a text file and save checkpoints."""

import contextlib
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from randygpt.cli import systemd
from randygpt.cli.flags import Json, Quiet, check_file_path, validate_preset
from randygpt.cli.output import emit, print_stderr, progress_console
from randygpt.cli.signals import deferred_signals
from randygpt.errors import CallerError, InvalidModelFile
from randygpt.model.config import DEFAULT_PRESET, ModelConfig

if TYPE_CHECKING:
    from randygpt.checkpoint.sidecar import CheckpointInfo, Sidecar
    from randygpt.training.checkpointing import Step
    from randygpt.training.distributed import World
    from randygpt.training.options import TrainFlags, TrainOptions
    from randygpt.training.trainer import Trainer

EXAMPLE = "Example: randygpt train --preset xs --iters 200 --train-file shakespeare.txt --checkpoint shakespeare"


def train(
    iters: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Total iterations (1000), including those before --resume."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", callback=validate_preset, help="Model size: xs, s, ds, m, l (default), deep or xl."
        ),
    ] = None,
    dim: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Embedding width, instead of the preset's.")
    ] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Attention heads, instead of the preset's.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Layers, instead of the preset's.")] = None,
    block: Annotated[int | None, typer.Option(min=1, metavar="N", help="Context length in tokens (256).")] = None,
    train_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text to train on; default: train.txt, or else a built-in sample."),
    ] = None,
    checkpoint: Annotated[
        Path, typer.Option(metavar="PREFIX", help="Write PREFIX.bin, PREFIX_best.bin and PREFIX.metrics.jsonl.")
    ] = Path("checkpoint"),
    resume: Annotated[
        str | None, typer.Option(metavar="[FILE]", help="Resume from a checkpoint; without FILE, from PREFIX.bin.")
    ] = None,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Start a new run from the weights of the --resume checkpoint.")
    ] = False,
    recipe: Annotated[
        Literal["classic", "fast"] | None,
        typer.Option(
            metavar="RECIPE", help="classic, as in the Rust program, or fast, with another optimizer and schedule."
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Batch size (64; preset deep 16; recipe fast 8).")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Split each batch into N parts to save memory.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Random seed; same seed, same model.")] = None,
    lr: Annotated[float | None, typer.Option(metavar="X", help="Maximum learning rate (1e-4; fast 0.03).")] = None,
    min_lr: Annotated[
        float | None, typer.Option(metavar="X", help="Learning rate at the end (1e-5; fast 0.0015).")
    ] = None,
    bpe: Annotated[
        int | None,
        typer.Option(
            min=2, metavar="[SIZE]", help="Train a BPE vocabulary of SIZE tokens (2000); default: characters."
        ),
    ] = None,
    vocab: Annotated[Path | None, typer.Option(metavar="FILE", help="Use an existing vocab.json.")] = None,
    drop_unknown: Annotated[
        bool,
        typer.Option(
            "--drop-unknown", help="Train even if the vocabulary lacks more than 20 % of the text's characters."
        ),
    ] = False,
    precision: Annotated[
        Literal["float32", "bf16"] | None,
        typer.Option(metavar="KIND", help="float32 or bf16 for the layers; default: the faster one."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="cpu, cuda or mps; default: the fastest available.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on a text."""
    from randygpt.checkpoint.sidecar import inspect_checkpoint
    from randygpt.training.device import find_device, tune_malloc
    from randygpt.training.distributed import process_group
    from randygpt.training.options import TrainFlags
    from randygpt.training.text import DEFAULT_TEXT

    tune_malloc()
    place = find_device(device)
    checkpoint = check_file_path(checkpoint.parent / check_file_path(checkpoint).name.removesuffix(".bin"))
    if fine_tune and resume is None:
        resume = ""
    fields = {"n_embd": dim, "n_head": heads, "n_layer": layers, "block_size": block}
    shape = {name: value for name, value in fields.items() if value is not None}
    start = None if resume is None else _resume_path(resume, checkpoint)
    found = inspect_checkpoint(start, preset=preset, shape=shape, vocab=vocab) if start else None
    model = _ModelRequest(found=found, fine_tune=fine_tune, preset=preset, shape=shape, bpe=bpe, vocab=vocab)
    flags = TrainFlags(
        iterations=iters,
        recipe=recipe,
        batch_size=batch,
        accumulate=accumulate,
        seed=seed,
        max_lr=lr,
        min_lr=min_lr,
        precision=precision,
        drop_unknown=drop_unknown or None,
    )
    options = _resolve_options(model, flags, device=place, prefix=checkpoint)
    _refuse_overwrite([train_file or DEFAULT_TEXT, vocab], options)
    with process_group(place) as world:
        first = world.rank == 0
        if found and not fine_tune and found.header.iteration + 1 >= options.iterations:
            if first:
                _report_nothing_to_do(found, options, as_json=as_json)
            return
        if first:  # other processes of a distributed run write nothing
            _check_writable(options.latest.absolute().parent)
        shown = not (as_json or quiet) and first
        trainer = _trainer(model, options, train_file, world, print_stderr if shown else lambda _: None)
        _run(trainer, as_json=as_json, shown=shown, first=first)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ModelRequest:
    """The model that the user asks to train."""

    found: "CheckpointInfo | None"  # checkpoint to resume
    fine_tune: bool
    preset: str | None
    shape: Mapping[str, int]  # overrides the preset
    bpe: int | None
    vocab: Path | None

    @property
    def resumed(self) -> "Sidecar | None":
        """Sidecar of the run to continue; None for a new run."""
        return self.found.sidecar if self.found and not self.fine_tune else None


def _resume_path(named_file: str, prefix: Path) -> Path:
    """Return the checkpoint that --resume names; raises CallerError if a bare --resume finds only PREFIX_best.bin."""
    newest, best = Path(f"{prefix}.bin"), Path(f"{prefix}_best.bin")
    if not named_file and not newest.is_file() and best.is_file():
        raise CallerError(f"{newest} does not exist; to resume from the best checkpoint, use --resume {best}")
    return Path(named_file) if named_file else newest


def _refuse_overwrite(inputs: Sequence[Path | None], options: "TrainOptions") -> None:
    """Raise CallerError if training would overwrite one of its input files."""
    from randygpt.checkpoint.sidecar import sidecar_path

    written = [options.latest, options.best, options.metrics, *map(sidecar_path, (options.latest, options.best))]
    for path in inputs:
        if path and path.resolve() in {each.resolve() for each in written}:
            raise CallerError(f"{path}: training would overwrite this input file; choose another --checkpoint")


def _check_writable(folder: Path) -> None:
    """Raise PermissionError early if no file can be created in a folder."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(error.errno, f"cannot create files there ({error.strerror})", str(folder)) from None


def _resolve_options(model: _ModelRequest, flags: "TrainFlags", **others: Any) -> "TrainOptions":  # noqa: ANN401 (fields of TrainOptions)
    """Return the options of a run: flags override the resumed run, which overrides the recipe."""
    from randygpt.training.device import fastest_precision
    from randygpt.training.options import resolve_options

    return resolve_options(
        flags,
        resumed=model.resumed,
        preset=model.found.config.preset if model.found else model.preset or DEFAULT_PRESET,
        precision=fastest_precision(others["device"]),
        **others,
    )


def _trainer(
    model: _ModelRequest, options: "TrainOptions", train_file: Path | None, world: "World", warn: Callable[[str], None]
) -> "Trainer":
    from randygpt.checkpoint.sidecar import read_tokenizer
    from randygpt.model.tokenizer import BpeTokenizer
    from randygpt.training.options import describe_changes
    from randygpt.training.text import Text
    from randygpt.training.trainer import Trainer

    text = Text.find(train_file)
    prefix = os.fsencode(options.prefix.name).decode(errors="replace")  # a file name may not be text
    name = "" if prefix == "checkpoint" else prefix
    if model.found:
        trainer = Trainer.resume(
            options, text, model.found, fine_tune=model.fine_tune, name=name, world=world, warn=warn
        )
        tokenizer = trainer.tokenizer
        if model.bpe and tokenizer.kind != "bpe":
            raise CallerError(f"{model.found.path} has a character vocabulary; resume it without --bpe")
        if model.bpe and model.bpe != tokenizer.vocab_size:
            warn(f"--bpe {model.bpe} ignored: {model.found.path} has a vocabulary of {tokenizer.vocab_size} tokens")
    else:
        given = read_tokenizer(model.vocab) if model.vocab else None
        if model.bpe and not given:
            shown = warn is print_stderr and sys.stderr.isatty()
            try:
                given = BpeTokenizer.train(text, model.bpe, show_progress=shown, warn=warn)
            except InvalidModelFile as error:
                raise InvalidModelFile(f"{text.source}: {str(error).removeprefix(f'{text.source}: ')}") from None

        def config(vocab_size: int) -> ModelConfig:
            return ModelConfig.from_preset(model.preset or DEFAULT_PRESET, vocab_size=vocab_size, **model.shape)

        trainer = Trainer.start(options, text, config, tokenizer=given, name=name, world=world, warn=warn)
    if model.resumed and (changes := describe_changes(options, model.resumed)):
        warn(changes)
    older = [path for path in (options.latest, options.best) if path.is_file()]
    if older and not trainer.same_run:
        warn(f"{older[0]} already exists: the first save overwrites it (use another --checkpoint to keep it)")
    shape = f"{trainer.model.config.name}, {trainer.model.config.parameter_count:,} parameters"
    warn(f"{shape}, {options.device}, {options.precision}, text: {text.source}")
    return trainer


def _run(trainer: "Trainer", *, as_json: bool, shown: bool, first: bool) -> None:
    options = trainer.options
    with deferred_signals() as signals, _bar(trainer, shown=shown) as on_step:
        try:
            finished = trainer.run(_with_service_status(on_step, options.iterations), lambda: bool(signals))
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "memory" not in str(error):  # torch raises a RuntimeError
                raise
            reason = f"out of memory with batch size {options.batch_size}"
            raise CallerError(f"{reason}; use a smaller --batch, or --accumulate") from None
    iteration, best = trainer.next_iteration - 1, trainer.best_loss
    measured = f"best validation loss {best:.4f}" if math.isfinite(best) else "validation loss not measured yet"
    if first:
        text = f"saved {options.latest} (iteration {iteration}) and {options.best} ({measured})"
        emit(as_json, _result(options, iteration, best), text)
    if not finished:
        raise typer.Exit(128 + signals[0])


def _with_service_status(on_step: "Callable[[Step], None]", iterations: int) -> "Callable[[Step], None]":
    """Return `on_step`, extended to report the progress to the service manager at most once per second."""
    last_report = -math.inf

    def report(step: "Step") -> None:
        nonlocal last_report
        if time.monotonic() - last_report > 1:
            last_report = time.monotonic()
            status = f"iteration {step.iteration + 1} of {iterations}, loss {step.loss:.4f}"
            systemd.notify(status=status, ready=True, alive=True)
        on_step(step)

    return report


def _report_nothing_to_do(found: "CheckpointInfo", options: "TrainOptions", *, as_json: bool) -> None:
    """Report that a checkpoint has already reached --iters, without reading the text."""
    header = found.header
    done = header.iteration + 1
    message = f"nothing to do: {found.path} is at iteration {done}; to continue, pass --iters above {done}"
    systemd.notify(status=message, ready=True)
    print_stderr(message)
    if as_json:
        emit(as_json, _result(options, header.iteration, header.best_loss), "")


def _result(options: "TrainOptions", iteration: int, best: float) -> dict[str, object]:
    return {
        "iteration": iteration,
        "best_val_loss": best if math.isfinite(best) else None,
        "checkpoint": str(options.latest),
        "best": str(options.best),
    }


@contextlib.contextmanager
def _bar(trainer: "Trainer", *, shown: bool) -> "Iterator[Callable[[Step], None]]":
    """Show a progress bar on a terminal, and nothing elsewhere; yields the callback for each step."""
    if not shown or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=progress_console()) as progress:
        task = progress.add_task("", total=trainer.options.iterations, completed=trainer.next_iteration)
        perplexity = "-"

        def show(step: "Step") -> None:
            nonlocal perplexity
            if step.val_loss is not None:
                perplexity = f"{math.exp(min(step.val_loss, 99)):.2f}"
            description = f"loss {step.loss:.4f}  val ppl {perplexity}  {step.ms:.0f} ms/iter"
            progress.update(task, completed=step.iteration + 1, description=description)

        yield show
