"""Models that answer: how one is loaded and tested, and which one is in charge. Reads files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distribution.installed import InstalledRelease
from randygpt.config import ModelConfig
from randygpt.decoder import KVCache
from randygpt.errors import RandyGPTError
from randygpt.language_model import LanguageModel, from_weights, load
from randygpt.sidecar import read_json, read_tokenizer
from randygpt.tokenizer import BOS_ID
from server.errors import UnfitModel

_MAX_LOGITS = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that passed its test, and where it came from. Never changes; a request keeps the one it began with."""

    language_model: LanguageModel
    release_id: str | None  # event id in hex; None for a file
    label: str  # name and version, or the file


@dataclass(slots=True)
class Serving:
    """The model in charge. Replacing it is one assignment, which no reader can see half done."""

    current: LoadedModel | None = None
    failure: str | None = None  # why the newest release is not the one in charge


def load_release(release: InstalledRelease) -> LoadedModel:
    """The model of an installed release, tested; raises UnfitModel."""
    label = f"{release.name} version {release.version}"
    try:
        config = ModelConfig.from_json(read_json(release.file("config").local))
        tokenizer = read_tokenizer(release.file("tokenizer").local)
        language_model = from_weights(release.file("checkpoint").local, config, tokenizer)
        _test(language_model)
    except MemoryError:
        raise UnfitModel(f"{label}: not enough memory for it") from None
    except (RandyGPTError, UnfitModel, OSError, StopIteration, RuntimeError) as error:
        raise UnfitModel(f"{label}: {error}") from None
    return LoadedModel(language_model=language_model, release_id=release.id.hex(), label=label)


def load_file(path: Path, *, preset: str | None = None, vocab: Path | None = None) -> LoadedModel:
    """The model in a checkpoint file, tested; raises UnfitModel, InvalidModelFile and OSError."""
    language_model = load(path, preset=preset, vocab=vocab)
    try:
        _test(language_model)
    except UnfitModel as error:
        raise UnfitModel(f"{path}: {error}") from None
    return LoadedModel(language_model=language_model, release_id=None, label=str(path))


def _test(language_model: LanguageModel) -> None:
    """A full window as a request runs it, and all its logits where they are few.

    Raises UnfitModel if one is not finite.
    """
    config, tokenizer = language_model.config, language_model.tokenizer
    if tokenizer.vocab_size != config.vocab_size:
        raise UnfitModel(f"the vocabulary has {tokenizer.vocab_size} entries, not {config.vocab_size}")
    window, decoder = [BOS_ID] * config.block_size, language_model.decoder
    few = config.block_size * config.vocab_size <= _MAX_LOGITS
    with np.errstate(all="ignore"):
        logits = decoder.logits(window) if few else decoder.next_logits(window, KVCache(config))
    if not np.isfinite(logits).all():
        raise UnfitModel("it computes numbers that are not finite")
