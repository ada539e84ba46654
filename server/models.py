"""Models: loading, self-test, and the active one. Reads files."""

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
from server.errors import InvalidModel, ModelUnavailable
from server.logs import escape_controls

MAX_SLOTS = 32  # sequences that a model decodes at once
_MAX_CACHE = 1 << 30  # bytes of KV cache; fewer slots where that is not enough
_MAX_TEST_LOGITS = 1 << 28  # logits that the self-test computes at once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model that passed its self-test. Never changes; a request keeps the one it started with."""

    language_model: LanguageModel
    release_id: str | None  # event id (hex); None for a file
    label: str  # name and version, or the path of the file
    sha256: str = ""  # of the file (hex); empty for a release
    loaded_at: float = field(default_factory=time.time)  # seconds since 1970
    max_slots: int = MAX_SLOTS  # limit on the slots of its KV cache
    cache: KVCache = field(init=False)  # only decode workers touch it

    def __post_init__(self) -> None:
        config = self.language_model.config
        slots = max(1, min(self.max_slots, _MAX_CACHE // KVCache.slot_bytes(config)))
        object.__setattr__(self, "cache", KVCache(config, slots))

    @property
    def name(self) -> str:
        """Name in responses."""
        return self.language_model.config.name

    @property
    def fingerprint(self) -> str:
        """OpenAI's `system_fingerprint`: identifies the weights."""
        return f"fp_{(self.release_id or self.sha256)[:16]}"


@dataclass(slots=True)
class ActiveModel:
    """The active model: the one that new requests get. Replacing it is one assignment.

    Attributes:
        current: The active model; None before the first.
        failure: Why the newest release could not replace it.
        swaps: Number of models that became active.
        failures: Number of models that could not be loaded.
    """

    current: LoadedModel | None = None
    failure: str | None = None
    swaps: int = 0
    failures: int = 0
    _leases: Counter[LoadedModel] = field(default_factory=Counter)
    _returned: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def lease(self) -> Iterator[LoadedModel | None]:
        """Yield the active model, and count it as in use within the context."""
        loaded = self.current
        if loaded is None:
            yield None
            return
        self._leases[loaded] += 1
        try:
            yield loaded
        finally:
            self._leases[loaded] -= 1
            self._leases += Counter()  # drops zero counts
            self._returned.set()

    async def wait_until_drained(self) -> None:
        """Wait until only the active model has requests, so that at most two models are in memory."""
        while any(loaded is not self.current for loaded in self._leases):
            self._returned.clear()
            await self._returned.wait()


def load_release(release: InstalledRelease) -> LoadedModel:
    """Load and test the model of an installed release.

    Raises:
        InvalidModel: It is damaged, or failed its self-test.
        ModelUnavailable: A disk error, or lack of memory.
    """
    label = f"{release.name} version {release.version}"
    try:
        config = ModelConfig.from_json(read_json(release.file("config").local_path))
        tokenizer = read_tokenizer(release.file("tokenizer").local_path)
        language_model = from_weights(release.file("checkpoint").local_path, config, tokenizer)
        loaded = LoadedModel(language_model=language_model, release_id=release.id.hex(), label=label)
        _self_test(loaded)
    except MemoryError:
        raise ModelUnavailable(f"{label}: not enough memory") from None
    except OSError as error:
        raise ModelUnavailable(f"{label}: {error}") from None
    except (RandyGPTError, StopIteration, RuntimeError) as error:
        raise InvalidModel(f"{label}: {error}") from None
    finally:
        _trim_heap()
    return loaded


def load_file(path: Path, *, preset: str | None = None, vocab: Path | None = None) -> LoadedModel:
    """Load and test the model of a checkpoint file.

    Args:
        path: The checkpoint.
        preset: Its shape, if no file next to it gives one.
        vocab: Its vocabulary, instead of the file next to it.

    Raises:
        InvalidModel: It failed its self-test.
        InvalidModelFile: The file is damaged.
        CallerError: There is no such file.
        StorageError: It could not be read.
    """
    language_model = load(path, preset=preset, vocab=vocab)
    with find_checkpoint(path).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    loaded = LoadedModel(
        language_model=language_model, release_id=None, label=escape_controls(str(path)), sha256=sha256
    )
    try:
        _self_test(loaded)
    except InvalidModel as error:
        raise InvalidModel(f"{path}: {error}") from None
    return loaded


def _trim_heap() -> None:
    """Return freed heap pages to the OS (malloc_trim)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


def _self_test(loaded: LoadedModel) -> None:
    """Compute logits over a full context, all of them if memory allows; raises InvalidModel if one is not finite."""
    language_model = loaded.language_model
    config, tokenizer = language_model.config, language_model.tokenizer
    tokenizer.encode("")  # builds its tables here, not in the first request
    ids, decoder = [BOS_ID] * config.block_size, language_model.decoder
    is_small = config.block_size * config.vocab_size <= _MAX_TEST_LOGITS
    with np.errstate(all="ignore"):
        logits = decoder.logits(ids) if is_small else decoder.next_logits(ids, loaded.cache)
    if not np.isfinite(logits).all():
        raise InvalidModel("self-test failed: its logits are not finite")
