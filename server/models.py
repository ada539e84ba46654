"""Models: loading, self-test, and the active one. Reads files."""

import asyncio
import ctypes
import hashlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distribution.installed import InstalledRelease
from randygpt.checkpoint.rgpt import read_matrices
from randygpt.checkpoint.sidecar import find_checkpoint, inspect_checkpoint, read_json, read_tokenizer
from randygpt.errors import RandyGPTError, translate_os_errors
from randygpt.language_model import LanguageModel, load
from randygpt.model.config import ModelConfig
from randygpt.model.decoder import PREFILL_CHUNK, Array, Decoder, KVCache
from randygpt.model.tokenizer import BOS_ID
from randygpt.terminal import escape_line
from server.errors import InvalidModel, ModelUnavailable, Superseded
from server.memory import DEFAULT_MAX_MEMORY, MAX_SLOTS, check_memory, slot_count

_MAX_CONFIG = 1 << 20  # bytes of a config.json
_TEST_PIECES = 4  # of PREFILL_CHUNK positions each: all of a usual context, some of a longer one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model that passed its self-test. Never changes; a request keeps the one it started with."""

    language_model: LanguageModel
    release_id: str | None  # event id (hex); None for a file
    label: str  # name and version, or the path of the file
    name: str = ""  # in /v1/models and in replies: the release's or the training run's; by default `shape`
    sha256: str = ""  # of the file (hex); empty for a release
    loaded_at: float = field(default_factory=time.time)  # seconds since 1970
    max_slots: int = MAX_SLOTS  # limit on the slots of its KV cache
    cache: KVCache = field(init=False)  # only decode workers touch it

    def __post_init__(self) -> None:
        config = self.language_model.config
        object.__setattr__(self, "cache", KVCache(config, slot_count(config, self.max_slots)))
        object.__setattr__(self, "name", self.name or config.name)

    @property
    def shape(self) -> str:
        """Name of the model's shape, as the Rust program's responses have it."""
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


def load_release(
    release: InstalledRelease, *, max_memory: int = DEFAULT_MAX_MEMORY, superseded: threading.Event | None = None
) -> LoadedModel:
    """Load and test the model of an installed release.

    Args:
        release: The release.
        max_memory: Bytes of memory that the model may take.
        superseded: Ends the load soon after it is set.

    Raises:
        InvalidModel: It is damaged, takes too much memory, or failed its self-test.
        ModelUnavailable: A disk error, or lack of memory.
        Superseded: The load was ended.
    """
    label, superseded = release.title, superseded or threading.Event()
    vocabulary, weights = release.file("tokenizer"), release.file("checkpoint").local_path
    try:
        config = ModelConfig.from_json(read_json(release.file("config").local_path, max_size=_MAX_CONFIG))
        check_memory(config, vocabulary.size, max_memory)
        tokenizer = read_tokenizer(vocabulary.local_path)
        decoder = Decoder(config, _until(superseded, read_matrices(weights, config)))
        language_model = LanguageModel(decoder=decoder, tokenizer=tokenizer)
        loaded = LoadedModel(language_model=language_model, release_id=release.id.hex(), label=label, name=release.name)
        _self_test(loaded, superseded)
    except Superseded:
        raise
    except MemoryError:
        raise ModelUnavailable(f"{label}: not enough memory") from None
    except OSError as error:
        raise ModelUnavailable(f"{label}: {error}") from None
    except (RandyGPTError, StopIteration, RuntimeError) as error:
        raise InvalidModel(f"{label}: {error}") from None
    finally:
        _trim_heap()
    return loaded


def load_file(
    path: Path, *, preset: str | None = None, vocab: Path | None = None, max_memory: int = DEFAULT_MAX_MEMORY
) -> LoadedModel:
    """Load and test the model of a checkpoint file.

    Args:
        path: The checkpoint.
        preset: Its shape, if no file next to it gives one.
        vocab: Its vocabulary, instead of the file next to it.
        max_memory: Bytes of memory that the model may take.

    Raises:
        InvalidModel: It takes too much memory, or failed its self-test.
        InvalidModelFile: The file is damaged.
        CallerError: There is no such file.
        StorageError: It could not be read.
    """
    with translate_os_errors():
        info = inspect_checkpoint(find_checkpoint(path), preset=preset, vocab=vocab)
    try:
        check_memory(info.config, 0, max_memory)
        language_model = load(path, preset=preset, vocab=vocab)
        with info.path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        run = info.sidecar.name if info.sidecar else ""
        loaded = LoadedModel(
            language_model=language_model,
            release_id=None,
            label=escape_line(str(path)),
            name=escape_line(run or info.path.stem.removesuffix("_best")),
            sha256=sha256,
        )
        _self_test(loaded, threading.Event())
    except InvalidModel as error:
        raise InvalidModel(f"{path}: {error}") from None
    return loaded


def _until(superseded: threading.Event, matrices: Iterable[Array]) -> Iterator[Array]:
    """Yield the matrices; raise Superseded once the event is set."""
    for matrix in matrices:
        _check_wanted(superseded)
        yield matrix


def _check_wanted(superseded: threading.Event) -> None:
    if superseded.is_set():
        raise Superseded("another release became current while this one was loaded")


def _trim_heap() -> None:
    """Return freed heap pages to the OS (malloc_trim)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


def _self_test(loaded: LoadedModel, superseded: threading.Event) -> None:
    """Compute logits at positions from the first to the last; raise InvalidModel if one is not finite, and Superseded.

    Time and memory are bounded whatever sizes are declared: a long context is tested in part.
    """
    language_model, cache = loaded.language_model, loaded.cache
    block_size = language_model.config.block_size
    language_model.tokenizer.encode("")  # builds its tables here, not in the first request
    starts = np.linspace(0, max(0, block_size - PREFILL_CHUNK), _TEST_PIECES, dtype=int)
    for start in sorted({*starts.tolist()}):
        cache.lengths[0] = start
        with np.errstate(all="ignore"):
            for logits in language_model.decoder.iter_logits([BOS_ID] * min(PREFILL_CHUNK, block_size), cache):
                _check_wanted(superseded)
                if not np.isfinite(logits).all():
                    raise InvalidModel("self-test failed: its logits are not finite")
    cache.lengths[0] = 0
