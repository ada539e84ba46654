"""`randygpt train`: train a model on a text file and save checkpoints."""

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from randygpt.cli import systemd
from randygpt.cli.flags import Json, Quiet, check_file_path, complete_preset, is_flag_given, validate_preset
from randygpt.cli.installed import complete_or_file
from randygpt.cli.output import emit, print_stderr
from randygpt.cli.signals import deferred_signals
from randygpt.cli.train_from import find_start
from randygpt.cli.train_report import Report, describe_files, describe_run, loading, next_commands, reading
from randygpt.cli.train_request import TrainRequest
from randygpt.errors import CallerError

if TYPE_CHECKING:
    from randygpt.checkpoint.sidecar import CheckpointInfo
    from randygpt.training.options import TrainOptions
    from randygpt.training.trainer import Trainer

_DEVICES = ("cpu", "cuda", "mps")
EXAMPLE = "Example: randygpt train shakespeare.txt --checkpoint shakespeare"


def train(
    context: typer.Context,
    text: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Text to train on; default: train.txt, or else a built-in sample."),
    ] = None,
    iters: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Total iterations (1000), including those before --resume."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=validate_preset,
            autocompletion=complete_preset,
            help="Model size: xs (default), s, ds, m, l (default of classic), deep or xl.",
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
        typer.Option(metavar="FILE", help="The same as FILE, as in the Rust program."),
    ] = None,
    checkpoint: Annotated[
        Path, typer.Option(metavar="PREFIX", help="Write PREFIX.bin, PREFIX_best.bin and PREFIX.metrics.jsonl.")
    ] = Path("checkpoint"),
    resume: Annotated[
        str | None, typer.Option(metavar="[FILE]", help="Resume from a checkpoint; without FILE, from PREFIX.bin.")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Start a new run from the weights of a model: a release (fetched if not installed), or a file.",
            autocompletion=complete_or_file,
        ),
    ] = None,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Start a new run from the weights of the --resume checkpoint.")
    ] = False,
    recipe: Annotated[
        Literal["classic", "fast"] | None,
        typer.Option(
            metavar="RECIPE",
            help="fast (default), or classic: optimizer, schedule and defaults of the Rust program.",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Batch size (8; classic 64, preset deep 16).")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Split each batch into N parts to save memory.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Random seed; same seed, same model.")] = None,
    lr: Annotated[float | None, typer.Option(metavar="X", help="Maximum learning rate (0.03; classic 1e-4).")] = None,
    min_lr: Annotated[
        float | None, typer.Option(metavar="X", help="Learning rate at the end (0.0015; classic 1e-5).")
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
        str | None,
        typer.Option(
            metavar="NAME",
            help="cpu, cuda or mps; default: the fastest available.",
            autocompletion=lambda incomplete: [name for name in _DEVICES if name.startswith(incomplete)],
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on a text."""
    with loading(shown=not (as_json or quiet)):
        from randygpt.training.device import find_device, tune_malloc
    from randygpt.checkpoint.sidecar import inspect_checkpoint
    from randygpt.training.distributed import process_group
    from randygpt.training.options import TrainFlags
    from randygpt.training.text import DEFAULT_TEXT, Text

    tune_malloc()
    place = find_device(device)
    checkpoint = check_file_path(checkpoint.parent / check_file_path(checkpoint).name.removesuffix(".bin"))
    forked = None if from_ is None else find_start(from_, context, shown=not (as_json or quiet))
    if fine_tune and resume is None:
        resume = ""
    fields = {"n_embd": dim, "n_head": heads, "n_layer": layers, "block_size": block}
    shape = {name: value for name, value in fields.items() if value is not None}
    if forked:
        model = TrainRequest(found=forked.found, fine_tune=True, base=forked.base, forked=True)
    else:
        start = None if resume is None else _resume_path(resume, checkpoint)
        found = inspect_checkpoint(start, preset=preset, shape=shape, vocab=vocab) if start else None
        model = TrainRequest(found=found, fine_tune=fine_tune, preset=preset, shape=shape, bpe=bpe, vocab=vocab)
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
    options = model.resolve_options(flags, device=place, prefix=checkpoint)
    text = _text_path(context, text, train_file)
    _refuse_overwrite([text or DEFAULT_TEXT, None if forked else vocab], options)
    with process_group(place) as world:
        first = world.rank == 0
        if model.continued and model.continued.header.iteration + 1 >= options.iterations:
            if first:
                _report_nothing_to_do(model.continued, options, as_json=as_json)
            return
        if first:  # other processes of a distributed run write nothing
            _check_writable(options.latest.absolute().parent)
        shown = not (as_json or quiet) and first
        warn = print_stderr if shown else lambda _: None
        found_text = Text.find(text)
        with reading(found_text, shown=shown) as stage:
            trainer = model.trainer(options, found_text, world, warn, stage)
        _warn_of_overwrite(trainer, warn)
        warn(describe_run(trainer, found_text.source, start=forked.title if forked else ""))
        _run(trainer, text, as_json=as_json, shown=shown, first=first)


def _text_path(context: typer.Context, text: Path | None, train_file: Path | None) -> Path | None:
    """Return the text to train on: on the command line, FILE and --train-file exclude each other."""
    given = [is_flag_given(context, name) for name in ("text", "train_file")]
    if all(given) and text != train_file:
        raise CallerError(f"two texts: {text} and --train-file {train_file}; name one")
    return train_file if given == [False, True] else text or train_file


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


def _warn_of_overwrite(trainer: "Trainer", warn: Callable[[str], None]) -> None:
    """Warn if the run will overwrite checkpoints of another one."""
    older = [path for path in (trainer.options.latest, trainer.options.best) if path.is_file()]
    if older and not trainer.same_run:
        warn(f"{older[0]} exists: the first save overwrites it (--checkpoint NAME keeps it)")


def _check_writable(folder: Path) -> None:
    """Raise PermissionError early if no file can be created in a folder."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(error.errno, f"cannot create files there ({error.strerror})", str(folder)) from None


def _run(trainer: "Trainer", text: Path | None, *, as_json: bool, shown: bool, first: bool) -> None:
    options = trainer.options
    report = Report(trainer, shown=shown)
    try:
        with deferred_signals() as signals, report.progress():
            finished = trainer.run(report.add, lambda: bool(signals))
    except KeyboardInterrupt:
        if first:
            print_stderr(describe_files(options))
        raise
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):  # torch raises a RuntimeError
            raise
        reason = f"out of memory with batch size {options.batch_size}"
        raise CallerError(f"{reason}; use a smaller --batch, or --accumulate") from None
    if first:
        emit(as_json, report.result(), report.summary(finished=finished))
    if shown:
        print_stderr(next_commands(trainer, text, finished=finished))
    if not finished:
        raise typer.Exit(128 + signals[0])


def _report_nothing_to_do(found: "CheckpointInfo", options: "TrainOptions", *, as_json: bool) -> None:
    """Report that a checkpoint has already reached --iters, without reading the text."""
    header = found.header
    message = f"nothing to do: {found.path} is already at iteration {header.iteration + 1}; pass --iters above that"
    systemd.notify(status=message, ready=True)
    print_stderr(message)
    result = {
        "iteration": header.iteration,
        "best_val_loss": header.best_loss if math.isfinite(header.best_loss) else None,
        "checkpoint": str(options.latest),
        "best": str(options.best) if options.best.is_file() else None,
    }
    if as_json:
        emit(as_json, result, "")
