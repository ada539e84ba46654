"""Continuous-batching engine: decode worker threads, driven from the event loop. No network or disk I/O.

`Engine` is the event loop's side. `_Scheduler` has the waiting queue and the lock that guards which worker has which
sequence. A `DecodeWorker` runs its sequences on its own thread, step by step, and takes the lock only between steps.
"""

import asyncio
import threading
import time
from collections import Counter, abc
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from server.batch import Batch, score_prompt
from server.errors import Busy
from server.metrics import Metrics
from server.models import LoadedModel
from server.sequence import Delivery, Prompt, Request, Sequence, Token, deliver

_BALANCE_FROM = 8  # sequences that two workers decode faster than one
_MERGE_UP_TO = 4  # sequences that one worker decodes faster than two
_MAX_WORKERS = 2  # more would wait for the interpreter lock, which only numpy's computing releases


class Engine:
    """A pool of decode workers. Use it from one event loop.

    Small loads stay on one worker; from 8 sequences on the load is balanced. Sequences beyond capacity queue: keys take
    turns, and the sequences of one key are served first-in, first-out. A key that waits gets slots of a key that has
    more of them (preemption).

    Args:
        threads: Processors to use; the number of workers follows from it.
        metrics: Where decode steps are counted.
    """

    def __init__(self, *, threads: int, metrics: Metrics | None = None) -> None:
        self._count = 0  # sequences of open requests
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scorer = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._scheduler = _Scheduler()
        count, metrics = min(threads, _MAX_WORKERS), metrics or Metrics()
        self._workers = [
            DecodeWorker(
                index=index, count=count, scheduler=self._scheduler, metrics=metrics, call_on_loop=self._call_on_loop
            )
            for index in range(count)
        ]
        self._scheduler.workers.extend(self._workers)
        self._threads = [threading.Thread(target=worker.run, name="decode", daemon=True) for worker in self._workers]
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> int:
        """Number of sequences that a worker has."""
        return self._count - self.waiting

    @property
    def waiting(self) -> int:
        """Number of sequences in the queue."""
        return max(0, self._count - sum(self.loads))

    @property
    def loads(self) -> list[int]:
        """Number of sequences of each worker."""
        with self._scheduler.changed:
            return [worker.load for worker in self._workers]

    def submit(
        self,
        model: LoadedModel,
        prompts: abc.Sequence[Prompt],
        *,
        key: int | None = None,
        logprobs: int | None = None,
        stream: bool = True,
    ) -> Request:
        """Queue a request and return it: a context manager that yields outputs.

        Args:
            model: The model that generates.
            prompts: Token ids and sampling parameters of each sequence.
            key: Whose turn it takes: the index of an API key; None without keys.
            logprobs: Number of most likely tokens to report with each token; None reports no log probabilities.
            stream: Deliver tokens as they are generated, not all at the end of a sequence.

        Raises:
            Busy: The engine is shutting down.
        """
        self._loop = asyncio.get_running_loop()
        request = Request(
            model, prompts, key=key, logprobs=logprobs, stream=stream, on_close=partial(self._forget, len(prompts))
        )
        self._scheduler.enqueue(request.sequences)
        self._count += len(prompts)
        return request

    async def score(self, model: LoadedModel, ids: abc.Sequence[int], count: int) -> list[Token]:
        """Return a prompt's tokens with log probabilities, computed on a thread for one prompt at a time.

        Args:
            model: The model that scores.
            ids: The prompt, at most as long as the context.
            count: Number of most likely tokens to report with each token.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._scorer, score_prompt, model.language_model.decoder, ids, count)

    async def heartbeat(self) -> None:
        """Wait until every worker finishes its current step (for a watchdog). Never returns if one hangs."""
        self._loop = asyncio.get_running_loop()
        for event in self._scheduler.add_heartbeats():
            await event.wait()

    def close(self) -> None:
        """Fail all sequences with Busy and join the workers."""
        self._scorer.shutdown(wait=False, cancel_futures=True)
        waiting = self._scheduler.close()
        for thread in self._threads:
            thread.join()
        if waiting:
            self._call_on_loop(partial(deliver, _failed(waiting, _shutting_down())))

    def _forget(self, count: int) -> None:
        self._count -= count

    def _call_on_loop(self, callback: Callable[[], None]) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(callback)


@dataclass(slots=True, eq=False)
class _Scheduler:
    """The waiting queue and the workers, and the lock that guards both."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    workers: list["DecodeWorker"] = field(default_factory=list)
    closed: bool = False
    _queue: list[Sequence] = field(default_factory=list)  # sequences that no worker has a free slot for

    def enqueue(self, sequences: Iterable[Sequence]) -> None:
        """Queue sequences and dispatch what fits; raises Busy during shutdown."""
        with self.changed:
            if self.closed:
                raise _shutting_down()
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
            preempted = worker.preempt(sequence.request.model, slots, at_least=slots[sequence.request.key] + 2)
            if preempted:
                self._queue.insert(0, preempted)
                self._assign(sequence, worker)

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


@dataclass(slots=True, eq=False, kw_only=True)
class DecodeWorker:
    """A thread's loop over decode steps, with one batch per model."""

    index: int
    count: int  # number of workers; each has its share of a model's slots
    scheduler: _Scheduler
    metrics: Metrics
    call_on_loop: Callable[[Callable[[], None]], None]
    incoming: list[Sequence] = field(default_factory=list)  # to be added before the next step
    heartbeats: list[asyncio.Event] = field(default_factory=list)  # waiters for the next heartbeat
    _batches: dict[LoadedModel, Batch] = field(default_factory=dict)
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
        self._deliver(_failed(self.all_sequences(), _shutting_down()))

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
            advanced = batch.step()
        except Exception as error:  # noqa: BLE001 (raised where a request waits for output)
            self._deliver(_failed(batch.sequences, error))
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


def _imbalance(worker: DecodeWorker, other: DecodeWorker) -> int:
    """Return the number of sequences to migrate from `worker` to `other`."""
    mine, theirs = worker.load, other.load
    if mine + theirs <= _MERGE_UP_TO:  # all to the worker with more
        return mine if (mine, worker.index) < (theirs, other.index) else 0
    if theirs or mine >= _BALANCE_FROM:
        return (mine - theirs) // 2
    return 0


def _failed(sequences: Iterable[Sequence], error: Exception) -> list[Delivery]:
    return [(sequence, [], None, error) for sequence in sequences]


def _shutting_down() -> Busy:
    """Return the error for requests that arrive, or still run, during shutdown."""
    return Busy("the server is shutting down")
