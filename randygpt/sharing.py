"""Publishing, fetching and following models with the user's home, key, relays and trust list.

The command line and the public functions of `randygpt` are thin callers of this module. Does network and disk I/O.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO

from distribution.announce import Announcement, announce
from distribution.author_claims import ClaimStore, ask_names, learn_names
from distribution.chunk_signatures import make_chunk_key
from distribution.download import OnProgress
from distribution.dry_run import DryRun
from distribution.event_file import EventFile
from distribution.fetch import MAX_SIZE, Fetched, Fetcher
from distribution.follow import Failed, Follower, FollowStatus, FollowTarget, Update
from distribution.journal import Journal
from distribution.manifest import is_name
from distribution.partial import HeaderRewrite
from distribution.preview import FetchPlan, Preview, look, plan_fetch
from distribution.publish import Published, Publisher
from distribution.published import PublishedVersion, add_recorded, query_published
from distribution.references import References, make_references
from distribution.release_spec import ReleaseSpec
from distribution.resolve import Reference, resolve_name, resolve_reference
from distribution.state_file import StateFile
from distribution.store import Store
from distribution.trust import TrustPolicy
from distribution.trust_list import TrustList, TrustStore
from distribution.web_names import spell_out
from randygpt.checkpoint.header import WEIGHTS_MAGIC
from randygpt.errors import CallerError, InvalidRelease, TransportError
from randygpt.user import signing_key
from randygpt.user.home import Home
from relay_client.event import EventSigner
from relay_client.hints import usable_hints
from relay_client.keys import SecretKey, local_key
from relay_client.nip46.remote_signer import kept_open
from relay_client.pool import Pool
from relay_client.relay_status import RelayReport

if TYPE_CHECKING:
    from relay_client.event_source import EventSource

_WEIGHTS = HeaderRewrite(size=len(WEIGHTS_MAGIC), apply=lambda _: WEIGHTS_MAGIC)


def no_progress(_done: int, _total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A release to publish: what is in it, who signs it, and which relays it goes to."""

    home: Home
    relays: Sequence[str]
    key: EventSigner
    spec: ReleaseSpec
    copies: int | None = None  # relays that each chunk goes to; None: all
    check: bool = False  # ask the relays for every event instead of trusting the receipts
    servers: Sequence[str] = ()  # Blossom servers that the files go to
    send_chunks: bool = True  # send the files to relays too
    nip94: bool = False  # describe files on servers for other programs
    announcement: Announcement = field(default_factory=Announcement)  # events to send after the release
    throwaway_chunk_key: bool | None = None  # let a throw-away key sign the chunks; None: if the author's is remote

    def __post_init__(self) -> None:
        if self.nip94 and not self.servers:
            raise CallerError("--nip94 describes files on a Blossom server: pass --server")
        if self.copies and self.copies > len(self.relays):
            needed = f"--copies {self.copies} needs at least {self.copies} relays"
            raise CallerError(f"{needed}, and only {len(self.relays)} are configured (--relay)")

    def is_first_version(self) -> bool:
        """Return whether this machine has published nothing under this name yet; raises StoreError."""
        with Journal(self.home.journal_path) as journal:
            return journal.highest(self.key.pubkey, self.spec.name) == 0

    async def dry_run(self) -> DryRun:
        """Return what `publish` would send; connects to no relay, and records nothing."""
        with Journal(self.home.journal_path) as journal:
            return await self._publisher(Pool(self.relays), journal, self._chunk_key()).dry_run(self.spec)

    async def publish(self, on_progress: OnProgress = no_progress) -> Published:
        """Sign the release and send it, then what announces it; raises what `Publisher.publish` raises."""
        with Journal(self.home.journal_path) as journal:
            chunk_key = self._chunk_key()
            async with kept_open(self.key):
                async with Pool(self.relays, signer=local_key(self.key) or chunk_key) as pool:
                    published = await self._publisher(pool, journal, chunk_key, on_progress).publish(self.spec)
                naddr = published_references(published, copies=self.copies).naddr
                relays = [url for url, report in published.relays.items() if report.in_use]
                sent = await announce(self.announcement, published.release, relays, self.key, naddr=naddr, now=_now())
                return replace(published, announced=sent)

    async def write(self, file: BinaryIO, on_progress: OnProgress = no_progress) -> Published:
        """Sign the release and write its events to a file; the first relay is named in them, and none is needed.

        Raises what `Publisher.write` raises.
        """
        with Journal(self.home.journal_path) as journal:
            publisher = self._publisher(Pool(self.relays), journal, self._chunk_key(), on_progress)
            async with kept_open(self.key):
                return await publisher.write(self.spec, file)

    def _chunk_key(self) -> SecretKey | None:
        return make_chunk_key(self.key, throwaway=self.throwaway_chunk_key)

    def _publisher(
        self, pool: Pool, journal: Journal, chunk_key: SecretKey | None, on_progress: OnProgress = no_progress
    ) -> Publisher:
        return Publisher(
            pool=pool,
            journal=journal,
            key=self.key,
            now=_now,
            copies=self.copies,
            check=self.check,
            servers=self.servers,
            send_chunks=self.send_chunks,
            nip94=self.nip94,
            chunk_key=chunk_key,
            on_progress=on_progress,
        )


def published_references(published: Published, *, copies: int | None = None) -> References:
    """Return the references of a published release; `copies`: relays that each chunk went to, None for all."""
    relays = [url for url, report in published.relays.items() if report.in_use]
    servers = [origin for origin, report in published.servers.items() if not report.reason]
    return make_references(published.release, relays, copies=copies, servers=servers)


async def own_versions(
    home: Home, key: EventSigner, *, relays: Sequence[str] | None = None
) -> tuple[list[PublishedVersion], str]:
    """Return the versions that `key` published, from relays and this machine's journal, and what could not be asked.

    Args:
        home: Where the journal and the list of relays are.
        key: The author's key.
        relays: Where to look; by default the user's relays. Without any, only the journal counts.

    Raises:
        StoreError: The journal cannot be used.
    """
    with Journal(home.journal_path) as journal:
        records = journal.publishes(key.pubkey)
    urls = list(relays or home.relays())
    if not urls:
        return add_recorded((), records), "no relays are configured"
    try:
        async with Pool(urls, signer=local_key(key), wait_for_all=False) as pool:
            found = await query_published(pool, key.pubkey, now=_now())
            return add_recorded(found, records), pool.failure_summary()
    except TransportError as error:
        return add_recorded((), records), str(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """What to fetch, and from where."""

    relays: Sequence[str] | None = None  # None: the user's, or those that the reference names if the user has none
    events: EventFile | None = None  # file to fetch from instead of relays
    servers: Sequence[str] | None = None  # Blossom servers; None: the user's
    follow_servers: bool = True  # ask servers that the author names too
    max_size: int = MAX_SIZE  # bytes; a larger release is refused
    weights_only: bool = False  # leave the optimizer state out: the installed checkpoint is then an RGPT0002 file
    on_warning: Callable[[str], None] = lambda _text: (
        None
    )  # called with what does not count, and with keys of web names

    @property
    def weights(self) -> HeaderRewrite | None:
        """The header of a checkpoint without its optimizer state, if it is to be left out."""
        return _WEIGHTS if self.weights_only else None


async def fetch_release(
    home: Home,
    reference: str | None,
    options: FetchOptions = FetchOptions(),
    *,
    activate: bool = True,
    on_progress: OnProgress = no_progress,
) -> Fetched:
    """Fetch, verify and install the release that `reference` names.

    Args:
        home: Where the store, the trust list and the key for relays that authenticate (NIP-42) are.
        reference: Any name of a release that `distribution.resolve` knows; None: the only model in `options.events`.
        options: What to fetch, and from where.
        activate: Make it the current release.
        on_progress: Called with the bytes fetched so far and the bytes of the whole.

    Raises:
        CallerError: `reference` names nothing, or no relay is given.
        PeerError, TransportError, StorageError, OSError: as `Fetcher.fetch`.
    """
    opened = _open_fetcher(home, reference, options, remember=True, on_progress=on_progress)
    async with opened as (fetcher, parsed):
        fetched = await fetcher.fetch(parsed, activate=activate, weights=options.weights)
        if not options.events:
            await _learn_name(home, fetcher.pool, fetched.release.author)
        return fetched


async def preview_release(home: Home, reference: str, *, relays: Sequence[str] | None = None) -> Preview:
    """Return the release that `reference` names, verified, without its files. The trust policy does not apply.

    Raises what `fetch_release` raises.
    """
    async with _open_fetcher(home, reference, FetchOptions(relays=relays), policy=TrustPolicy()) as (fetcher, parsed):
        preview = await look(fetcher, parsed)
        names = await ask_names(fetcher.pool, [preview.release.author], now=_now())
        return replace(preview, claimed_name=(names or {}).get(preview.release.author, ""))


async def plan_fetch_release(
    home: Home, reference: str | None, options: FetchOptions
) -> tuple[FetchPlan, Mapping[str, RelayReport]]:
    """Return what `fetch_release` would download, and the status of each relay; raises what it raises."""
    async with _open_fetcher(home, reference, options) as (fetcher, parsed):
        plan = await plan_fetch(fetcher, parsed, options.weights)
        return plan, fetcher.pool.reports


@contextlib.asynccontextmanager
async def _open_fetcher(
    home: Home,
    reference: str | None,
    options: FetchOptions,
    *,
    policy: TrustPolicy | None = None,
    remember: bool = False,
    on_progress: OnProgress = no_progress,
) -> AsyncIterator[tuple[Fetcher, Reference]]:
    """Open the relays for a reference, or the file, and yield a fetcher with the reference.

    `policy` is for what is not the user's; `remember`: keep the key of a name of the web.
    """
    store, trusted = Store(home.folder), TrustStore(home.folder).read()
    policy = policy or trusted.policy
    async with contextlib.AsyncExitStack() as stack:
        source: EventSource
        if options.events:
            source, parsed = options.events, await _resolve_in_file(store, trusted, options.events, reference, policy)
        else:
            reference = await look_up_name(home, reference or "", remember=remember, on_note=options.on_warning)
            parsed = resolve_reference(store, trusted, reference)
            has_own_hints = not options.relays and not home.relays() and usable_hints(parsed.relays, known=())
            urls = [] if has_own_hints else home.resolve_relays(options.relays, hints=parsed.relays)
            signer = signing_key.signer(home)
            pool = Pool(urls, signer=signer, hints=parsed.relays, wait_for_all=False)
            source = await stack.enter_async_context(pool)
        fetcher = Fetcher(
            pool=source,
            store=store,
            policy=policy,
            now=_now,
            max_size=options.max_size,
            on_progress=on_progress,
            on_warning=options.on_warning,
            servers=home.servers() if options.servers is None else options.servers,
            follow_servers=options.follow_servers,
        )
        yield fetcher, parsed


async def _learn_name(home: Home, source: "EventSource", author: bytes) -> None:
    """Ask for the profile of an author to whom the user gave no name."""
    if author not in TrustStore(home.folder).read().names:
        await learn_names(source, [author], ClaimStore(home.folder), now=_now())


async def look_up_name(home: Home, text: str, *, remember: bool = True, on_note: Callable[[str], None]) -> str:
    """Return a typed name of a model with the key of its author, if it has a name of the web (NIP-05).

    Raises what `distribution.web_names.find_author` raises.
    """
    store = TrustStore(home.folder)
    return await spell_out(text, store, remember=remember, on_note=on_note)


async def _resolve_in_file(
    store: Store, trusted: TrustList, events: EventFile, reference: str | None, policy: TrustPolicy
) -> Reference:
    """Return what a reference stands for; None or a name that is not installed: the only such model in a file."""
    if reference is not None:
        try:
            return resolve_reference(store, trusted, reference)
        except CallerError:
            if not is_name(reference):
                raise
    return await events.find_model(policy, name=reference, now=_now())


def follow_target(
    home: Home, name: str, *, relays: Sequence[str] | None = None, notify_only: bool = False
) -> FollowTarget:
    """Resolve a name to a follow target: `npub…/name`, naddr, `alice/name`, or the name of an installed release.

    Raises:
        CallerError: `name` names no model, or no relay is given.
        NotTrusted: the trust policy refuses the author.
    """
    trusted = TrustStore(home.folder).read()
    address = resolve_name(Store(home.folder), trusted, name)
    trusted.policy.check(address.author)
    urls = home.resolve_relays(relays, hints=address.relays)
    return FollowTarget(address=address, urls=urls, notify_only=notify_only, signer=signing_key.signer(home))


def make_follower(
    home: Home,
    store: Store,
    target: FollowTarget,
    *,
    max_size: int = MAX_SIZE,
    on_update: Callable[[Update], None],
    on_status: Callable[[FollowStatus], None] = lambda _: None,
    on_progress: OnProgress = no_progress,
) -> Follower:
    """Return a follower that installs releases of the target's author, of at most `max_size` bytes."""
    policy = TrustPolicy(mode="allowlist", authors=frozenset({target.address.author}))
    servers = home.servers()

    warned: set[str] = set()

    def warn(text: str) -> None:
        if text not in warned:
            warned.add(text)
            on_update(Failed(error=InvalidRelease(text)))

    def fetcher(pool: Pool) -> Fetcher:
        return Fetcher(
            pool=pool,
            store=store,
            policy=policy,
            now=_now,
            max_size=max_size,
            on_progress=on_progress,
            on_warning=warn,
            servers=servers,
        )

    return Follower(
        target,
        store,
        fetcher,
        now=_now,
        status_file=StateFile(home.follow_path),
        on_update=on_update,
        on_status=on_status,
    )


def _now() -> int:
    return int(time.time())
