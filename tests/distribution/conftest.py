"""Two relays that have the same release."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.releases import publish, tiny_sources
from support.scripted_relay import ScriptedRelay, scripted_relay

from distribution.publish import Published
from relay_client.keys import SecretKey


@pytest.fixture
async def relays() -> AsyncIterator[list[ScriptedRelay]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(scripted_relay()) for _ in range(2)]


@pytest.fixture
async def published(relays: list[ScriptedRelay], tmp_path: Path, key: SecretKey) -> Published:
    """A release that both relays have."""
    done = await publish([relays[0].url], tmp_path / "author", key, tiny_sources())
    relays[1].events = dict(relays[0].events)
    return done
