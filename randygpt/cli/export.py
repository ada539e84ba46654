"""`randygpt export` and `randygpt import`: convert checkpoints to and from safetensors."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from randygpt.cli.flags import Json, ModelPreset, ModelVocab, Quiet, check_file_path
from randygpt.cli.models import ModelArgument, find_model
from randygpt.cli.output import emit, format_size
from randygpt.errors import CallerError

EXPORT_EXAMPLE = "Example: randygpt export --format hf shakespeare_best.bin shakespeare-hf"
IMPORT_EXAMPLE = "Example: randygpt import shakespeare-hf shakespeare2"


def export(
    model: ModelArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; new or empty.")],
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
    _quiet: Quiet = False,
) -> None:
    """Export a checkpoint as safetensors, or for transformers."""
    from randygpt.checkpoint.export import export_model
    from randygpt.checkpoint.sidecar import inspect_checkpoint

    names = export_model(inspect_checkpoint(find_model(model).path, preset=preset, vocab=vocab), folder, kind)
    total = format_size(sum((folder / name).stat().st_size for name in names))
    result = {"folder": str(folder), "format": kind, "files": names}
    emit(as_json, result, f"{folder}: {', '.join(names)} ({total})")


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
