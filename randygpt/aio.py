"""The public functions as coroutines: `publish`, `fetch` and `search`, and `follow` as an async iterator.

    fetched = await randygpt.aio.fetch("npub1…/shakespeare")
    async for newer in randygpt.aio.follow("npub1…/shakespeare"):
        ...
    models = await randygpt.aio.search("tales", max_params=20_000_000)

They use the home folder, the key, the relays and the trust list of the command `randygpt`, unless an argument says
otherwise. Every error is a `randygpt.errors.RandyGPTError`. Does network and disk I/O; imports no torch.
"""

import asyncio
import contextlib
import logging
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from distribution.download import no_progress
from distribution.event_file import EventFile, open_event_file
from distribution.fetch import MAX_SIZE
from distribution.follow import Failed, Installed, Update, VersionRevoked
from distribution.search_results import SearchQuery, Sort
from distribution.store import Store
from randygpt.checkpoint.sidecar import inspect_checkpoint
from randygpt.errors import CallerError, translate_os_errors
from randygpt.fetching import FetchOptions, fetch_release, follow_target, look_up_name, make_follower
from randygpt.publishing import Publication
from randygpt.release_files import checkpoint_spec
from randygpt.remote_signing import remote_signer
from randygpt.results import (
    Fetched,
    ModelInfo,
    Published,
    describe_fetched,
    describe_model,
    describe_published,
)
from randygpt.user.home import Home
from randygpt.user.signer import find_signer
from relay_client import durable
from relay_client.errors import quote
from relay_client.event import EventSigner
from relay_client.keys import SecretKey
from relay_client.nip46.pairing import Pairing

__all__ = ["Fetched", "ModelInfo", "Published", "fetch", "follow", "publish", "search"]

log = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]  # bytes done, bytes in all


async def publish(  # noqa: PLR0913 (options by keyword)
    checkpoint: str | PathLike[str],
    *,
    name: str,
    relays: Sequence[str] | None = None,
    servers: Sequence[str] | None = None,
    events: str | PathLike[str] | None = None,
    home: str | PathLike[str] | None = None,
    key: SecretKey | PathLike[str] | None = None,
    card: Mapping[str, object] | None = None,
    tags: Sequence[str] = (),
    weights_only: bool = False,
    without_validation: bool = False,
    new_version: bool = False,
    on_progress: OnProgress | None = None,
) -> Published:
    """Publish a checkpoint as a signed release under a name.

    The same files under the same name again send only what the relays lack, and keep the release's id.

    Args:
        checkpoint: The file, with its vocabulary next to it.
        name: a-z, 0-9, dot, dash and underscore, at most 64 characters.
        relays: URLs; by default the relays of the user.
        servers: Blossom servers that get the files too; by default those of the user.
        events: File to write the signed events to (JSONL) instead of sending them; it needs no relay.
        home: The folder of keys and state; by default the user's.
        key: The author's key, or a file with an nsec; by default the key of the user.
        card: Further facts about the model, such as `{"license": "MIT", "about": "…"}`.
        tags: Topics under which others can find the model, such as `["shakespeare"]`; at most 10.
        weights_only: Leave the optimizer state out: a third of the bytes.
        without_validation: Publish a checkpoint that was never evaluated.
        new_version: Make another version of files that were published before.
        on_progress: Called with the bytes sent so far and the bytes in all.

    Raises:
        CallerError: an argument or a local file is wrong.
        TransportError: no relay can be reached, or none accepted all of it; a rerun continues.
        StorageError: the disk fails.
    """
    with translate_os_errors():
        user = _home(home)
        needs_relays = events is None or relays or user.relays()
        urls = user.resolve_relays(_urls(relays)) if needs_relays else []
        signer, path = _key(user, key), Path(checkpoint)
        info = await asyncio.to_thread(inspect_checkpoint, path)
        with await asyncio.to_thread(path.open, "rb") as file:
            spec = await asyncio.to_thread(
                checkpoint_spec,
                file,
                info,
                name=name,
                card=card,
                topics=tags,
                weights_only=weights_only,
                without_validation=without_validation,
                new_version=new_version,
            )
            origins = [] if events is not None else user.resolve_servers(_urls(servers))
            publication = Publication(home=user, relays=urls, servers=origins, key=signer, spec=spec)
            if events is None:
                done = await publication.publish(on_progress or no_progress)
            else:
                with durable.atomic_file(Path(events)) as written:
                    done = await publication.write(written, on_progress or no_progress)
    return describe_published(done)


async def fetch(  # noqa: PLR0913 (options by keyword)
    reference: str | None = None,
    *,
    relays: Sequence[str] | None = None,
    servers: Sequence[str] | None = None,
    follow_servers: bool = True,
    events: str | PathLike[str] | None = None,
    home: str | PathLike[str] | None = None,
    max_size: int = MAX_SIZE,
    weights_only: bool = False,
    activate: bool = True,
    on_progress: OnProgress | None = None,
) -> Fetched:
    """Fetch a release, verify every byte, and install it.

    Args:
        reference: An event id in hex, note, nevent, naddr, `npub…/name`, `alice/name` by a trusted author,
            `alice@example.com/name` (NIP-05), or the name of an installed release. None: the only model in `events`.
        relays: URLs; by default the relays of the user, or those in `reference` if the user has none.
        servers: Blossom servers to ask; by default those of the user.
        follow_servers: Ask servers that the author names too.
        events: File of events (JSONL) to fetch from, instead of relays and servers.
        home: The folder of the store and the trust list; by default the user's.
        max_size: Bytes; a larger release is refused.
        weights_only: Leave the optimizer state out: a third of the bytes.
        activate: Make it the current release, which `randygpt serve` answers with.
        on_progress: Called with the bytes fetched so far and the bytes in all.

    Raises:
        CallerError: an argument is wrong.
        PeerError: the author is not trusted, or something does not verify.
        TransportError: relays cannot be reached, or lack some of it; a rerun continues.
        StorageError: the disk or the store fails.
    """
    if events is not None and (relays or servers):
        raise CallerError("events are fetched from a file: leave out relays and servers")
    if reference is None and events is None:
        raise CallerError("name a model, or a file of events")
    with translate_os_errors():
        user = _home(home)
        with _open_events(user, events, max_size) as file:
            found = await fetch_release(
                user,
                reference,
                FetchOptions(
                    relays=_urls(relays),
                    events=file,
                    servers=[] if file else user.resolve_servers(_urls(servers)),
                    follow_servers=follow_servers and file is None,
                    max_size=max_size,
                    weights_only=weights_only,
                ),
                activate=activate,
                on_progress=on_progress or no_progress,
            )
    return describe_fetched(found.release)


async def search(  # noqa: PLR0913 (options by keyword)
    *words: str,
    author: str | None = None,
    tag: str | None = None,
    max_params: int | None = None,
    max_size: int | None = None,
    since: int | None = None,
    sort: Sort = "new",
    limit: int = 20,
    relays: Sequence[str] | None = None,
    home: str | PathLike[str] | None = None,
) -> list[ModelInfo]:
    """Return models on relays, those of trusted and followed authors first. What is missing is logged.

    Args:
        words: Words in name, title, topics, description or license; all of them.
        author: npub, a name on the trust list, or a NIP-05 address.
        tag: Topic.
        max_params: Largest number of parameters that a model may claim.
        max_size: Largest number of bytes.
        since: Earliest date of the version, in seconds since 1970.
        sort: new (newest first), size (smallest first) or bits (lowest claimed bits per byte first).
        limit: Largest number of models, at most 1,000.
        relays: URLs; by default the relays of the user.
        home: The folder of the trust list; by default the user's.

    Raises:
        CallerError: an argument is wrong.
        TransportError: no relay can be reached.
        StorageError: the trust list or the store is damaged.
    """
    from randygpt.discovery import find_author_key, search_models  # noqa: PLC0415 (an HTTP client)

    with translate_os_errors():
        user = _home(home)
        query = SearchQuery(
            words=words,
            author=await find_author_key(user, author, on_note=log.info) if author else None,
            tag=tag or "",
            max_params=max_params,
            max_size=max_size,
            since=since,
            sort=sort,
            limit=limit,
        )
        result = await search_models(user, query, relays=_urls(relays))
    for reason in result.incomplete:
        log.warning("incomplete search: %s", reason)
    return [describe_model(model) for model in result.models]


async def follow(
    name: str,
    *,
    relays: Sequence[str] | None = None,
    home: str | PathLike[str] | None = None,
    max_size: int = MAX_SIZE,
    on_progress: OnProgress | None = None,
) -> AsyncGenerator[Fetched, None]:
    """Install each new version of a model, and yield it; ends when it is closed or cancelled.

    Yields nothing for a version that is installed already. What fails is logged, and tried again later.

    Args:
        name: `npub…/name`, naddr, `alice/name` by a trusted author, or the name of an installed one.
        relays: URLs; by default the relays of the user.
        home: The folder of the store and the trust list; by default the user's.
        max_size: Bytes; a larger release is refused.
        on_progress: Called with the bytes fetched so far and the bytes in all.

    Raises:
        CallerError: an argument is wrong.
        PeerError: the author is not trusted.
    """
    with translate_os_errors():
        user = _home(home)
        spelled = await look_up_name(user, name, on_note=log.info)
        target = follow_target(user, spelled, relays=_urls(relays))
    installs: asyncio.Queue[Fetched | None] = asyncio.Queue()

    def on_update(update: Update) -> None:
        if isinstance(update, Installed):
            installs.put_nowait(describe_fetched(update.release))
        elif isinstance(update, Failed):
            log.warning("following %s: %s", name, update.error)
        elif isinstance(update, VersionRevoked):
            log.warning("%s version %s was revoked: %s", name, update.version, update.reason or "no reason given")
        else:
            log.info("%s version %s: %s", name, update.release.version, update.reason)

    follower = make_follower(
        user,
        Store(user.folder),
        target,
        max_size=max_size,
        on_update=on_update,
        on_progress=on_progress or no_progress,
    )
    task = asyncio.create_task(follower.run(), name=f"follow {name}")
    task.add_done_callback(lambda _: installs.put_nowait(None))
    try:
        while fetched := await installs.get():
            yield fetched
        await task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _home(folder: str | PathLike[str] | None) -> Home:
    user = Home.from_environment()
    return user if folder is None else replace(user, folder=Path(folder).absolute())


@contextlib.contextmanager
def _open_events(home: Home, path: str | PathLike[str] | None, max_size: int) -> Iterator[EventFile | None]:
    """Open a file of events, if one is given; raises CallerError, OSError."""
    if path is None:
        yield None
        return
    with open_event_file(Path(path), folder=durable.make_directory(home.folder), max_size=max_size) as file:
        yield file


def _urls(urls: Sequence[str] | None) -> Sequence[str] | None:
    if isinstance(urls, str):
        raise CallerError(f"expected a list of URLs: [{quote(urls)}]")
    return urls


def _key(home: Home, key: SecretKey | PathLike[str] | None) -> EventSigner:
    if isinstance(key, SecretKey):
        return key
    if isinstance(key, str):  # it may be the secret itself, which must not appear in an error
        raise CallerError("key must be a SecretKey (SecretKey.from_nsec) or the Path of a file, not a str")
    found = find_signer(home, None if key is None else Path(key), _refuse_password, _remote)
    for warning in found.warnings:
        warnings.warn(warning, stacklevel=3)
    return found.signer


def _remote(pairing: Pairing) -> EventSigner:
    return remote_signer(pairing, log.warning)


def _refuse_password(origin: str) -> str:
    raise CallerError(f"{origin} is encrypted: pass key=SecretKey.from_ncryptsec(…, password)")
