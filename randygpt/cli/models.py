"""The models that a command line names: files, prefixes of training runs and installed releases. Reads the disk."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from randygpt.cli import installed
from randygpt.cli.flags import check_file_path
from randygpt.cli.output import print_stderr
from randygpt.errors import CallerError
from randygpt.user.config_files import expand_user
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.installed import InstalledRelease

DEFAULT_PREFIX = Path("checkpoint")
_RECORD = "release.json"  # of the folder of an installed release
MODEL_HELP = "Checkpoint, its PREFIX, or an installed release: its name, id, current, previous…"

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help=MODEL_HELP, autocompletion=installed.complete_or_file)
]
DefaultModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help=f"{MODEL_HELP} Default: the current release, or else PREFIX checkpoint.",
        autocompletion=installed.complete_or_file,
    ),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help=MODEL_HELP, autocompletion=installed.complete_or_file)
]
Prefix = Annotated[Path | None, typer.Option(metavar="PREFIX", help="Use PREFIX_best.bin, or else PREFIX.bin.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """A model on this machine: its checkpoint file, and the installed release that has it."""

    path: Path
    release: "InstalledRelease | None" = None  # None for a file outside the store


def find_model(which: str | None, *, prefix: Path = DEFAULT_PREFIX) -> NamedModel:
    """Find the model that a word names, or the default model.

    Args:
        which: A checkpoint file, a folder with one, the PREFIX of a training run, or a name of an installed release
            as `distribution.resolve` knows it, in this order. None: the current release, or else `prefix`.
        prefix: PREFIX of the training run to use if nothing is named and no release is current.

    Raises:
        CallerError: Nothing matches, or several releases do.
        StorageError: The store is damaged.
    """
    if which is None:
        return _default(prefix)
    from randygpt.checkpoint.sidecar import find_checkpoint

    if path := find_file(which):
        return NamedModel(path=path)
    try:
        _, _, release = installed.find_release(which)
    except CallerError:
        if os.path.isdir(which):  # noqa: PTH112 (false for text that cannot be a path)
            find_checkpoint(Path(which))  # raises an error that says what is wrong with the folder
        raise
    return NamedModel(path=release.file("checkpoint").local_path, release=release)


def find_file(which: str) -> Path | None:
    """Return the checkpoint file that a word names: a file, a folder with one, or a PREFIX; None if there is none.

    Raises:
        CallerError: The folder contains several checkpoints.
    """
    from randygpt.checkpoint.sidecar import find_checkpoint

    path = expand_user(Path(which)) if which.startswith("~") else Path(which)
    try:
        if path.is_file():
            return path
        if path.is_dir() and ((path / _RECORD).is_file() or any(path.glob("*.bin"))):
            return find_checkpoint(path)
        return _trained(path) if path.suffix != ".bin" else None
    except (OSError, ValueError):  # too long for a file name, or not a path
        return None


def trained_checkpoint(prefix: Path) -> Path:
    """Return the checkpoint that training wrote for a prefix, the best one if it exists.

    Raises:
        CallerError: Training wrote neither file.
    """
    prefix = _stem(check_file_path(prefix))
    if path := _trained(prefix):
        return path
    raise CallerError(
        f"neither {prefix}_best.bin nor {prefix}.bin exists; name a model with --model, or run randygpt train"
    )


def note_default(model: NamedModel) -> None:
    """Print which model is used if none was named and the checkpoint in this folder may be meant instead."""
    if model.release and (path := _trained(DEFAULT_PREFIX)):
        print_stderr(f"using the current release {model.release.title}; for {path}, add --model {path}")


def _default(prefix: Path) -> NamedModel:
    store, _ = installed.open_store(Home.from_environment())
    current = store.current()
    release = store.release(current) if current else None
    if release:
        return NamedModel(path=release.file("checkpoint").local_path, release=release)
    if path := _trained(prefix):
        return NamedModel(path=path)
    raise CallerError(
        f"no release is installed and neither {prefix}_best.bin nor {prefix}.bin exists; name a model with --model, or "
        "run randygpt fetch or randygpt train"
    )


def _trained(prefix: Path) -> Path | None:
    prefix = _stem(prefix)
    if not prefix.name:
        return None
    paths = (prefix.with_name(f"{prefix.name}_best.bin"), prefix.with_name(f"{prefix.name}.bin"))
    return next((path for path in paths if path.is_file()), None)


def _stem(prefix: Path) -> Path:
    return prefix.with_name(prefix.name.removesuffix(".bin") or prefix.name) if prefix.name else prefix
