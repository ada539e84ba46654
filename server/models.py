"""Models that answer: how one is loaded and tested, and which one is in charge. Reads files."""

import asyncio
import ctypes
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distribution.installed import InstalledRelease
from randygpt.checkpoint.sidecar import find_checkpoint, read_json, read_tokenizer
from randygpt.errors import RandyGPTError
from randygpt.language_model import LanguageModel, from_weights, load
from randygpt.model.config import ModelConfig
from randygpt.model.decoder import KVCache
from randygpt.model.tokenizer import BOS_ID
from server.errors import UnfitModel, Unreadable
from server.logs import printable

MAX_SLOTS = 32  # sequences that a model decodes at once
_MAX_CACHE = 1 << 30  # bytes of KV cache; fewer slots where that is not enough
_MAX_LOGITS = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model that passed its test, and where it came from. Never changes; a request keeps the one it began with."""

    language_model: LanguageModel
    release_id: str | None  # event id in hex; None for a file
    label: str  # name and version, or the file
    sha256: str = ""  # of the weights' file, where there is no release
    loaded_at: float = field(default_factory=time.time)  # seconds since 1970
    max_slots: int = MAX_SLOTS  # limit on the slots of its KV cache
    cache: KVCache = field(init=False)  # only decode workers touch it

    def __post_init__(self) -> None:
        config = self.language_model.config
        slots = max(1, min(self.max_slots, _MAX_CACHE // KVCache.slot_bytes(config)))
        object.__setattr__(self, "cache", KVCache(config, slots))

    @property
    def name(self) -> str:
        """Its name in replies."""
        return self.language_model.config.name

    @property
    def fingerprint(self) -> str:
        """Which weights these are."""
        return f"fp_{(self.release_id or self.sha256)[:16]}"


@dataclass(slots=True)
class ActiveModel:
    """The model in charge. Replacing it is one assignment, which no reader can see half done."""

    current: LoadedModel | None = None
    failure: str | None = None  # why the newest release is not the one in charge
    swaps: int = 0
    failures: int = 0
    _leases: Counter[LoadedModel] = field(default_factory=Counter)
    _returned: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def lease(self) -> Iterator[LoadedModel | None]:
        """The model in charge, for as long as a request needs it."""
        loaded = self.current
        if loaded is None:
            yield None
            return
        self._leases[loaded] += 1
        try:
            yield loaded
        finally:
            self._leases[loaded] -= 1
            self._leases += Counter()  # keeps what is over 0
            self._returned.set()

    async def wait_until_drained(self) -> None:
        """Wait until no model but the one in charge has requests: so there are never more than two in memory."""
        while any(loaded is not self.current for loaded in self._leases):
            self._returned.clear()
            await self._returned.wait()


def load_release(release: InstalledRelease) -> LoadedModel:
    """The model of an installed release, tested; raises UnfitModel."""
    label = f"{release.name} version {release.version}"
    try:
        config = ModelConfig.from_json(read_json(release.file("config").local_path))
        tokenizer = read_tokenizer(release.file("tokenizer").local_path)
        language_model = from_weights(release.file("checkpoint").local_path, config, tokenizer)
        loaded = LoadedModel(language_model=language_model, release_id=release.id.hex(), label=label)
        _test(loaded)
    except MemoryError:
        raise Unreadable(f"{label}: not enough memory for it") from None
    except OSError as error:
        raise Unreadable(f"{label}: {error}") from None
    except (RandyGPTError, StopIteration, RuntimeError) as error:
        raise UnfitModel(f"{label}: {error}") from None
    finally:
        _give_back()
    return loaded


def load_file(path: Path, *, preset: str | None = None, vocab: Path | None = None) -> LoadedModel:
    """The model in a checkpoint file, tested; raises UnfitModel, InvalidModelFile, CallerError and StorageError."""
    language_model = load(path, preset=preset, vocab=vocab)
    with find_checkpoint(path).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    loaded = LoadedModel(language_model=language_model, release_id=None, label=printable(str(path)), sha256=sha256)
    try:
        _test(loaded)
    except UnfitModel as error:
        raise UnfitModel(f"{path}: {error}") from None
    return loaded


def _give_back() -> None:
    """Have the C library return to the system what it keeps of models that are gone."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


def _test(loaded: LoadedModel) -> None:
    """A full window as a request runs it, and all its logits where they are few; and the vocabulary.

    Raises UnfitModel if one is not finite.
    """
    language_model = loaded.language_model
    config, tokenizer = language_model.config, language_model.tokenizer
    if tokenizer.vocab_size != config.vocab_size:
        raise UnfitModel(f"the vocabulary has {tokenizer.vocab_size} entries, not {config.vocab_size}")
    tokenizer.encode("")  # what it makes ready for the first text is made here
    window, decoder = [BOS_ID] * config.block_size, language_model.decoder
    few = config.block_size * config.vocab_size <= _MAX_LOGITS
    with np.errstate(all="ignore"):
        logits = decoder.logits(window) if few else decoder.next_logits(window, loaded.cache)
    if not np.isfinite(logits).all():
        raise UnfitModel("it computes numbers that are not finite")
