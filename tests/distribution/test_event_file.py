"""Files of events as a source of releases."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from distribution.event_file import open_event_file
from distribution.event_writer import head_time
from distribution.events import CHUNK_KIND, HEAD_KIND
from distribution.publish_record import PublishRecord
from relay_client.event import Event, EventDraft
from relay_client.filter import Filter
from relay_client.keys import SecretKey


def head(key: SecretKey, created_at: int) -> Event:
    return EventDraft(kind=HEAD_KIND, created_at=created_at, tags=(("d", "demo"),)).sign(key)


def record(version: int, created_at: int) -> PublishRecord:
    return PublishRecord(version=version, created_at=created_at, card={}, hint="", resumed=False)


async def test_newest_signed_events_are_returned(tmp_path: Path, key: SecretKey) -> None:
    path = tmp_path / "events.jsonl"
    events = [head(key, created_at) for created_at in (300, 100, 200, 200)]
    forged = {**head(key, 400).to_dict(), "sig": "0" * 128}
    path.write_bytes(b"".join([orjson.dumps(forged), *(b"\n" + event.to_json() for event in events)]))
    wanted = Filter(authors=(key.pubkey,), kinds=(HEAD_KIND,), tags={"d": ("demo",)}, limit=2)
    with open_event_file(path, folder=tmp_path, max_size=1) as source:
        assert [answer["created_at"] for _, answer in await source.query(wanted)] == [300, 200]
        older = await source.query({str(path): replace(wanted, until=199)})
        assert [answer["created_at"] for _, answer in older] == [100]
        assert await source.query(Filter(kinds=(HEAD_KIND,), tags={"d": ("other",)}, limit=2)) == []


async def test_wanted_events_are_offered_until_accepted(tmp_path: Path, key: SecretKey) -> None:
    events = [head(key, created_at) for created_at in (100, 200, 300)]
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(event.to_json() + b"\n" for event in [*events, *events]))
    offered = []

    def accept(_name: str, raw_event: object) -> bool:
        offered.append(raw_event)
        return len(offered) > 1

    with open_event_file(path, folder=tmp_path, max_size=1) as source:
        missing = await source.gather([events[1].id, bytes(32)], accept)
        assert (len(offered), missing, source.misbehaving) == (2, [bytes(32)], {str(path)})


async def test_memory_does_not_grow_with_the_file(tmp_path: Path, key: SecretKey) -> None:
    event = EventDraft(kind=CHUNK_KIND, created_at=100, content="A" * 60_000).sign(key)
    path = tmp_path / "events.jsonl"
    with path.open("wb") as file:
        for _ in range(100):
            file.write(event.to_json() + b"\n")
        file.write(b"x" * 8_000_000)
    with open_event_file(path, folder=tmp_path, max_size=1) as source:
        tracemalloc.start()
        try:
            assert await source.gather([bytes(32)], lambda _name, _event: True) == [bytes(32)]
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("dates", "version", "expected"),
    [
        pytest.param([100, 200, 300], 2, 200, id="own-date"),
        pytest.param([100, 100, 100], 3, 102, id="same-second"),
        pytest.param([500, 100], 2, 501, id="clock-set-back"),
    ],
)
def test_head_is_newer_than_those_before_it(dates: list[int], version: int, expected: int) -> None:
    assert head_time([record(number, date) for number, date in enumerate(dates, 1)], version) == expected
