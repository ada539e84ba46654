"""Search for models: what is looked for, which releases match, and in which order they come. No I/O.

Everything in a release but author, id and hashes is its author's claim. A stranger's releases never displace those of
authors that the user trusts or follows, and one stranger has a limited number of places.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Literal, get_args

from distribution.confusables import skeleton
from distribution.errors import CallerError
from distribution.events import Head, Release
from distribution.manifest import is_count, is_digest
from relay_client.errors import quote

Sort = Literal["new", "size", "bits"]
SORTS: tuple[Sort, ...] = get_args(Sort)

MAX_RESULTS = 1_000
MAX_SHOWN = 5  # models of one stranger among the results, unless only that author is asked for
_MAX_KEPT = 50  # candidates of one stranger
_MAX_KNOWN_KEPT = 1_000  # candidates of an author whom the user trusts, follows or asks for
_MAX_CANDIDATES = 20_000
_MAX_WORDS = 32


class Standing(IntEnum):
    """What an author is to the user; the lower comes first."""

    TRUSTED = 0
    FOLLOWED = 1
    STRANGER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAuthors:
    """Authors whom the user trusts and follows, by public key, and models of theirs that the user has."""

    trusted: frozenset[bytes] = frozenset()
    followed: frozenset[bytes] = frozenset()
    models: frozenset[tuple[bytes, str]] = frozenset()  # author and name

    def standing(self, author: bytes) -> Standing:
        """Return what an author is to the user."""
        if author in self.trusted:
            return Standing.TRUSTED
        return Standing.FOLLOWED if author in self.followed else Standing.STRANGER


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a card says of a model, as far as it has the right form."""

    parameters: int | None = None
    loss: float | None = None  # on the validation text
    bits_per_byte: float | None = None  # the same
    license: str = ""
    about: str = ""


ReadCard = Callable[[Mapping[str, object]], Claims]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """What to look for, and how many results in which order.

    Raises:
        CallerError: A value is out of range.
    """

    words: tuple[str, ...] = ()  # all of them occur in name, title, summary, topics, description or license
    author: bytes | None = None  # x-only public key, 32
    tag: str = ""  # topic
    max_params: int | None = None
    max_size: int | None = None  # bytes of all files
    since: int | None = None  # seconds since 1970
    sort: Sort = "new"
    limit: int = 20

    def __post_init__(self) -> None:
        if self.sort not in SORTS:
            raise CallerError(f"cannot sort by {quote(self.sort)}: choose one of {', '.join(SORTS)}")
        if not is_count(self.limit, MAX_RESULTS):
            raise CallerError(f"the number of results must be from 1 to {MAX_RESULTS:,}, not {self.limit}")
        if self.author is not None and not is_digest(self.author):
            raise CallerError("an author's public key must have 32 bytes")
        if len(self.words) > _MAX_WORDS:
            raise CallerError(f"at most {_MAX_WORDS} words can be searched for, not {len(self.words)}")

    def matches(self, release: Release, claims: Claims) -> bool:
        """Return whether a release is what is looked for; one that does not say its size in parameters is not small."""
        topics = [topic.casefold() for topic in release.event.tag_values("t")]
        if self.author not in {None, release.author} or (self.tag and self.tag.casefold() not in topics):
            return False
        too_many = self.max_params is not None and (claims.parameters or math.inf) > self.max_params
        too_large = self.max_size is not None and release.size > self.max_size
        if too_many or too_large or release.created_at < (self.since or 0):
            return False
        described = (value for tag in ("title", "summary") for value in release.event.tag_values(tag))
        text = "\n".join((release.name, *topics, *described, claims.about, claims.license)).casefold()
        return all(word.casefold() in text for word in self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """A release among the results of a search; it stands for the latest version of its name."""

    release_id: bytes  # event id, 32
    author: bytes  # x-only public key, 32
    name: str
    version: int
    created_at: int  # seconds since 1970
    size: int  # bytes of all files
    manifest_sha256: bytes
    manifest_ids: tuple[bytes, ...]
    claims: Claims
    base: bytes | None = None  # id of the release that it was made from, as the author claims
    standing: Standing = Standing.STRANGER
    relays: tuple[str, ...] = ()  # URLs that returned it
    resembles: str = ""  # model of a trusted author whose name this one's looks like

    @property
    def key(self) -> tuple[bytes, str]:
        """Author and name."""
        return self.author, self.name

    def is_named_by(self, head: Head) -> bool:
        """Return whether a head and this release agree."""
        named = (head.release_id, head.author, head.name, head.version, head.manifest_sha256)
        return named == (self.release_id, self.author, self.name, self.version, self.manifest_sha256)


@dataclass(slots=True)
class Candidates:
    """Verified releases that match a query, at most one of each name, in bounded memory."""

    query: SearchQuery
    known: KnownAuthors
    read_card: ReadCard
    crowded: set[bytes] = field(default_factory=set)  # authors of whom not all models were kept
    _models: dict[tuple[bytes, str], FoundModel] = field(default_factory=dict)
    _counts: Counter[bytes] = field(default_factory=Counter)  # models of each author
    _relays: dict[bytes, list[str]] = field(default_factory=dict)  # by id of each release that was offered
    _trusted_names: dict[str, str] = field(default_factory=dict)  # skeleton -> name

    def __post_init__(self) -> None:
        for author, name in self.known.models:
            if author in self.known.trusted:
                self._trusted_names[skeleton(name)] = name

    def has(self, release_id: bytes) -> bool:
        """Return whether this release was offered."""
        return release_id in self._relays

    def add_relay(self, release_id: bytes, url: str) -> None:
        """Note that another relay has a release that was offered."""
        if url not in self._relays[release_id]:
            self._relays[release_id].append(url)

    def note(self, release: Release, url: str) -> None:
        """Note which relay has a release, and the names of trusted authors' models."""
        self._relays.setdefault(release.id, [])
        self.add_relay(release.id, url)
        if release.author in self.known.trusted and len(self._trusted_names) < _MAX_CANDIDATES:
            self._trusted_names.setdefault(skeleton(release.name), release.name)

    def offer(self, release: Release, url: str) -> None:
        """Keep a release that matches, if its author has room left and no later version is known."""
        self.note(release, url)
        if found := self.describe(release):
            self._keep(found)

    def describe(self, release: Release) -> FoundModel | None:
        """Return a release as a result, None if it does not match."""
        claims = self.read_card(release.card)
        if not self.query.matches(release, claims):
            return None
        base = release.lineage.base
        return FoundModel(
            release_id=release.id,
            author=release.author,
            name=release.name,
            version=release.version,
            created_at=release.created_at,
            size=release.size,
            manifest_sha256=release.manifest_sha256,
            manifest_ids=release.manifest_ids,
            claims=replace(claims, about=""),
            base=base.release_id if base else None,
            standing=self.known.standing(release.author),
        )

    def ranked(self) -> list[FoundModel]:
        """Return the candidates, the best first."""
        return self.sorted(self._models.values())

    def sorted(self, models: Iterable[FoundModel]) -> list[FoundModel]:
        """Return models in the order of the query: trusted authors, followed ones, strangers."""

        def rank(model: FoundModel) -> tuple[object, ...]:
            bits = model.claims.bits_per_byte
            first = {"new": 0, "size": model.size, "bits": math.inf if bits is None else bits}[self.query.sort]
            return model.standing, first, -model.created_at, model.release_id

        return sorted(models, key=rank)

    def complete(self, model: FoundModel) -> FoundModel:
        """Return a result with its relays, and with the model of a trusted author whose name it imitates."""
        known = self._trusted_names.get(skeleton(model.name), "") if model.standing is not Standing.TRUSTED else ""
        return replace(model, relays=tuple(self._relays.get(model.release_id, ())), resembles=known)

    def has_place(self, model: FoundModel, listed: Counter[bytes]) -> bool:
        """Return whether one more model of its author may be listed, after those counted."""
        limited = model.standing is Standing.STRANGER and model.author != self.query.author
        return not limited or listed[model.author] < MAX_SHOWN

    def _keep(self, model: FoundModel) -> None:
        known = self._models.get(model.key)
        if known and (known.version, known.created_at) >= (model.version, model.created_at):
            return
        if known is None:
            is_known = model.standing is not Standing.STRANGER or model.author == self.query.author
            if self._counts[model.author] >= (_MAX_KNOWN_KEPT if is_known else _MAX_KEPT) or (
                len(self._models) >= _MAX_CANDIDATES and not is_known
            ):
                self.crowded.add(model.author)
                return
            self._counts[model.author] += 1
        self._models[model.key] = model
