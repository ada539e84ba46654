"""Description of a release to publish. No I/O of its own: its files are open already."""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from distribution.chunking import spans
from distribution.errors import CallerError
from distribution.event_tags import find_further_fault
from distribution.events import MAX_CARD_DEPTH, MAX_MANIFEST_CHUNKS, is_card, is_format
from distribution.manifest import find_set_fault, is_name
from distribution.source import SourceFile
from relay_client.errors import quote
from relay_client.event import Tags


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSpec:
    """What to publish: files, the name they get, and what the author says about them.

    Raises:
        CallerError: No such release can exist; the message says which value is wrong.
    """

    files: tuple[SourceFile, ...]  # one checkpoint, one tokenizer, one config, and up to 13 others
    name: str
    format: str  # of the checkpoint, such as RGPT0003
    card: Mapping[str, object]  # any JSON object; shown to users, never interpreted
    new_version: bool = False  # publish the same files again, under a new version
    tags: Tags = ()  # further tags of the release event, such as title and t; `published_at` is added
    expires_in_s: int | None = None  # seconds after which relays may delete it (NIP-40); None: never

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise CallerError(
                f"not a name for a model: {quote(self.name)} (a-z, 0-9, dot, dash, underscore; at most 64)"
            )
        if not is_format(self.format):
            raise CallerError(
                f"not a format: {quote(self.format)} (letters, digits, dot, dash, underscore; at most 32)"
            )
        if fault := find_set_fault([(file.path, file.role) for file in self.files]):
            raise CallerError(f"not the files of a release: {fault}")
        if self.expires_in_s is not None and self.expires_in_s <= 0:
            raise CallerError(f"expires_in_s must be above 0, not {self.expires_in_s}")
        if fault := find_further_fault(self.tags):
            raise CallerError(f"not the tags of a release: {fault}")
        try:
            card = orjson.loads(orjson.dumps(self.card))
        except TypeError as error:
            raise CallerError(f"the card cannot be written as JSON: {error}") from None
        if not is_card(card):
            raise CallerError(f"the card must be a JSON object of at most {MAX_CARD_DEPTH} levels")

    def tags_at(self, created_at: int) -> Tags:
        """Return the further tags of a release of this date (seconds since 1970)."""
        return (*self.tags, ("published_at", str(created_at)))

    @property
    def max_events(self) -> int:
        """Upper bound of the number of events, known without reading the files."""
        chunks = sum(1 for file in self.files for _ in spans([length for _, length in file.segments]))
        return chunks + MAX_MANIFEST_CHUNKS + 2  # and the release and its head
