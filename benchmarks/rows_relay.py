"""Rows about what relays carry: chunks signed, verified and fetched, against the bare work that this needs."""

import asyncio
import functools
import hashlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import coincurve
import pybase64
from measure import ROUNDS, Bench, Measured, Row, compare, ratio

from distribution.announcement import chunk_draft
from distribution.chunking import CHUNK_SIZE
from relay_client.embedded import EmbeddedRelay
from relay_client.event import Event, HashedEvent
from relay_client.filter import Filter
from relay_client.keys import SecretKey
from relay_client.pool import Pool

CHUNKS = 300
BATCH = 50  # ids in a request


@dataclass(frozen=True, slots=True)
class Sample:
    """Chunks to work on."""

    key: SecretKey
    data: list[bytes]
    events: list[Event]


@functools.cache
def sample() -> Sample:
    """The chunks of every row."""
    key, data = SecretKey.generate(), [os.urandom(CHUNK_SIZE) for _ in range(CHUNKS)]
    drafts = (chunk_draft(chunk, sha256=hashlib.sha256(chunk).digest(), created_at=1) for chunk in data)
    return Sample(key, data, [draft.sign(key) for draft in drafts])


def each_ms(work: Callable[[int], object]) -> float:
    """Ms for one of CHUNKS pieces of work."""
    start = time.perf_counter()
    for index in range(CHUNKS):
        work(index)
    return (time.perf_counter() - start) * 1e3 / CHUNKS


def signing(_bench: Bench) -> Measured:
    """What signing a chunk costs if nothing else is done, against from its bytes to the event's JSON."""
    key, chunks, bare_key = sample().key, sample().data, coincurve.PrivateKey()

    def bare(index: int) -> bytes:
        text = pybase64.b64encode(chunks[index])
        hashlib.sha256(chunks[index])
        return bare_key.sign_schnorr(hashlib.sha256(text).digest())

    def ours(index: int) -> bytes:
        data = chunks[index]
        return chunk_draft(data, sha256=hashlib.sha256(data).digest(), created_at=2).sign(key).to_json()

    return compare(lambda: each_ms(bare), lambda: each_ms(ours))


def verifying(_bench: Bench) -> Measured:
    """What verifying an event costs if nothing else is done, against from decoded JSON to an `Event`."""
    events = sample().events
    public, raw_events = coincurve.PublicKeyXOnly(sample().key.pubkey), [event.to_dict() for event in events]

    def bare(index: int) -> bool:
        hashlib.sha256(events[index].content.encode())
        return public.verify(events[index].sig, events[index].id)

    return compare(lambda: each_ms(bare), lambda: each_ms(lambda index: Event.parse(raw_events[index])))


async def fetching() -> Measured:
    """Reading events from the embedded relay: dropped as they come, against verified by id."""
    events = sample().events
    async with EmbeddedRelay(port=free_port()) as relay, Pool([relay.url]) as pool:
        await pool.publish((event, [relay.url]) for event in events)
        ids = [event.id for event in events]

        async def read(*, verified: bool) -> float:
            start = time.perf_counter()
            if verified:
                await pool.collect(ids, lambda _url, raw_event: bool(HashedEvent.parse(raw_event)))
            else:
                for first in range(0, CHUNKS, BATCH):
                    batch = tuple(ids[first : first + BATCH])
                    await pool.query(Filter(ids=batch, limit=len(batch)))
            return (time.perf_counter() - start) * 1e3 / CHUNKS

        return ratio([(await read(verified=False), await read(verified=True)) for _ in range(ROUNDS)])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


ROWS = (
    Row(name="sign and pack a chunk, against bare sha256, base64 and Schnorr", unit="x", measure=signing),
    Row(name="verify a chunk event, against bare sha256 and Schnorr", unit="x", measure=verifying),
    Row(name="fetch and verify, against reading and discarding", unit="x", measure=lambda _: asyncio.run(fetching())),
)
