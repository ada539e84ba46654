"""Relay information documents (NIP-11): limits and requirements that a relay publishes. Does network I/O.

Many relays publish none, or a wrong one. It can only lower our limits, and failures are ignored.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Self

import aiohttp
import orjson

from relay_client.errors import TransportError
from relay_client.messages import sanitize
from relay_client.proxy import find_proxy
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts

MAX_SIZE = 64 << 10  # bytes of a document
_COUNT_NIP, _SEARCH_NIP = 45, 50
_LONGEST_NAME = 60  # characters
_REQUIREMENTS = (
    ("payment_required", "requires payment"),
    ("auth_required", "requires authentication"),
    ("restricted_writes", "accepts events of some authors only"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayInfo:
    """What a relay says of itself: the limits and requirements that matter to a client that sends it events."""

    max_message_length: int | None = None  # bytes per frame
    max_limit: int | None = None  # events per request
    requirements: tuple[str, ...] = ()  # in words, for the user
    counts: bool = False  # offers COUNT (NIP-45)
    searches: bool = False  # offers search by words (NIP-50)
    name: str = field(default="", compare=False)
    software: str = field(default="", compare=False)  # with its version
    is_described: bool = field(default=False, compare=False)  # whether there is a document
    time: int | None = field(default=None, compare=False)  # the relay's clock (HTTP Date), in seconds since 1970

    @classmethod
    def parse(cls, raw_info: bytes) -> Self:
        """Parse a NIP-11 document; missing and invalid values become None."""
        try:
            raw = orjson.loads(raw_info)
        except orjson.JSONDecodeError:
            raw = None
        raw_limits = raw.get("limitation") if isinstance(raw, dict) else None
        limits = raw_limits if isinstance(raw_limits, dict) else {}
        raw_nips = raw.get("supported_nips") if isinstance(raw, dict) else None
        nips = raw_nips if isinstance(raw_nips, list) else []
        about = raw if isinstance(raw, dict) else {}
        return cls(
            name=_words(about.get("name")),
            software=f"{_words(about.get('software')).rpartition('/')[2]} {_words(about.get('version'))}".strip(),
            is_described=isinstance(raw, dict),
            max_message_length=_positive(limits.get("max_message_length")),
            max_limit=_positive(limits.get("max_limit")),
            requirements=tuple(words for name, words in _REQUIREMENTS if limits.get(name) is True),
            counts=_COUNT_NIP in nips,
            searches=_SEARCH_NIP in nips,
        )


async def fetch_relay_infos(urls: Iterable[str], timeouts: Timeouts = DEFAULT_TIMEOUTS) -> dict[str, RelayInfo]:
    """Fetch the NIP-11 documents of relays, by address; an empty `RelayInfo` for relays without a valid one."""
    listed = list(urls)
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeouts.relay_info_s), headers={"Accept": "application/nostr+json"}
    ) as session:
        infos = await asyncio.gather(*(_read_info(session, url) for url in listed))
        return dict(zip(listed, infos, strict=True))


async def _read_info(session: aiohttp.ClientSession, url: str) -> RelayInfo:
    address = url.replace("ws", "http", 1)
    raw_info, time = b"", None
    try:
        proxy = find_proxy(url)
        through = proxy.url if proxy else None
        async with session.get(address, allow_redirects=False, proxy=through) as response:
            time = _http_time(response.headers.get("Date", ""))
            while len(raw_info) <= MAX_SIZE and (block := await response.content.read(MAX_SIZE)):
                raw_info += block
    except (TransportError, aiohttp.ClientError, OSError, ValueError):  # TimeoutError is an OSError
        return RelayInfo(time=time)
    return replace(RelayInfo.parse(raw_info) if len(raw_info) <= MAX_SIZE else RelayInfo(), time=time)


def _http_time(raw_date: str) -> int | None:
    try:
        return int(parsedate_to_datetime(raw_date).timestamp())
    except (ValueError, OverflowError):
        return None


def _words(raw_text: object) -> str:
    return sanitize(raw_text)[:_LONGEST_NAME] if isinstance(raw_text, str) else ""


def _positive(raw_value: object) -> int | None:
    return raw_value if type(raw_value) is int and raw_value > 0 else None
