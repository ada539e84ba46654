"""`randygpt export` and `randygpt import`: a checkpoint as other programs take it, and back."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from randygpt.cli.output import Json, Quiet, check_file_path, emit, format_size
from randygpt.errors import CallerError

EXPORT_EXAMPLE = "Example: randygpt export --format hf shakespeare_best.bin shakespeare-hf"
IMPORT_EXAMPLE = "Example: randygpt import shakespeare-hf shakespeare2"


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint, or the folder of a fetched release.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not there yet, or empty.")],
    kind: Annotated[
        Literal["safetensors", "hf"],
        typer.Option("--format", help="hf: as transformers loads it. safetensors: moments too, for `import`."),
    ] = "safetensors",
    preset: Annotated[str | None, typer.Option(help="Its shape, where nothing beside the file says.")] = None,
    vocab: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its vocab.json, if not what is beside the file.")
    ] = None,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Write a checkpoint as safetensors, or as a folder that transformers loads."""
    from randygpt.checkpoint.export import export_model
    from randygpt.checkpoint.sidecar import find_checkpoint, inspect_checkpoint

    names = export_model(inspect_checkpoint(find_checkpoint(file), preset=preset, vocab=vocab), folder, kind)
    total = format_size(sum((folder / name).stat().st_size for name in names))
    result = {"folder": str(folder), "format": kind, "files": names}
    emit(as_json, result, f"{folder}: {', '.join(names)} ({total})")


def import_model(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `export` wrote, or transformers saved of it.")],
    target: Annotated[
        Path | None, typer.Argument(metavar="[PREFIX]", help="Writes PREFIX.bin, and PREFIX.json; default: DIR's name.")
    ] = None,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Make a checkpoint of an exported folder: RGPT0003 where it has moments, else RGPT0002."""
    from randygpt.checkpoint import export as logic

    prefix = check_file_path(target or Path(folder.resolve().name))
    path = prefix.with_name(f"{prefix.name.removesuffix('.bin')}.bin")
    if path.name == ".bin":
        raise CallerError(f"{prefix}: not a name for a checkpoint")
    checkpoint = logic.import_model(folder, path)
    has_moments = checkpoint.optimizer_state is not None
    result = {
        "checkpoint": str(path),
        "format": "RGPT0003" if has_moments else "RGPT0002",
        "moments": has_moments,
        "parameters": checkpoint.config.parameter_count,
        "iteration": checkpoint.header.iteration,
    }
    moments = "with the optimizer's moments" if has_moments else "weights only"
    emit(as_json, result, f"{path}: {result['format']}, {moments}, {checkpoint.config.parameter_count:,} parameters")
