"""`randygpt export` and `randygpt import`: convert checkpoints to and from safetensors, or write a release's events."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from randygpt.cli import installed
from randygpt.cli.events_output import check_events_output, open_events_output, report_events_output
from randygpt.cli.flags import Json, ModelPreset, ModelVocab, Quiet, check_file_path
from randygpt.cli.models import ModelArgument, find_model
from randygpt.cli.output import byte_progress, emit, format_size, print_stderr
from randygpt.cli.usage import UsageError
from randygpt.errors import CallerError

EXPORT_EXAMPLE = "Example: randygpt export --format hf shakespeare_best.bin shakespeare-hf"
IMPORT_EXAMPLE = "Example: randygpt import shakespeare-hf shakespeare2"


def export(
    context: typer.Context,
    model: ModelArgument,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            help="Folder to write, new or empty; with --events a file, default: standard output.",
            show_default=False,
        ),
    ] = None,
    events: Annotated[
        bool, typer.Option("--events", help="Write the signed events of an installed release instead (JSONL).")
    ] = False,
    kind: Annotated[
        Literal["safetensors", "hf"],
        typer.Option(
            "--format",
            metavar="NAME",
            help="hf, to load with transformers; or safetensors, with optimizer state, to `import` again.",
        ),
    ] = "safetensors",
    preset: ModelPreset = None,
    vocab: ModelVocab = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export a checkpoint as safetensors, or for transformers; or the events of a release."""
    if events:
        _export_events(model, folder or Path("-"), as_json=as_json, quiet=quiet)
        return
    if folder is None:
        raise UsageError("Missing argument 'DIR'.", context)
    from randygpt.checkpoint.export import export_model
    from randygpt.checkpoint.sidecar import inspect_checkpoint
    from randygpt.origins import origin_of

    named = find_model(model)
    base = origin_of(named.release) if named.release else None
    found = inspect_checkpoint(named.path, preset=preset, vocab=vocab)
    names = export_model(found, folder, kind, base=base)
    total = format_size(sum((folder / name).stat().st_size for name in names))
    result = {"folder": str(folder), "format": kind, "files": names}
    emit(as_json, result, f"{folder}: {', '.join(names)} ({total})")


def _export_events(model: str | None, out: Path, *, as_json: bool, quiet: bool) -> None:
    """Write the events of an installed release to a file; exit code 4 if chunks are not installed."""
    from distribution.event_writer import EventWriter
    from distribution.local_release import LocalRelease

    check_events_output(out, as_json=as_json)
    store, trusted, release = installed.find_release(model or "current")
    local = LocalRelease(store, release, now=int(time.time()))
    with open_events_output(out) as file, byte_progress("writing", shown=not (as_json or quiet)) as on_progress:
        written = EventWriter(file, on_progress=on_progress).write_installed(local)
    if written.copies and not quiet:
        print_stderr(f"{written.copies:,} chunks are copies: the author's signatures on them are not in the store")
    if not written.head and not quiet:
        print_stderr("no head: the release was fetched by id, so relays that import the file find it by id only")
    if written.missing:
        print_stderr(f"{written.missing:,} chunks are missing: their data is not in the store (weights only?)")
    result = installed.release_json(release, trusted) | asdict(written) | {"out": str(out)}
    size = f"{written.events:,} events, {format_size(written.bytes)}"
    text = f"{installed.release_title(release, trusted)}: {size}{'' if out == Path('-') else f' in {out}'}"
    report_events_output(out, result, text, as_json=as_json, quiet=quiet)
    if written.missing:
        raise typer.Exit(4)


def import_model(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `export` or transformers wrote.")],
    target: Annotated[
        Path | None, typer.Argument(metavar="PREFIX", help="Write PREFIX.bin and PREFIX.json; default: name of DIR.")
    ] = None,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Import an exported folder as a checkpoint.

    Writes RGPT0003 if the folder has optimizer state, else RGPT0002.
    """
    from randygpt.checkpoint import export as logic

    prefix = check_file_path(target or Path(folder.resolve().name))
    path = prefix.with_name(f"{prefix.name.removesuffix('.bin')}.bin")
    if path.name == ".bin":
        raise CallerError(f"{prefix}: not a file name")
    checkpoint = logic.import_model(folder, path)
    has_moments = checkpoint.optimizer_state is not None
    result = {
        "checkpoint": str(path),
        "format": "RGPT0003" if has_moments else "RGPT0002",
        "moments": has_moments,
        "parameters": checkpoint.config.parameter_count,
        "iteration": checkpoint.header.iteration,
    }
    moments = "with optimizer state" if has_moments else "weights only"
    emit(as_json, result, f"{path}: {result['format']}, {moments}, {checkpoint.config.parameter_count:,} parameters")
