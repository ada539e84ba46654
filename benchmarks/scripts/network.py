"""One client and one relay: `network.py ours|sdk|raw publish|fetch URL FILE`, where FILE has one event per line.

`sdk` is nostr-sdk's own client, with sixteen events in flight; `raw` reads frames and discards them. `ours` verifies
what it fetches: id, kind, base64, SHA-256. Prints {"ms"} for all events.
"""

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

import nostr_sdk
import orjson
from websockets.asyncio.client import connect

from distribution.assembler import Assembler
from distribution.chunking import CHUNK_SIZE, decode
from distribution.manifest import FileEntry, Segment
from relay_client.event import Event
from relay_client.pool import Pool

IN_FLIGHT = 16
IDS = 50  # per request
READ_BACK_TRIES = 60


async def publish_ours(url: str, lines: Sequence[bytes]) -> float:
    """Publish signed events with our client; return the seconds."""
    events = [Event.parse(orjson.loads(line)) for line in lines]
    async with Pool([url]) as pool:
        start = time.perf_counter()
        await pool.publish((event, [url]) for event in events)
        seconds = time.perf_counter() - start
        expect(pool.reports[url].accepted, len(lines))
        for _ in range(READ_BACK_TRIES):  # some relays send OK before an event can be read
            if len((await pool.stored_ids([event.id for event in events]))[url]) == len(events):
                break
            await asyncio.sleep(1)
    return seconds


async def publish_sdk(url: str, lines: Sequence[bytes]) -> float:
    """Publish with nostr-sdk's client; return the seconds."""
    events = [nostr_sdk.Event.from_json(line.decode()) for line in lines]
    client = await sdk_client(url)
    room = asyncio.Semaphore(IN_FLIGHT)

    async def send(event: nostr_sdk.Event) -> int:
        async with room:
            return len((await client.send_event(event)).success)

    start = time.perf_counter()
    accepted = sum(await asyncio.gather(*map(send, events)))
    seconds = time.perf_counter() - start
    expect(accepted, len(lines))
    return seconds


async def fetch_ours(url: str, lines: Sequence[bytes]) -> float:
    """Fetch and verify with our client, without the disk; return the seconds."""
    chunks = [decode(event["content"]) for event in map(orjson.loads, lines)]
    ids = [bytes.fromhex(orjson.loads(line)["id"]) for line in lines]
    size, whole = sum(map(len, chunks)), hashlib.sha256(b"".join(chunks)).digest()
    references = b"".join(key + hashlib.sha256(data).digest() for key, data in zip(ids, chunks, strict=True))
    file = FileEntry(
        path="m.bin",
        role="checkpoint",
        size=size,
        sha256=whole,
        segments=(Segment(name="weights", size=size, sha256=whole),),
        references=references,
    )
    assembler = Assembler([file], CHUNK_SIZE)
    async with Pool([url]) as pool:
        start = time.perf_counter()
        await pool.gather(assembler.missing, lambda _url, raw_event: bool(assembler.offer(raw_event)[1]))
        seconds = time.perf_counter() - start
    expect(len(lines) - len(assembler.missing), len(lines))
    return seconds


async def fetch_sdk(url: str, lines: Sequence[bytes]) -> float:
    """Fetch with nostr-sdk's client; return the seconds."""
    ids = [nostr_sdk.EventId.parse(orjson.loads(line)["id"]) for line in lines]
    client = await sdk_client(url)
    start, count = time.perf_counter(), 0
    for first in range(0, len(ids), IDS):
        wanted = nostr_sdk.Filter().ids(ids[first : first + IDS])
        count += len(await client.fetch_events(nostr_sdk.ReqTarget.auto([wanted])))
    seconds = time.perf_counter() - start
    expect(count, len(lines))
    return seconds


async def fetch_raw(url: str, lines: Sequence[bytes]) -> float:
    """Read and discard the same events, with two requests open; return the seconds."""
    ids = [orjson.loads(line)["id"] for line in lines]
    requests = [
        orjson.dumps(["REQ", f"r{first}", {"ids": ids[first : first + IDS], "limit": IDS}]).decode()
        for first in range(0, len(ids), IDS)
    ]
    async with connect(url, max_size=1 << 18, max_queue=16, compression=None, proxy=None) as socket:
        start, count, done = time.perf_counter(), 0, 0
        for request in requests[:2]:
            await socket.send(request)
        while done < len(requests):
            frame = await socket.recv(decode=False)
            if frame.startswith(b'["EVENT"'):
                count += 1
            elif frame.startswith(b'["EOSE"'):
                done += 1
                await socket.send(f'["CLOSE",{frame.split(b",")[1].decode().rstrip("]")}]')
                if done + 1 < len(requests):
                    await socket.send(requests[done + 1])
        seconds = time.perf_counter() - start
    expect(count, len(lines))
    return seconds


async def sdk_client(url: str) -> nostr_sdk.Client:
    """Return a connected client."""
    client = nostr_sdk.Client()
    await client.add_relay(nostr_sdk.RelayUrl.parse(url))
    await client.connect()
    await asyncio.sleep(0.5)  # the client connects in the background
    return client


def expect(count: int, wanted: int) -> None:
    """Raise RuntimeError unless all events were handled."""
    if count != wanted:
        raise RuntimeError(f"{count} of {wanted} events")


WORK: dict[str, Callable[[str, Sequence[bytes]], Coroutine[None, None, float]]] = {
    "ours publish": publish_ours,
    "sdk publish": publish_sdk,
    "ours fetch": fetch_ours,
    "sdk fetch": fetch_sdk,
    "raw fetch": fetch_raw,
}


def main(client: str, command: str, url: str, file: str) -> None:
    """Measure and print the figures."""
    lines = Path(file).read_bytes().splitlines()
    print(json.dumps({"ms": asyncio.run(WORK[f"{client} {command}"](url, lines)) * 1e3}))


if __name__ == "__main__":
    main(*sys.argv[1:])
