"""Fetching and following of models with the user's home, key, relays and trust list.

The command line and the public functions of `randygpt` are thin callers of this module. Does network and disk I/O.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distribution.author_claims import ClaimStore, ask_names, learn_names
from distribution.download import OnProgress, no_progress
from distribution.event_file import EventFile
from distribution.fetch import MAX_SIZE, Fetched, Fetcher
from distribution.follow import Failed, Follower, FollowStatus, FollowTarget, Update
from distribution.manifest import is_name
from distribution.partial import HeaderRewrite
from distribution.preview import FetchPlan, Preview, look, plan_fetch
from distribution.resolve import Reference, resolve_name, resolve_reference
from distribution.state_file import StateFile
from distribution.store import Store
from distribution.trust import TrustPolicy
from distribution.trust_list import TrustList, TrustStore
from distribution.web_names import spell_out
from randygpt.checkpoint.header import WEIGHTS_MAGIC
from randygpt.errors import CallerError, InvalidRelease
from randygpt.user import signing_key
from randygpt.user.home import Home
from relay_client.hints import usable_hints
from relay_client.pool import Pool
from relay_client.relay_status import RelayReport

if TYPE_CHECKING:
    from relay_client.event_source import EventSource

_WEIGHTS = HeaderRewrite(size=len(WEIGHTS_MAGIC), apply=lambda _: WEIGHTS_MAGIC)


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
    )  # called with what does not count, and with keys of NIP-05 addresses

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

    `policy` is for what is not the user's; `remember`: keep the key of a NIP-05 address.
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
    """Return a typed name of a model with the key of its author, if it has a NIP-05 address.

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
