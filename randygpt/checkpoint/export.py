"""Models as other programs take them, and back: folders with safetensors. Reads and writes files, durably.

`safetensors` has the arrays under our names, and the optimizer's moments in a file of their own, so that a checkpoint
comes back byte for byte. `hf` is what transformers loads; its names of the arrays are its own, and it has no moments.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.rgpt import Array, Checkpoint, check_finite, check_optimizer_state, read_checkpoint
from randygpt.checkpoint.save import save_checkpoint
from randygpt.checkpoint.sidecar import CheckpointInfo, Sidecar, read_json, read_tokenizer, sidecar_path
from randygpt.errors import CallerError, InvalidModelFile
from randygpt.hf.files import files as transformers_files
from randygpt.hf.files import read_tokenizer_json, tensor_names
from randygpt.model.config import ModelConfig
from randygpt.model.layout import tensor_shapes
from randygpt.model.tokenizer import Tokenizer
from relay_client import durable

Format = Literal["safetensors", "hf"]
_WEIGHTS, _OPTIMIZER = "model.safetensors", "optimizer.safetensors"
_STATE_PREFIXES = ("exp_avg.", "exp_avg_sq.")  # as torch calls the first and the second
_DTYPES = {"F64", "F32", "F16", "BF16"}


def export_model(found: CheckpointInfo, folder: Path, kind: Format) -> list[str]:
    """Write a checkpoint as a folder, which is there when it is complete; returns the names of the files in it.

    Raises CallerError for a folder that has something in it, InvalidModelFile for a wrong checkpoint, and OSError.
    """
    place = folder.resolve()
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise CallerError(f"{folder}: there already, and not an empty folder")
    if not place.parent.is_dir():
        raise CallerError(f"{folder}: not in a folder that exists")
    if found.tokenizer is None:
        raise InvalidModelFile(f"{found.path}: no vocabulary beside it; name its vocab.json with --vocab")
    checkpoint = read_checkpoint(found.path, found.config)
    with durable.atomic_directory(place) as building:
        for name, data in _contents(checkpoint, found.tokenizer, found.sidecar, kind):
            durable.write(building / name, data)
    return sorted(path.name for path in place.iterdir())


def import_model(folder: Path, target: Path) -> Checkpoint:
    """Write what an export holds as a checkpoint with its JSON beside it; returns the checkpoint.

    RGPT0003 where the folder has moments, else RGPT0002. Raises CallerError if the target is there, InvalidModelFile,
    naming the file that is wrong, and OSError.
    """
    beside = sidecar_path(target)
    for path in (target, beside):
        if path.exists():
            raise CallerError(f"{path}: there already")
    if not target.absolute().parent.is_dir():
        raise CallerError(f"{target}: not in a folder that exists")
    checkpoint, sidecar = read_export(folder)
    save_checkpoint(target, checkpoint, sidecar)
    return checkpoint


def read_export(folder: Path) -> tuple[Checkpoint, Sidecar]:
    """The checkpoint in an exported folder, and what stands beside it; raises InvalidModelFile and OSError."""
    raw = read_json(folder / "config.json")
    try:
        config = ModelConfig.from_json(raw)
    except InvalidModelFile as error:
        raise InvalidModelFile(f"{folder / 'config.json'}: {error}") from None
    tokenizer = _read_tokenizer(folder, raw)
    if tokenizer.vocab_size != config.vocab_size:
        raise InvalidModelFile(
            f"{folder}: vocab {config.vocab_size} in config.json, {tokenizer.vocab_size} entries in the vocabulary"
        )
    (weights,), facts = _read_arrays(
        folder / _WEIGHTS, config, [""], lambda weights: check_finite(weights, config, "weights")
    )
    state = None
    if (folder / _OPTIMIZER).is_file():
        (first, second), _ = _read_arrays(
            folder / _OPTIMIZER,
            config,
            _STATE_PREFIXES,
            lambda first, second: check_optimizer_state(first, second, config),
        )
        state = (first, second)
    try:
        header = _header(config, facts)
        sidecar = _sidecar(config, tokenizer, header, facts)
    except (InvalidModelFile, ValueError, RecursionError) as error:
        raise InvalidModelFile(f"{folder / _WEIGHTS}: in its metadata: {error}") from None
    return Checkpoint(header=header, config=config, weights=weights, optimizer_state=state), sidecar


def _contents(
    checkpoint: Checkpoint, tokenizer: Tokenizer, sidecar: Sidecar | None, kind: Format
) -> Iterator[tuple[str, bytes]]:
    """Name and contents of each file of an export."""
    config, header = checkpoint.config, checkpoint.header
    facts = {"iteration": header.iteration, "step": header.step, "best_loss": header.best_loss}
    metadata = {"format": "pt"} | {name: repr(value) for name, value in facts.items()}
    if sidecar:
        beside = {key: value for key, value in sidecar.to_json().items() if key not in {"config", "tokenizer"}}
        metadata["beside"] = json.dumps(beside)
    if kind == "hf":
        names = tensor_names(config)
        arrays = {names[name]: array for name, array in _arrays(checkpoint.weights, config).items()}
        yield from transformers_files(config, tokenizer).items()
    else:
        arrays = _arrays(checkpoint.weights, config)
        yield "config.json", json.dumps(config.to_json(tokenizer.kind), ensure_ascii=False, sort_keys=True).encode()
        yield "vocab.json", json.dumps(tokenizer.to_json(), ensure_ascii=False, sort_keys=True).encode()
        if checkpoint.optimizer_state:
            both = zip(_STATE_PREFIXES, checkpoint.optimizer_state, strict=True)
            tensors = {f"{of}{name}": each for of, flat in both for name, each in _arrays(flat, config).items()}
            yield _OPTIMIZER, save(tensors, {"format": "pt"})
    yield _WEIGHTS, save(arrays, metadata)


def _arrays(flat: Array, config: ModelConfig) -> dict[str, Array]:
    """The arrays in a vector (P,), by our names."""
    shapes = tensor_shapes(config)
    parts = np.split(flat, np.cumsum([rows * columns for rows, columns in shapes.values()])[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _read_arrays(
    path: Path, config: ModelConfig, prefixes: Sequence[str], check: Callable[..., None]
) -> tuple[list[Array], dict[str, str]]:
    """A vector (P,) for each prefix of the arrays' names, and the file's metadata; raises InvalidModelFile, OSError.

    `check` gets the vectors and raises InvalidModelFile.
    """
    path.stat()  # safe_open does not say which file is missing
    vectors = []
    try:
        with safe_open(path, framework="pt") as file:
            there = set(file.keys())
            names = _names(there, config)
            _check_names(there, {prefix + name for prefix in prefixes for name in names.values()})
            _check_shapes(file, config, prefixes, names)
            for prefix in prefixes:
                tensors = [file.get_tensor(prefix + name).flatten().float() for name in names.values()]
                vectors.append(torch.cat(tensors).numpy())
            check(*vectors)
            return vectors, dict(file.metadata() or {})
    except (SafetensorError, InvalidModelFile) as error:
        raise InvalidModelFile(f"{path}: {error}") from None


def _names(there: set[str], config: ModelConfig) -> dict[str, str]:
    """What a file that has the arrays `there` calls each of ours."""
    theirs = tensor_names(config)
    return theirs if theirs["wte"] in there else {name: name for name in theirs}


def _check_names(there: set[str], wanted: set[str]) -> None:
    for names, words in ((wanted - there, "it lacks"), (there - wanted, "not known here:")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InvalidModelFile(f"{words} {min(names)}{more}")


def _check_shapes(file: safe_open, config: ModelConfig, prefixes: Sequence[str], names: Mapping[str, str]) -> None:
    for prefix in prefixes:
        for name, shape in tensor_shapes(config).items():
            found = file.get_slice(prefix + names[name])  # type: ignore[no-untyped-call]
            if tuple(found.get_shape()) != shape:
                raise InvalidModelFile(f"{prefix}{names[name]} is {tuple(found.get_shape())}, not {shape}")
            if found.get_dtype() not in _DTYPES:
                raise InvalidModelFile(f"{prefix}{names[name]} is of type {found.get_dtype()}")


def _header(config: ModelConfig, facts: Mapping[str, str]) -> CheckpointHeader:
    """The header's facts; those of a model that never trained where the file does not say."""
    iteration, step = int(facts.get("iteration", 0)), int(facts.get("step", 0))
    best_loss = float(facts.get("best_loss", "inf"))
    return CheckpointHeader(
        magic="RGPT0003", vocab_size=config.vocab_size, iteration=iteration, step=step, best_loss=best_loss
    )


def _sidecar(config: ModelConfig, tokenizer: Tokenizer, header: CheckpointHeader, facts: Mapping[str, str]) -> Sidecar:
    if "beside" not in facts:
        return Sidecar(config=config, tokenizer=tokenizer, iteration=header.iteration)
    beside = json.loads(facts["beside"])
    if not isinstance(beside, dict):
        raise InvalidModelFile("beside is not an object")
    return Sidecar.from_json(beside | {"config": config.to_json(tokenizer.kind), "tokenizer": tokenizer.to_json()})


def _read_tokenizer(folder: Path, raw_config: object) -> Tokenizer:
    if (folder / "vocab.json").is_file():
        return read_tokenizer(folder / "vocab.json")
    path = folder / "tokenizer.json"
    try:
        kind = raw_config.get("tokenizer") if isinstance(raw_config, Mapping) else None
        return read_tokenizer_json(read_json(path), kind)
    except InvalidModelFile as error:
        raise InvalidModelFile(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
