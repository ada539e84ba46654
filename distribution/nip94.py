"""Events that describe files of a release for other programs (NIP-94, kind 1063). Network I/O through a pool.

Readers of releases do not look at them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distribution.event_tags import expiration_tags, public_servers
from distribution.events import FILE_KIND, Named
from distribution.manifest import Manifest
from relay_client.blossom.address import blob_url
from relay_client.blossom.client import CONTENT_TYPE
from relay_client.event import EventDraft, EventSigner, Tags
from relay_client.pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvents:
    """File events that were sent, and what relays answered."""

    ids: Sequence[bytes]  # event ids; empty if no server has a file as one blob
    relays: Mapping[str, str]  # why a relay did not take them, by URL; empty if it did


def file_drafts(
    release: Named, manifest: Manifest, origins: Sequence[str], *, created_at: int, expires: int | None = None
) -> list[EventDraft]:
    """Return the drafts for the files that are one blob each; the same for each publish of a release.

    Args:
        release: The release.
        manifest: Its manifest.
        origins: Blossom servers that have its blobs. If any is public, only public ones are named.
        created_at: Seconds since 1970.
        expires: Seconds since 1970 (NIP-40); None: never.
    """
    servers = public_servers(origins) or tuple(origins)
    if not servers:
        return []
    drafts = []
    for file in manifest.files:
        if file.pieces is not None:
            continue
        url, *fallbacks = (f"{blob_url(origin, file.sha256)}.bin" for origin in servers)
        about = f"{file.path} of the language model {release.name}, version {release.version}"
        tags: Tags = (
            ("url", url),
            *(("fallback", other) for other in fallbacks),
            ("m", CONTENT_TYPE),
            ("x", file.sha256.hex()),
            ("ox", file.sha256.hex()),
            ("size", str(file.size)),
            ("e", release.id.hex()),
            ("t", "randygpt"),
            ("t", "ai-model"),
            ("alt", about),
            *expiration_tags(expires),
        )
        drafts.append(EventDraft(kind=FILE_KIND, created_at=created_at, tags=tags, content=about))
    return drafts


async def publish_file_events(pool: Pool, key: EventSigner, drafts: Sequence[EventDraft]) -> FileEvents:
    """Sign events and send them to the relays in use; the pool drops those that refuse.

    Raises what the key's `sign_event` raises.
    """
    events, urls = [await key.sign_event(draft) for draft in drafts], pool.urls
    await pool.publish([(event, urls) for event in events])
    return FileEvents(ids=[event.id for event in events], relays={url: pool.reports[url].reason for url in urls})
