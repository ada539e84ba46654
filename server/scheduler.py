"""Scheduler of decode workers: the waiting queue, dispatch, preemption and migration. No I/O.

It has the lock that guards which worker has which sequence.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from server.errors import Busy
from server.models import LoadedModel
from server.sequence import Sequence

if TYPE_CHECKING:
    from server.decode_worker import DecodeWorker

_BALANCE_FROM = 8  # sequences that two workers decode faster than one
_MERGE_UP_TO = 4  # sequences that one worker decodes faster than two


@dataclass(slots=True, eq=False)
class Scheduler:
    """The waiting queue and the workers, and the lock that guards both."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    workers: list["DecodeWorker"] = field(default_factory=list)
    closed: bool = False
    _queue: list[Sequence] = field(default_factory=list)  # sequences that no worker has a free slot for

    def enqueue(self, sequences: Iterable[Sequence]) -> None:
        """Queue sequences and dispatch what fits; raises Busy during shutdown."""
        with self.changed:
            if self.closed:
                raise shutting_down()
            self._queue.extend(sequences)
            self._dispatch()

    def add_heartbeats(self) -> list[asyncio.Event]:
        """Return an event for each worker, set at its next loop iteration."""
        events = [asyncio.Event() for _ in self.workers]
        with self.changed:
            for worker, event in zip(self.workers, events, strict=True):
                worker.heartbeats.append(event)
            self.changed.notify_all()
        return events

    def close(self) -> list[Sequence]:
        """Have the workers end after their current step; return the sequences that none of them has."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
            return self._queue

    def rebalance(self, worker: "DecodeWorker") -> None:
        """Dispatch, preempt, and migrate a sequence of `worker` to others. Hold the lock; call between its steps.

        Each at most once, since the event loop may be waiting for the lock while KV entries are copied.
        """
        self._dispatch()
        self._preempt(worker)
        for other in self.workers:
            if _imbalance(worker, other) > 0 and worker.migrate(other):
                self.changed.notify_all()

    def _dispatch(self) -> None:
        """Assign queued sequences to workers with a free slot, of the key with fewest slots first. Hold the lock."""
        self._queue = [sequence for sequence in self._queue if not sequence.cancelled]
        if not self._queue:
            return
        slots, full = self._slots_by_key(), set[LoadedModel]()
        while candidates := [sequence for sequence in self._queue if sequence.request.model not in full]:
            sequence = min(candidates, key=lambda each: slots[each.request.key])
            worker = self._find_worker(sequence.request.model)
            if worker:
                self._assign(sequence, worker)
                slots[sequence.request.key] += 1
            else:
                full.add(sequence.request.model)

    def _preempt(self, worker: "DecodeWorker") -> None:
        """Give a waiting sequence the slot of a key that has at least two more slots. Hold the lock.

        One per step, so that the lock is not held for longer than it takes to copy the KV entries of one sequence.
        """
        if self._queue:
            slots = self._slots_by_key()
            sequence = min(self._queue, key=lambda each: slots[each.request.key])
            if slots[sequence.request.key] and not self._may_save(sequence.request.model):
                return
            preempted = worker.preempt(sequence.request.model, slots, at_least=slots[sequence.request.key] + 2)
            if preempted:
                self._queue.insert(0, preempted)
                self._assign(sequence, worker)

    def _may_save(self, model: LoadedModel) -> bool:
        """Return whether KV entries of one more preempted sequence fit in the memory that `server.memory` counts."""
        saved = sum(each.migrated_kv is not None for each in self._queue if each.request.model is model)
        return saved < len(model.cache.lengths)

    def _slots_by_key(self) -> Counter[int | None]:
        return Counter(sequence.request.key for worker in self.workers for sequence in worker.all_sequences())

    def _find_worker(self, model: LoadedModel) -> "DecodeWorker | None":
        """Return the worker that the next sequence of a model joins, or None if no slot is free."""
        free = [worker for worker in self.workers if worker.has_free_slot(model)]
        loads = [worker.load for worker in self.workers]
        stays_on_one = min(loads) == 0 and sum(loads) + 1 < _BALANCE_FROM
        return min(free, key=lambda worker: -worker.load if stays_on_one else worker.load, default=None)

    def _assign(self, sequence: Sequence, worker: "DecodeWorker") -> None:
        self._queue.remove(sequence)
        worker.incoming.append(sequence)
        self.changed.notify_all()


def _imbalance(worker: "DecodeWorker", other: "DecodeWorker") -> int:
    """Return the number of sequences to migrate from `worker` to `other`."""
    mine, theirs = worker.load, other.load
    if mine + theirs <= _MERGE_UP_TO:  # all to the worker with more
        return mine if (mine, worker.index) < (theirs, other.index) else 0
    if theirs or mine >= _BALANCE_FROM:
        return (mine - theirs) // 2
    return 0


def shutting_down() -> Busy:
    """Return the error for requests that arrive, or still run, during shutdown."""
    return Busy("the server is shutting down")
