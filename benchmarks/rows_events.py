"""Rows about chunk events: signing and verifying, against the bare hash, base64 and Schnorr operations."""

import functools
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import coincurve
import pybase64
from measure import Bench, Measured, Row, compare

from distribution.chunking import CHUNK_SIZE, decode_exactly
from distribution.events import chunk_draft
from relay_client.event import Event
from relay_client.keys import SecretKey

CHUNKS = 300


@dataclass(frozen=True, slots=True)
class Sample:
    """Chunks, and their events."""

    key: SecretKey
    data: list[bytes]
    events: list[Event]


@functools.cache
def sample() -> Sample:
    """Create the chunks that all rows use."""
    key, data = SecretKey.generate(), [os.urandom(CHUNK_SIZE) for _ in range(CHUNKS)]
    drafts = (chunk_draft(chunk, sha256=hashlib.sha256(chunk).digest(), created_at=1) for chunk in data)
    return Sample(key, data, [draft.sign(key) for draft in drafts])


def each_ms(work: Callable[[int], object]) -> float:
    """Return the mean ms per call of `work`, called for each chunk."""
    start = time.perf_counter()
    for index in range(CHUNKS):
        work(index)
    return (time.perf_counter() - start) * 1e3 / CHUNKS


def signing(_bench: Bench) -> Measured:
    """Compare the bare operations of signing a chunk with the path from its bytes to the event's JSON."""
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
    """Compare the bare operations of verifying an event with the path from decoded JSON to the chunk's bytes."""
    events, digests = sample().events, [hashlib.sha256(data).digest() for data in sample().data]
    public, raw_events = coincurve.PublicKeyXOnly(sample().key.pubkey), [event.to_dict() for event in events]

    def bare(index: int) -> bool:
        hashlib.sha256(events[index].content.encode())
        hashlib.sha256(pybase64.b64decode(events[index].content, validate=True))
        return public.verify(events[index].sig, events[index].id)

    def ours(index: int) -> bytes:
        event = Event.parse(raw_events[index])
        return decode_exactly(event.content, size=CHUNK_SIZE, sha256=digests[index])

    return compare(lambda: each_ms(bare), lambda: each_ms(ours))


ROWS = (
    Row(name="sign and encode a chunk, against bare sha256, base64 and Schnorr", unit="x", measure=signing, goal=0.667),
    Row(name="verify a chunk, against bare sha256, base64 and Schnorr", unit="x", measure=verifying, goal=0.667),
)
