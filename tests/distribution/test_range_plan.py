"""Scheduling of ranges among servers and relays, without any network."""

from distribution.manifest import Blob
from distribution.range_plan import _MIN_CHUNKS, RANGE_CHUNKS, RangePlan, WantedChunk

A, B, RELAYS = "https://a.example", "https://b.example", "relays"
CHUNK = 10  # bytes


def wanted(*counts: int) -> list[WantedChunk]:
    """Return the chunks of blobs with so many chunks each."""
    chunks: list[WantedChunk] = []
    start = 0
    for number, count in enumerate(counts):
        blob = Blob(offset=start, size=count * CHUNK, sha256=bytes([number]) * 32)
        chunks += [
            WantedChunk(
                number=len(chunks) + at,
                event_id=(len(chunks) + at).to_bytes(32, "big"),
                blob=blob,
                offset=at * CHUNK,
                size=CHUNK,
            )
            for at in range(count)
        ]
        start += blob.size
    return chunks


class Download:
    """A plan, and what has arrived so far."""

    def __init__(self, *counts: int, sources: tuple[str, ...] = (A, B, RELAYS)) -> None:
        self.chunks = wanted(*counts)
        self.missing = {chunk.event_id for chunk in self.chunks}
        self.plan = RangePlan(self.chunks, sources, self.missing.__contains__)

    def receive(self, chunks: list[WantedChunk]) -> None:
        self.missing -= {chunk.event_id for chunk in chunks}


def numbers(chunks: list[WantedChunk]) -> list[int]:
    return [chunk.number for chunk in chunks]


def test_range_stays_in_one_blob_and_within_its_size() -> None:
    plan = Download(RANGE_CHUNKS + 5, 1_000).plan
    first, second, third = (plan.next_range(A) for _ in range(3))
    assert (len(first), len(second), len(third)) == (RANGE_CHUNKS, 5, RANGE_CHUNKS)
    assert numbers(first + second + third) == list(range(2 * RANGE_CHUNKS + 5))
    assert {chunk.blob for chunk in second} == {first[0].blob} != {chunk.blob for chunk in third}


def test_ranges_shrink_so_that_sources_finish_together() -> None:
    plan = Download(3 * _MIN_CHUNKS + 30).plan
    assert len(plan.next_range(A)) == _MIN_CHUNKS + 10
    assert len(plan.next_range(B)) == _MIN_CHUNKS


def test_relays_get_chunks_from_the_end() -> None:
    plan = Download(1_000).plan
    assert numbers(plan.last_chunks(RELAYS, 3)) == [999, 998, 997]
    assert numbers(plan.next_range(A))[0] == 0


def test_what_came_from_elsewhere_is_not_asked_for() -> None:
    download = Download(50)
    download.receive(download.chunks[:49])
    assert numbers(download.plan.next_range(A)) == [49]
    before = download.plan.complete
    download.receive(download.chunks)
    assert (before, download.plan.complete) == (False, True)
    assert not download.plan.may_need(B)


def test_idle_source_takes_half_of_what_a_slow_one_owes() -> None:
    download = Download(6 * _MIN_CHUNKS, sources=(A, B))
    slow = download.plan.next_range(A)
    fast = download.plan.next_range(B)
    download.receive(fast)
    while more := download.plan.next_range(B):
        download.receive(more)
    download.receive(slow[:6])
    taken = download.plan.endgame_range(B)
    assert numbers(taken) == numbers(slow[6 + (len(slow) - 6) // 2 :])
    assert len(slow) == 3 * _MIN_CHUNKS


def test_interrupted_range_is_asked_for_again() -> None:
    download = Download(60)
    asked = download.plan.next_range(A)
    download.receive(asked[:4])
    download.plan.requeue(A, asked)
    assert numbers(download.plan.next_range(B))[0] == 4


def test_missing_blob_is_asked_for_elsewhere() -> None:
    plan = Download(30, 30).plan
    asked = plan.next_range(A)
    plan.mark_blob_lacking(A, asked[0].blob)
    plan.requeue(A, asked)
    assert numbers(plan.next_range(A))[0] == 30
    assert numbers(plan.next_range(B))[0] == 0


def test_misbehaving_server_is_asked_last() -> None:
    download = Download(3)
    plan = download.plan
    asked = plan.next_range(A)
    plan.report_invalid(A, asked[0])
    plan.requeue(A, asked)
    assert not plan.next_range(A)
    assert plan.may_need(A)
    plan.mark_lacking(B, download.chunks)
    plan.remove(RELAYS)
    assert numbers(plan.next_range(A)) == [1, 2]


def test_server_without_ranges_gets_all_of_a_blob() -> None:
    plan = Download(1_000, 10).plan
    plan.mark_whole(A)
    assert len(plan.next_range(A)) == 1_000


def test_removed_source_gets_nothing() -> None:
    plan = Download(10).plan
    plan.remove(A)
    assert not plan.may_need(A)
    assert not plan.next_range(A)
    assert not plan.endgame_range(A)
