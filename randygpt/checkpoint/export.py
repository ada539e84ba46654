"""Export to and import from folders with safetensors. Disk I/O; writes are durable.

The format `safetensors` keeps randyGPT's tensor names and the optimizer state in a file of its own, so that a
checkpoint round-trips byte for byte. The format `hf` is what transformers loads: it has other tensor names and no
optimizer state. The Rust project's export_hf.py writes a third form, which is only read.
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
from randygpt.checkpoint.origin import Origin
from randygpt.checkpoint.rgpt import Array, Checkpoint, check_finite, check_optimizer_state, read_checkpoint
from randygpt.checkpoint.save import save_checkpoint
from randygpt.checkpoint.sidecar import CheckpointInfo, Sidecar, read_json, read_tokenizer, sidecar_path
from randygpt.errors import CallerError, InvalidModelFile
from randygpt.hf.files import files as transformers_files
from randygpt.hf.files import read_tokenizer_json, rust_tensor_names, tensor_names
from randygpt.model.config import ModelConfig
from randygpt.model.layout import tensor_shapes
from randygpt.model.tokenizer import Tokenizer
from relay_client import durable

Format = Literal["safetensors", "hf"]
_WEIGHTS, _OPTIMIZER = "model.safetensors", "optimizer.safetensors"
_STATE_PREFIXES = ("exp_avg.", "exp_avg_sq.")  # torch's names of AdamW's m and v
_DTYPES = {"F64", "F32", "F16", "BF16"}


def export_model(found: CheckpointInfo, folder: Path, kind: Format, *, base: Origin | None = None) -> list[str]:
    """Write a checkpoint as a folder, which appears when it is complete, and return the names of its files.

    Args:
        found: The checkpoint.
        folder: The folder to write.
        kind: Format of the export.
        base: The release that the checkpoint is, to be recorded where its sidecar would name its base.

    Raises:
        CallerError: The folder exists and is not empty, or its parent does not exist.
        InvalidModelFile: The checkpoint is wrong or has no vocabulary.
        OSError: The disk failed or is full.
    """
    place = folder.resolve()
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise CallerError(f"{folder} exists and is not an empty folder")
    if not place.parent.is_dir():
        raise CallerError(f"{folder}: its parent folder does not exist")
    if found.tokenizer is None:
        raise InvalidModelFile(f"{found.path} has no vocabulary: name its vocab.json with --vocab")
    checkpoint = read_checkpoint(found.path, found.config)
    with durable.atomic_directory(place) as building:
        sidecar = found.sidecar
        if base and not sidecar:
            sidecar = Sidecar(
                config=found.config, tokenizer=found.tokenizer, iteration=found.header.iteration, base=base
            )
        for name, data in _contents(checkpoint, found.tokenizer, sidecar, kind):
            durable.write(building / name, data)
    return sorted(path.name for path in place.iterdir())


def import_model(folder: Path, target: Path) -> Checkpoint:
    """Write an exported folder as a checkpoint with its sidecar, and return the checkpoint.

    The file is RGPT0003 if the folder has optimizer state, else RGPT0002.

    Raises:
        CallerError: The target exists, or its parent folder does not.
        InvalidModelFile: A file of the export is wrong; the message names it.
        OSError: The disk failed or is full.
    """
    for path in (target, sidecar_path(target)):
        if path.exists():
            raise CallerError(f"{path} exists already")
    if not target.absolute().parent.is_dir():
        raise CallerError(f"{target}: its parent folder does not exist")
    checkpoint, sidecar = read_export(folder)
    save_checkpoint(target, checkpoint, sidecar)
    return checkpoint


def read_export(folder: Path) -> tuple[Checkpoint, Sidecar]:
    """Return the checkpoint and sidecar of an exported folder; raise InvalidModelFile if it is wrong, and OSError."""
    raw = read_json(folder / "config.json")
    try:
        config = ModelConfig.from_json(raw)
    except InvalidModelFile as error:
        raise InvalidModelFile(f"{folder / 'config.json'}: {error}") from None
    tokenizer = _read_tokenizer(folder, raw)
    if tokenizer.vocab_size != config.vocab_size:
        raise InvalidModelFile(
            f"{folder}: vocab_size {config.vocab_size} in config.json, {tokenizer.vocab_size} entries in the vocabulary"
        )
    (weights,), facts = _read_arrays(
        folder / _WEIGHTS, config, [""], lambda weights: check_finite(weights, config, "weights")
    )
    state = None
    if (folder / _OPTIMIZER).is_file():
        (exp_avg, exp_avg_sq), _ = _read_arrays(
            folder / _OPTIMIZER,
            config,
            _STATE_PREFIXES,
            lambda exp_avg, exp_avg_sq: check_optimizer_state(exp_avg, exp_avg_sq, config),
        )
        state = (exp_avg, exp_avg_sq)
    try:
        facts = _config_facts(raw) | facts
        header = _header(config, facts)
        sidecar = _sidecar(config, tokenizer, header, facts)
    except (InvalidModelFile, ValueError, RecursionError) as error:
        raise InvalidModelFile(f"{folder / _WEIGHTS}: metadata: {error}") from None
    return Checkpoint(header=header, config=config, weights=weights, optimizer_state=state), sidecar


def _contents(
    checkpoint: Checkpoint, tokenizer: Tokenizer, sidecar: Sidecar | None, kind: Format
) -> Iterator[tuple[str, bytes]]:
    """Yield the name and contents of each file of an export."""
    config, header = checkpoint.config, checkpoint.header
    facts = {"iteration": header.iteration, "step": header.step, "best_loss": header.best_loss}
    metadata = {"format": "pt"} | {name: repr(value) for name, value in facts.items()}
    if sidecar:
        sidecar_facts = {key: value for key, value in sidecar.to_json().items() if key not in {"config", "tokenizer"}}
        metadata["beside"] = json.dumps(sidecar_facts)
    if kind == "hf":
        names = tensor_names(config)
        arrays = {names[name]: array for name, array in _arrays(checkpoint.weights, config).items()}
        yield from transformers_files(config, tokenizer).items()
    else:
        arrays = _arrays(checkpoint.weights, config)
        yield "config.json", json.dumps(config.to_json(tokenizer.kind), ensure_ascii=False, sort_keys=True).encode()
        yield "vocab.json", json.dumps(tokenizer.to_json(), ensure_ascii=False, sort_keys=True).encode()
        if checkpoint.optimizer_state:
            tensors = {
                prefix + name: array
                for prefix, flat in zip(_STATE_PREFIXES, checkpoint.optimizer_state, strict=True)
                for name, array in _arrays(flat, config).items()
            }
            yield _OPTIMIZER, save(tensors, {"format": "pt"})
    yield _WEIGHTS, save(arrays, metadata)


def _arrays(flat: Array, config: ModelConfig) -> dict[str, Array]:
    """Return the weight matrices (out, in) in a vector (P,), by randyGPT's names."""
    shapes = tensor_shapes(config)
    parts = np.split(flat, np.cumsum([rows * columns for rows, columns in shapes.values()])[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _read_arrays(
    path: Path, config: ModelConfig, prefixes: Sequence[str], check: Callable[..., None]
) -> tuple[list[Array], dict[str, str]]:
    """Return a vector (P,) for each prefix of tensor names, and the file's metadata.

    Args:
        path: A safetensors file.
        config: The model's shape.
        prefixes: Prefixes of tensor names; each selects one full set of tensors.
        check: Called with the vectors; may raise InvalidModelFile.

    Raises:
        InvalidModelFile: The file is wrong; the message names it.
        OSError: The file cannot be read.
    """
    path.stat()  # safe_open does not name a missing file
    vectors = []
    try:
        with safe_open(path, framework="pt") as file:
            present = set(file.keys())
            names = _file_names(present, config)
            _check_names(present, {prefix + name for prefix in prefixes for name in names.values()})
            _check_shapes(file, config, prefixes, names)
            for prefix in prefixes:
                tensors = [file.get_tensor(prefix + name).flatten().float() for name in names.values()]
                vectors.append(torch.cat(tensors).numpy())
            check(*vectors)
            return vectors, dict(file.metadata() or {})
    except (SafetensorError, InvalidModelFile) as error:
        raise InvalidModelFile(f"{path}: {error}") from None


def _file_names(present: set[str], config: ModelConfig) -> dict[str, str]:
    """Return the file's name of each tensor, in the one of three conventions that most of its names follow."""
    conventions = ({name: name for name in tensor_shapes(config)}, tensor_names(config), rust_tensor_names(config))
    return max(conventions, key=lambda names: len(present.intersection(names.values())))


def _check_names(present: set[str], expected: set[str]) -> None:
    for names, problem in ((expected - present, "missing"), (present - expected, "unknown")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InvalidModelFile(f"{problem} tensor {min(names):.100}{more}")


def _check_shapes(file: safe_open, config: ModelConfig, prefixes: Sequence[str], names: Mapping[str, str]) -> None:
    for prefix in prefixes:
        for name, shape in tensor_shapes(config).items():
            found = file.get_slice(prefix + names[name])  # type: ignore[no-untyped-call]
            if tuple(found.get_shape()) != shape:
                raise InvalidModelFile(f"{prefix}{names[name]} has shape {tuple(found.get_shape())}, not {shape}")
            if found.get_dtype() not in _DTYPES:
                raise InvalidModelFile(f"{prefix}{names[name]} has type {found.get_dtype()}, which is not supported")


def _config_facts(raw: object) -> dict[str, str]:
    """Return the header facts that randyGPT export_hf.py writes to config.json."""
    names = {"iteration": "trained_iters", "best_loss": "best_val_loss"}
    return {fact: repr(raw[name]) for fact, name in names.items() if isinstance(raw, Mapping) and name in raw}


def _header(config: ModelConfig, facts: Mapping[str, str]) -> CheckpointHeader:
    """Return the checkpoint header; absent facts default to those of an untrained model."""
    iteration, step = int(facts.get("iteration", 0)), int(facts.get("step", 0))
    best_loss = float(facts.get("best_loss", "inf"))
    return CheckpointHeader(
        magic="RGPT0003", vocab_size=config.vocab_size, iteration=iteration, step=step, best_loss=best_loss
    )


def _sidecar(config: ModelConfig, tokenizer: Tokenizer, header: CheckpointHeader, facts: Mapping[str, str]) -> Sidecar:
    if "beside" not in facts:
        return Sidecar(config=config, tokenizer=tokenizer, iteration=header.iteration)
    raw = json.loads(facts["beside"])
    if not isinstance(raw, dict):
        raise InvalidModelFile("beside is not a JSON object")
    return Sidecar.from_json(raw | {"config": config.to_json(tokenizer.kind), "tokenizer": tokenizer.to_json()})


def _read_tokenizer(folder: Path, raw_config: object) -> Tokenizer:
    if (folder / "vocab.json").is_file():
        return read_tokenizer(folder / "vocab.json")
    path = folder / "tokenizer.json"
    try:
        kind = raw_config.get("tokenizer") if isinstance(raw_config, Mapping) else None
        return read_tokenizer_json(read_json(path), kind)
    except InvalidModelFile as error:
        raise InvalidModelFile(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
