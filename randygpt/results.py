"""Results of the public functions: a published, a fetched and a found model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distribution.installed import InstalledRelease
from distribution.search_results import FoundModel
from randygpt.checkpoint.sidecar import read_json, read_tokenizer
from randygpt.errors import translate_os_errors
from randygpt.model.config import ModelConfig
from randygpt.publishing import published_references
from relay_client.nip19 import encode_npub

if TYPE_CHECKING:
    from distribution.publish import Published as PublishedRelease
    from randygpt.language_model import LanguageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A release that relays have."""

    release: str  # event id, 64 hex digits
    nevent: str  # the same, with author and relays (NIP-19)
    naddr: str  # author, name and relays: the latest version (NIP-19)
    author: str  # npub
    name: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A release that is verified and installed."""

    release: str  # event id, 64 hex digits
    author: str  # npub
    name: str
    version: int
    path: Path  # the folder of the release
    checkpoint: Path
    config: Path
    tokenizer: Path

    def load(self) -> "LanguageModel":
        """Return the model; raises InvalidModelFile, CallerError and StorageError."""
        from randygpt.language_model import from_weights  # noqa: PLC0415 (numpy, for those who generate)

        with translate_os_errors():
            config = ModelConfig.from_json(read_json(self.config))
            return from_weights(self.checkpoint, config, read_tokenizer(self.tokenizer))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model that a search found: its latest version. Parameters, loss, license and base are its author's claims."""

    name: str
    version: int
    release: str  # event id, 64 hex digits
    author: str  # npub
    params: int | None
    size: int  # bytes of all files
    loss: float | None
    license: str | None
    created_at: int  # seconds since 1970
    base: str | None  # event id of the release that it was made from
    relays: list[str]  # URLs that returned it


def describe_published(done: "PublishedRelease") -> Published:
    """Return a release as the result of a publish."""
    release, references = done.release, published_references(done)
    return Published(
        release=release.id.hex(),
        nevent=references.nevent,
        naddr=references.naddr,
        author=encode_npub(release.author),
        name=release.name,
        version=release.version,
    )


def describe_fetched(installed: InstalledRelease) -> Fetched:
    """Return an installed release as the result of a fetch."""
    return Fetched(
        release=installed.id.hex(),
        author=encode_npub(installed.author),
        name=installed.name,
        version=installed.version,
        path=installed.folder,
        **{role: installed.file(role).local_path for role in ("checkpoint", "config", "tokenizer")},
    )


def describe_model(model: FoundModel) -> ModelInfo:
    """Return a model as a result of a search."""
    return ModelInfo(
        name=model.name,
        version=model.version,
        release=model.release_id.hex(),
        author=encode_npub(model.author),
        params=model.claims.parameters,
        size=model.size,
        loss=model.claims.loss,
        license=model.claims.license or None,
        created_at=model.created_at,
        base=model.base.hex() if model.base else None,
        relays=list(model.relays),
    )
