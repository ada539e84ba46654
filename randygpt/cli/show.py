"""`randygpt show`: describe a checkpoint or an installed release without loading its weights."""

import hashlib
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from randygpt.cli import installed
from randygpt.cli.flags import Json, ModelPreset, Quiet
from randygpt.cli.models import DefaultModelArgument, find_model
from randygpt.cli.output import emit, format_size
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.installed import InstalledRelease
    from randygpt.checkpoint.sidecar import CheckpointInfo

EXAMPLE = "Example: randygpt show shakespeare_best.bin"

_MAX_TEXT = 200  # characters
_KINDS = {"char": "characters", "bpe": "BPE tokens"}


def show(
    which: DefaultModelArgument = None,
    preset: ModelPreset = None,
    as_json: Json = False,
    _quiet: Quiet = False,
) -> None:
    """Show shape, training, size and hash of a model.

    For an installed release, also who signed it.
    """
    from randygpt.checkpoint.sidecar import inspect_checkpoint

    model = find_model(which)
    extra, first = _release(model.release) if model.release else ({}, {})
    found = inspect_checkpoint(model.path, preset=preset)
    facts = _facts(found) | extra
    emit(as_json, facts, _text(found, facts, first))


def _release(release: "InstalledRelease") -> tuple[dict[str, object], dict[str, object]]:
    """Return the JSON fields of an installed release, and its lines of text."""
    store, trusted = installed.open_store(Home.from_environment())
    flags = installed.flags_of(store, release)
    marks = ", ".join(name for name, is_set in flags.items() if is_set)
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(release.created_at))
    extra = installed.release_json(release, trusted) | {"created_at": release.created_at, "card": release.card} | flags
    lines: dict[str, object] = {
        "release": release.id.hex(),
        "name": f"{release.name} version {release.version}{f' ({marks})' if marks else ''}",
        "signed by": f"{trusted.display_name(release.author)}, {date}",
        "license": _one_line(release.card.get("license")),
        "about": _one_line(release.card.get("about")),
    }
    return extra, lines


def _one_line(text: object) -> str:
    """Return a stranger's text on one line, so that it cannot look like another field."""
    return " ".join(text.split())[:_MAX_TEXT] if isinstance(text, str) else ""


def _facts(found: "CheckpointInfo") -> dict[str, object]:
    """Return the fields of the JSON output."""
    header, config, sidecar = found.header, found.config, found.sidecar
    matches = sidecar is not None and sidecar.iteration == header.iteration  # else its losses belong to another save
    losses = sidecar.losses if sidecar and matches else {}
    with found.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return {
        "file": str(found.path),
        "name": sidecar.name or None if sidecar else None,
        "format": header.magic,
        "moments": header.optimizer_layout(config, found.size) != "none",
        "preset": config.preset,
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "n_layer": config.n_layer,
        "block_size": config.block_size,
        "vocab_size": header.vocab_size,
        "tokenizer": found.tokenizer.kind if found.tokenizer else None,
        "parameters": config.parameter_count,
        "iteration": header.iteration,
        "step": header.step,
        "best_loss": header.best_loss if math.isfinite(header.best_loss) else None,
        "train_loss": losses.get("train"),
        "val_loss": losses.get("val"),
        "bytes": found.size,
        "sha256": digest.hexdigest(),
    }


def _text(found: "CheckpointInfo", facts: Mapping[str, object], first: Mapping[str, object]) -> str:
    config, header = found.config, found.header
    kind = _KINDS[found.tokenizer.kind] if found.tokenizer else "tokens; no vocabulary file found"
    contents = "with optimizer state" if facts["moments"] else "weights only"
    lines = {
        **first,
        "file": f"{found.path} ({format_size(found.size)}, {found.size:,} bytes)",
        **({} if first else {"name": _one_line(facts["name"])}),
        "format": f"{header.magic}, {contents}",
        "shape": f"{config.preset}: {config.n_layer} layers, {config.n_head} heads, width {config.n_embd}, "
        f"context length {config.block_size}",
        "vocabulary": f"{header.vocab_size:,} {kind}",
        "parameters": f"{config.parameter_count:,}",
        "trained": f"to iteration {header.iteration:,}, {header.step:,} optimizer steps",
        "best loss": _loss(facts["best_loss"]),
        "train loss": _loss(facts["train_loss"]),
        "val loss": _loss(facts["val_loss"]),
        "sha256": facts["sha256"],
    }
    return "\n".join(f"{label:<10}  {value}" for label, value in lines.items() if value)


def _loss(value: object) -> str:
    if not isinstance(value, int | float):
        return ""
    return f"{value:.4f} (perplexity {math.exp(value):,.2f})" if value < 99 else f"{value:.4f}"  # noqa: PLR2004
