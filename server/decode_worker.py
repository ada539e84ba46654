"""Decode worker: decodes on a thread of its own and takes the lock only between steps. No network or disk I/O."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from randygpt.model.decode_kernel import default_threads
from server.batch import Batch
from server.metrics import Metrics
from server.models import LoadedModel
from server.scheduler import Scheduler, shutting_down
from server.sequence import Delivery, Sequence, deliver, failures

_SHARED_UP_TO = 4  # sequences of one worker that all cores decode together, while the other workers are idle


@dataclass(slots=True, eq=False, kw_only=True)
class DecodeWorker:
    """A thread's loop over decode steps, with one batch per model."""

    index: int
    count: int  # number of workers; each has its share of a model's slots
    scheduler: Scheduler
    metrics: Metrics
    call_on_loop: Callable[[Callable[[], None]], None]
    incoming: list[Sequence] = field(default_factory=list)  # to be added before the next step
    heartbeats: list[asyncio.Event] = field(default_factory=list)  # waiters for the next heartbeat
    _batches: dict[LoadedModel, Batch] = field(default_factory=dict)
    _threads: int = 1  # to decode with
    _stepped_at: dict[LoadedModel, float] = field(default_factory=dict)  # last step with tokens, by perf_counter

    @property
    def load(self) -> int:
        """Number of sequences. Hold the lock."""
        return len(self.incoming) + sum(len(batch.sequences) for batch in self._batches.values())

    def has_free_slot(self, model: LoadedModel) -> bool:
        """Return True if another sequence of this model fits. Hold the lock."""
        count = sum(sequence.request.model is model for sequence in self.incoming)
        if model in self._batches:
            count += len(self._batches[model].sequences)
        return count < len(model.cache.partition(self.index, self.count).lengths)

    def all_sequences(self) -> list[Sequence]:
        """Return the sequences that have a slot, or will have one before the next step. Hold the lock."""
        return [*self.incoming, *(sequence for batch in self._batches.values() for sequence in batch.sequences)]

    def preempt(self, model: LoadedModel, slots: Counter[int | None], *, at_least: int) -> Sequence | None:
        """Detach a sequence of the key with most slots; None if it has fewer than `at_least`, or for lack of memory.

        Hold the lock, between steps.
        """
        sequences = self._batches[model].sequences if model in self._batches else ()
        counts = [(slots[sequence.request.key], slot) for slot, sequence in enumerate(sequences)]
        count, slot = max(counts, default=(0, 0))  # of several the last, which has come least far
        if count < at_least:
            return None
        try:
            return self._batches[model].detach(slot)
        except MemoryError:
            return None

    def migrate(self, other: "DecodeWorker") -> bool:
        """Move one sequence and its KV entries to `other` if it has a free slot. Hold the lock, between steps."""
        for model, batch in self._batches.items():
            if batch.sequences and other.has_free_slot(model):
                try:
                    other.incoming.append(batch.detach())
                except MemoryError:  # it stays, and decodes here
                    return False
                return True
        return False

    def run(self) -> None:
        """Decode until the scheduler is closed, then fail what is left."""
        while self._admit():
            self._step_all()
        self._deliver(failures(self.all_sequences(), shutting_down()))

    def _admit(self) -> bool:
        """Wait for something to do and add incoming sequences; return False once the scheduler is closed."""
        scheduler = self.scheduler
        with scheduler.changed:
            if not scheduler.closed:
                scheduler.rebalance(self)
            scheduler.changed.wait_for(lambda: scheduler.closed or self.incoming or self._batches or self.heartbeats)
            for event in self.heartbeats:
                self.call_on_loop(event.set)
            self.heartbeats.clear()
            if scheduler.closed:
                return False
            others_idle = not any(other.load for other in scheduler.workers if other is not self)
            self._threads = default_threads() if others_idle and self.load <= _SHARED_UP_TO else 1
            incoming, self.incoming = self.incoming, []
            for sequence in incoming:
                model = sequence.request.model
                if model not in self._batches:
                    cache = model.cache.partition(self.index, self.count)
                    self._batches[model] = Batch(model.language_model.decoder, cache)
                self._batches[model].add(sequence)
            return True

    def _step_all(self) -> None:
        for model in list(self._batches):  # a frame of its own, so that an idle worker holds no reference to a model
            self._step(model)

    def _step(self, model: LoadedModel) -> None:
        batch = self._batches[model]
        previous = self._stepped_at.get(model, time.perf_counter())
        try:
            advanced = batch.step(threads=self._threads)
        except Exception as error:  # noqa: BLE001 (raised where a request waits for output)
            self._deliver(failures(batch.sequences, error))
            self._drop(model)
            return
        if advanced:
            self._stepped_at[model] = self._observe(advanced, previous)
        due = [sequence for sequence in advanced if sequence.request.stream or sequence.finish]
        self._deliver([(sequence, sequence.pending_tokens, sequence.finish, None) for sequence in due])
        for sequence in due:
            sequence.pending_tokens = []
        if not batch.sequences:
            self._drop(model)

    def _drop(self, model: LoadedModel) -> None:
        with self.scheduler.changed:
            del self._batches[model]
        self._stepped_at.pop(model, None)

    def _observe(self, advanced: list[Sequence], previous: float) -> float:
        """Count a step and return its end."""
        now = time.perf_counter()
        self.metrics.observe_step(len(advanced), now - previous)
        for sequence in advanced:
            if not sequence.started:
                sequence.started = True
                self.metrics.observe_first_token(now - sequence.request.arrived_at)
        return now

    def _deliver(self, deliveries: list[Delivery]) -> None:
        if deliveries:
            self.call_on_loop(partial(deliver, deliveries))
