"""Has texts written on threads, many at a time, so that the event loop stays free. No I/O."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from randygpt.model.sampling import Continuation, Sampling
from server.errors import Busy
from server.metrics import Metrics
from server.models import LoadedModel
from server.order import Job, News, Order, Piece, arrive
from server.writer import Writer, stopping

MAX_WAITING = 128  # texts in all, under way or waiting
_WORTH_SHARING = 8  # texts that two threads write sooner than one
_BETTER_ALONE = 4  # texts up to which one thread that had help does without
_MOST_THREADS = 2  # of which Python lets one go on at a time, but for what numpy computes


class Engine:
    """Threads that each write some of the texts: one alone while they are few, else each about as many.

    Of more texts than there is room for, the first to come are the first to join.
    """

    def __init__(self, *, threads: int, max_waiting: int = MAX_WAITING, metrics: Metrics | None = None) -> None:
        self._max_waiting = max_waiting
        self._loop: asyncio.AbstractEventLoop | None = None
        self._count = 0  # of texts that somebody waits for
        self._changed = threading.Condition()
        self._queue: list[Job] = []  # those that no thread has room for
        self._closed = threading.Event()
        count, metrics = min(threads, _MOST_THREADS), metrics or Metrics()
        self._writers = [
            Writer(
                part=(number, count),
                metrics=metrics,
                changed=self._changed,
                closed=self._closed,
                arrange=self._arrange,
                call=self._call,
            )
            for number in range(count)
        ]
        self._threads = [threading.Thread(target=writer.run, name="decode", daemon=True) for writer in self._writers]
        for thread in self._threads:
            thread.start()

    @property
    def count(self) -> int:
        """Texts that somebody waits for."""
        return self._count

    @property
    def waiting(self) -> int:
        """Of these, those that no thread had room for yet."""
        with self._changed:
            return max(0, self._count - sum(writer.load for writer in self._writers))

    @contextmanager
    def order(
        self,
        loaded: LoadedModel,
        wanted: Sequence[tuple[Sequence[int], Sampling]],
        *,
        logprobs: int | None = None,
        eager: bool = True,
    ) -> Iterator[Order]:
        """Texts behind prompts, as they come or (not `eager`) each at its end; raises Busy if they are too many.

        On leaving, those under way are given up within one token.
        """
        if self._count + len(wanted) > self._max_waiting:
            raise Busy(f"{self._count} requests are waiting already")
        order, block = Order(), loaded.language_model.config.block_size
        for prompt, sampling in wanted:
            text = Continuation(prompt, sampling, block)
            order.add(Job(text=text, logprobs=logprobs, loaded=loaded, eager=eager, news=order.news))
        self._count += len(wanted)
        try:
            self._submit(order.jobs)
            yield order
        finally:
            for job in order.jobs:
                job.gone = True
            self._count -= len(wanted)

    async def complete(
        self, loaded: LoadedModel, prompt: Sequence[int], sampling: Sampling, *, logprobs: int | None = None
    ) -> Piece:
        """One whole text; raises Busy."""
        with self.order(loaded, [(prompt, sampling)], logprobs=logprobs, eager=False) as order:
            return (await order.next())[0]

    async def beat(self) -> None:
        """Comes back once each thread has come round: after the step it is in. Never, if one does no more."""
        self._loop = asyncio.get_running_loop()
        seen = [asyncio.Event() for _ in self._writers]
        with self._changed:
            for writer, event in zip(self._writers, seen, strict=True):
                writer.beats.append(event)
            self._changed.notify_all()
        for event in seen:
            await event.wait()

    def close(self) -> None:
        """Give up what is under way, and end the threads."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        left: list[News] = [(job, [], None, stopping()) for job in self._queue]
        if left:
            self._call(lambda: arrive(left))

    def _submit(self, jobs: list[Job]) -> None:
        self._loop = asyncio.get_running_loop()
        with self._changed:
            if self._closed.is_set():
                raise stopping()
            self._queue.extend(jobs)
            self._assign()

    def _arrange(self, writer: Writer) -> None:
        """Decide who writes what. `changed` is held, and this thread is between two steps."""
        self._assign()
        for other in self._writers:
            for _ in range(self._surplus(writer, other)):
                if writer.hand_over(other):
                    self._changed.notify_all()

    def _assign(self) -> None:
        """Give the texts that wait to threads with room; while `changed` is held."""
        waiting, self._queue = self._queue, []
        full: set[LoadedModel] = set()
        for job in waiting:
            if job.gone:
                continue
            free = [] if job.loaded in full else [writer for writer in self._writers if writer.has_room(job.loaded)]
            if free:
                loads = [writer.load for writer in self._writers]
                alone = min(loads) == 0 and sum(loads) + 1 < _WORTH_SHARING
                min(free, key=lambda writer: -writer.load if alone else writer.load).coming.append(job)
                self._changed.notify_all()
            else:
                full.add(job.loaded)
                self._queue.append(job)

    def _surplus(self, writer: Writer, other: Writer) -> int:
        """How many texts the one should hand to the other: all of few, to who has more; else half of the difference."""
        mine, theirs = writer.load, other.load
        if mine + theirs <= _BETTER_ALONE:
            return mine if (mine, writer.part) < (theirs, other.part) else 0
        if theirs or mine >= _WORTH_SHARING:
            return (mine - theirs) // 2
        return 0

    def _call(self, callback: Callable[[], None]) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(callback)
