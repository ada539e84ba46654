"""Text of models and their cards. A card is a stranger's, so fields of a wrong form are left out. No I/O."""

import math
from collections.abc import Mapping

from randygpt.errors import InvalidModelFile
from randygpt.model.config import ModelConfig

_MAX_TEXT = 200  # characters
_LOSSES = ("best_loss", "val_loss", "bits_per_byte")
_MAX_LOSS = 1e6  # no model has a larger one
_WIDE = 1000  # bits per byte that four decimals do not fit into a column for


def one_line(text: object) -> str:
    """Return a stranger's text on one line, so that it cannot look like another field."""
    return " ".join(text.split())[:_MAX_TEXT] if isinstance(text, str) else ""


def loss_text(value: object) -> str:
    """Return a loss with its perplexity; empty if it is not a number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return ""
    return f"{value:.4f} (perplexity {math.exp(value):,.2f})" if value < 99 else f"{value:.4f}"  # noqa: PLR2004


def bits_text(value: object) -> str:
    """Return bits per byte of the validation text as text; empty if it is no number."""
    return f"{value:.3f} (validation text)" if isinstance(value, float) else ""


def bits_cell(value: float) -> str:
    """Return bits per byte for a column of a table; those of broken models are rounded, to fit."""
    return f"{value:8.4f}" if value < _WIDE else f"{value:8.0e}"


def claimed_losses(card: Mapping[str, object]) -> dict[str, float]:
    """Return the losses that a card claims: `val_loss`, else `best_loss`, and `bits_per_byte`; numbers only."""
    training = card.get("training")
    values = training if isinstance(training, dict) else {}
    found = {name: float(value) for name, value in values.items() if name in _LOSSES and _is_number(value)}
    if "val_loss" in found:
        found.pop("best_loss", None)
    return dict(sorted(found.items()))


def losses_text(card: Mapping[str, object]) -> str:
    """Return the losses that a card claims on one line; empty if it claims none."""
    labels = {"best_loss": "loss {:.4f}", "val_loss": "loss {:.4f}", "bits_per_byte": "{:.3f} bits/byte"}
    found = claimed_losses(card)
    return ", ".join(label.format(found[name]) for name, label in labels.items() if name in found)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_LOSS


def shape_text(config: ModelConfig) -> str:
    """Return the shape of a model in words."""
    return (
        f"{config.preset}: {config.n_layer} layers, {config.n_head} heads, width {config.n_embd}, "
        f"context length {config.block_size}"
    )


def card_lines(card: Mapping[str, object]) -> dict[str, str]:
    """Return what a card says of a model, by label."""
    training = card.get("training")
    training = training if isinstance(training, dict) else {}
    iteration = training.get("iteration")
    return {
        "license": one_line(card.get("license")),
        "about": one_line(card.get("about")),
        **_config_lines(card.get("config")),
        "trained": f"to iteration {iteration + 1:,}" if type(iteration) is int else "",
        "best loss": loss_text(training.get("best_loss")),
        "train loss": loss_text(training.get("train_loss")),
        "val loss": loss_text(training.get("val_loss")),
        "bits/byte": bits_text(training.get("bits_per_byte")),
    }


def _config_lines(raw_config: object) -> dict[str, str]:
    try:
        config = ModelConfig.from_json(raw_config)
    except InvalidModelFile:
        return {}
    return {
        "shape": shape_text(config),
        "vocabulary": f"{config.vocab_size:,} tokens",
        "parameters": f"{config.parameter_count:,}",
    }
