"""A store of releases of the tiny model, installed without relays."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from distribution.chunking import CHUNK_SIZE, count
from distribution.events import Release, release_draft
from distribution.installed import InstalledRelease
from distribution.manifest import FileEntry, Manifest, Segment
from distribution.store import Store
from randygpt.checkpoint.header import CheckpointHeader
from randygpt.model.config import ModelConfig
from relay_client.event import Tags
from relay_client.keys import SecretKey
from support.models import CONFIG, side_files

ROLES = {"checkpoint.bin": "checkpoint", "vocab.json": "tokenizer", "config.json": "config"}
NOW = 1_790_000_000  # seconds since 1970


def weights(seed: int) -> np.ndarray:
    """Return weights of a model that never draws the end token at temperature 0, and hardly ever at 0.7."""
    flat = np.random.default_rng(seed).normal(scale=0.3, size=CONFIG.parameter_count).astype("<f4")
    head = flat[(CONFIG.vocab_size + CONFIG.block_size) * CONFIG.n_embd :][: CONFIG.vocab_size * CONFIG.n_embd]
    rows = head.reshape(CONFIG.vocab_size, CONFIG.n_embd)
    rows[1] = 0
    rows[3] = -rows[2]  # one of the two logits is positive
    rows *= 4  # and large
    return flat


def checkpoint(values: np.ndarray, config: ModelConfig = CONFIG) -> bytes:
    header = CheckpointHeader(magic="RGPT0002", vocab_size=config.vocab_size, iteration=0, step=1, best_loss=1.0)
    return header.encode() + values.tobytes()


@dataclass(slots=True, kw_only=True)
class ReleaseStore:
    """A store, and the key that signs the releases installed in it."""

    home: Path
    key: SecretKey
    version: int = 0

    @property
    def store(self) -> Store:
        return Store(self.home)

    def install(
        self,
        *,
        name: str = "tiny",
        card: Mapping[str, object] = MappingProxyType({}),
        extra: Mapping[str, bytes] = MappingProxyType({}),
        hint: str = "",
        tags: Tags = (),
        **changed: bytes,
    ) -> InstalledRelease:
        """Install the next version; `changed` replaces files (`checkpoint`, `vocab`, `config`), `extra` adds some."""
        self.version += 1
        files = {"checkpoint.bin": checkpoint(weights(self.version)), **side_files()}
        files |= {path: changed[path.split(".")[0]] for path in files if path.split(".")[0] in changed}
        manifest = Manifest(files=tuple(self._keep(path, data) for path, data in {**files, **extra}.items()))
        draft = release_draft(
            manifest.encode(),
            [bytes(32)],
            name=name,
            version=self.version,
            format="RGPT0002",
            size=manifest.size,
            card=dict(card),
            hint=hint,
            created_at=NOW,
            tags=tags,
        )
        return self.store.install(Release.parse(draft.sign(self.key), now=NOW), manifest)

    def _keep(self, path: str, data: bytes) -> FileEntry:
        digest = hashlib.sha256(data).digest()
        name = "weights" if ROLES.get(path) == "checkpoint" else "data"
        entry = FileEntry(
            path=path,
            role=ROLES.get(path, "other"),
            size=len(data),
            sha256=digest,
            segments=(Segment(name=name, size=len(data), sha256=digest),),
            references=bytes(64) * count(len(data), CHUNK_SIZE),
        )
        with self.store.partial(bytes(32), entry) as partial:
            partial.write(0, data)
            self.store.add_blob(partial)
        return entry


def without_checkpoint(releases: ReleaseStore) -> InstalledRelease:
    release = releases.install()
    release.file("checkpoint").local_path.unlink()
    return release
