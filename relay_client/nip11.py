"""What a relay says about itself (NIP-11). A hint: it may lower what we expect of the relay, and raises nothing.

Many relays say nothing, or something wrong. Does network I/O.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import aiohttp
import orjson

from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts

MAX_SIZE = 64 << 10  # bytes of a description
_DEMANDS = (
    ("payment_required", "asks to be paid"),
    ("auth_required", "wants to know who is there"),
    ("restricted_writes", "takes events of some people only"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayInfo:
    """The part of a relay's description that matters to whoever sends it events."""

    max_message_length: int | None = None  # bytes of a frame
    max_limit: int | None = None  # events it gives for one request
    requirements: tuple[str, ...] = ()  # in words, for a person

    @classmethod
    def parse(cls, raw_info: bytes) -> Self:
        """The description in a JSON document; whatever is missing or makes no sense is as if it were not there."""
        try:
            raw = orjson.loads(raw_info)
        except orjson.JSONDecodeError:
            raw = None
        raw_limits = raw.get("limitation") if isinstance(raw, dict) else None
        limits = raw_limits if isinstance(raw_limits, dict) else {}
        return cls(
            max_message_length=_positive(limits.get("max_message_length")),
            max_limit=_positive(limits.get("max_limit")),
            requirements=tuple(words for name, words in _DEMANDS if limits.get(name) is True),
        )


async def fetch_relay_infos(urls: Iterable[str], timeouts: Timeouts = DEFAULT_TIMEOUTS) -> dict[str, RelayInfo]:
    """What these relays say about themselves, by their addresses; nothing of the sort is an empty `RelayInfo`."""
    asked = list(urls)
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeouts.relay_info_s), headers={"Accept": "application/nostr+json"}
    ) as session:
        return dict(zip(asked, await asyncio.gather(*(_read_info(session, url) for url in asked)), strict=True))


async def _read_info(session: aiohttp.ClientSession, url: str) -> RelayInfo:
    address = url.replace("ws", "http", 1)
    raw_info = b""
    try:
        async with session.get(address, allow_redirects=False) as answer:
            while len(raw_info) <= MAX_SIZE and (block := await answer.content.read(MAX_SIZE)):
                raw_info += block
    except (aiohttp.ClientError, OSError, ValueError):  # TimeoutError is an OSError
        return RelayInfo()
    return RelayInfo.parse(raw_info) if len(raw_info) <= MAX_SIZE else RelayInfo()


def _positive(raw_value: object) -> int | None:
    return raw_value if type(raw_value) is int and raw_value > 0 else None
