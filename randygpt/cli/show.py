"""`randygpt show`: describe a checkpoint or an installed release without loading its weights."""

import asyncio
import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from randygpt.cli import installed
from randygpt.cli.card import bits_text, loss_text, one_line, shape_text
from randygpt.cli.flags import Json, ModelPreset, Quiet, Relays
from randygpt.cli.models import DefaultModelArgument, find_model
from randygpt.cli.output import emit, format_date, format_size
from randygpt.cli.preview import print_preview
from randygpt.cli.search import find_author_alone, list_models_of
from randygpt.errors import NotInstalled
from randygpt.user.home import Home

if TYPE_CHECKING:
    from distribution.installed import InstalledRelease
    from randygpt.checkpoint.sidecar import CheckpointInfo

EXAMPLE = "Example: randygpt show shakespeare_best.bin"

_INDENT = "\n" + " " * 12
_KINDS = {"char": "characters", "bpe": "BPE tokens"}


def show(
    which: DefaultModelArgument = None,
    preset: ModelPreset = None,
    relay: Relays = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show shape, training, size and hash of a model.

    For a release, also who signed it. One that is not installed is looked up on the relays, without fetching its files.
    With an npub, alice or alice@example.com alone, list that author's models.
    """
    from randygpt.checkpoint.sidecar import inspect_checkpoint

    if which is not None and (listed := find_author_alone(which, quiet=quiet)):
        list_models_of(Home.from_environment(), listed, relay, as_json=as_json, quiet=quiet)
        return
    try:
        model = find_model(which)
    except NotInstalled:
        assert which is not None  # noqa: S101 (nothing else can be not installed)
        _show_remote(which, relay, as_json=as_json)
        return
    found = inspect_checkpoint(model.path, preset=preset)
    extra, first = _release(model.release) if model.release else _ancestors(found)
    facts = _facts(found) | extra
    emit(as_json, facts, _text(found, facts, first))


def _show_remote(reference: str, relay: list[str] | None, *, as_json: bool) -> None:
    from randygpt.fetching import preview_release

    home = Home.from_environment()
    preview = asyncio.run(preview_release(home, reference, relays=relay))
    trusted = installed.open_store(home)[1].with_claim(preview.release.author, preview.claimed_name)
    print_preview(preview, trusted, reference, as_json=as_json)


def _release(release: "InstalledRelease") -> tuple[dict[str, object], dict[str, object]]:
    """Return the JSON fields of an installed release, and its lines of text."""
    store, trusted = installed.open_store(Home.from_environment())
    flags = installed.flags_of(store, release)
    marks = ", ".join(name for name, is_set in flags.items() if is_set)
    date = format_date(release.created_at, minutes=True)
    extra = installed.release_json(release, trusted) | {
        "created_at": release.created_at,
        "card": release.card,
        "ancestors": installed.lineage_json(release.lineage, trusted),
        **flags,
    }
    lines: dict[str, object] = {
        "release": release.id.hex(),
        "name": f"{release.title}{f' ({marks})' if marks else ''}",
        "signed by": f"{trusted.display_name(release.author)}, {date}",
        "license": one_line(release.card.get("license")),
        "about": one_line(release.card.get("about")),
        "made from": _INDENT.join(installed.lineage_lines(release.lineage, trusted)),
    }
    return extra, lines


def _ancestors(found: "CheckpointInfo") -> tuple[dict[str, object], dict[str, object]]:
    """Return a JSON field and lines of text with what a file was made from, by its sidecar."""
    from randygpt.origins import lineage_of

    lineage = lineage_of(found.sidecar)
    if not (found.sidecar and lineage.ancestors):
        return {}, {}
    trusted = installed.open_store(Home.from_environment())[1]
    ancestors = installed.lineage_lines(lineage, trusted)[:-1]  # without the note that its author claims them
    lines: dict[str, object] = {
        "file": "",  # its place; `_text` has the path
        "name": one_line(found.sidecar.name),
        "made from": _INDENT.join(ancestors),
    }
    return {"ancestors": installed.lineage_json(lineage, trusted)}, lines


def _facts(found: "CheckpointInfo") -> dict[str, object]:
    """Return the fields of the JSON output."""
    header, config, sidecar = found.header, found.config, found.sidecar
    matches = sidecar is not None and sidecar.iteration == header.iteration  # else its losses belong to another save
    losses = sidecar.losses if sidecar and matches else {}
    val_loss = losses.get("val")
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
        "val_loss": val_loss,
        "bits_per_byte": sidecar.bits_per_byte(val_loss) if sidecar and val_loss is not None else None,
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
        **({} if first else {"name": one_line(facts["name"])}),
        "format": f"{header.magic}, {contents}",
        "shape": shape_text(config),
        "vocabulary": f"{header.vocab_size:,} {kind}",
        "parameters": f"{config.parameter_count:,}",
        "trained": f"to iteration {header.iteration + 1:,}, {header.step:,} optimizer steps",
        "best loss": loss_text(facts["best_loss"]),
        "train loss": loss_text(facts["train_loss"]),
        "val loss": loss_text(facts["val_loss"]),
        "bits/byte": bits_text(facts["bits_per_byte"]),
        "sha256": facts["sha256"],
    }
    return "\n".join(f"{label:<10}  {value}" for label, value in lines.items() if value)
