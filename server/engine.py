"""Writes texts on a thread of its own, many at a time, so that the event loop stays free. No I/O."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from randygpt.generate import Continuation, Finish, Sampling
from server.batch import Batch, Token, Writing
from server.errors import Busy
from server.metrics import Metrics
from server.models import LoadedModel

MAX_WAITING = 128  # texts in all, under way or waiting


class Piece(NamedTuple):
    """What has come of a text: tokens, and with the last of them why it ends."""

    number: int  # of the text in its order
    tokens: list[Token]
    finish: Finish | None


class Order:
    """Some texts that somebody waits for together."""

    def __init__(self) -> None:
        self.jobs: list[_Job] = []
        self.news = asyncio.Event()
        self._unfinished: set[int] = set()

    def add(self, job: "_Job") -> None:
        """Wait for one text more."""
        self._unfinished.add(len(self.jobs))
        self.jobs.append(job)

    @property
    def is_open(self) -> bool:
        """Whether something is still to come."""
        return bool(self._unfinished)

    def give_up(self, index: int) -> None:
        """Want no more of a text; it is not written on."""
        self.jobs[index].gone = True
        self._unfinished.discard(index)

    async def next(self) -> list[Piece]:
        """What has come since the last time, at least something; raises what kept a text from being written."""
        await self.news.wait()
        self.news.clear()
        pieces = []
        for index in sorted(self._unfinished):
            job = self.jobs[index]
            if job.failure:
                raise job.failure
            if job.arrived or job.finish:
                pieces.append(Piece(index, job.arrived, job.finish))
                job.arrived = []
            if job.finish:
                self._unfinished.discard(index)
        return pieces


@dataclass(slots=True, eq=False, kw_only=True)
class _Job(Writing):
    """A text that somebody on the event loop waits for."""

    loaded: LoadedModel
    eager: bool  # tokens are wanted as they come, not all at the end
    news: asyncio.Event  # of its order
    since: float = field(default_factory=time.perf_counter)  # when it was asked for; 0 once it has begun
    arrived: list[Token] = field(default_factory=list)  # on the event loop's side
    finish: Finish | None = None  # likewise
    failure: Exception | None = None  # likewise


_News: TypeAlias = tuple[_Job, list[Token], Finish | None, Exception | None]


class Engine:
    """One thread that takes every text a token further, step by step, and a helper for steps with many.

    Texts are in one batch for each model. Of more texts than a batch has room for, the first to come are the first
    to join.
    """

    def __init__(self, *, threads: int, max_waiting: int = MAX_WAITING, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._max_waiting = max_waiting
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="decode") if threads > 1 else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._count = 0  # of texts that somebody waits for
        self._changed = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._beats: list[asyncio.Event] = []  # of those who want to know whether the thread still goes round
        self._closed = False
        self._batches: dict[LoadedModel, Batch[_Job]] = {}
        self._stepped: dict[LoadedModel, float] = {}  # when texts last got a token, on the clock of time.perf_counter
        self._thread = threading.Thread(target=self._work, name="decode", daemon=True)
        self._thread.start()

    @property
    def count(self) -> int:
        """Texts that somebody waits for."""
        return self._count

    @property
    def waiting(self) -> int:
        """Of these, those that no batch had room for yet."""
        return max(0, self._count - sum(len(batch.writings) for batch in list(self._batches.values())))

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
            order.add(_Job(text=text, logprobs=logprobs, loaded=loaded, eager=eager, news=order.news))
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
        """Comes back once the thread has come round: after the step it is in. Never, if it does no more."""
        seen, self._loop = asyncio.Event(), asyncio.get_running_loop()
        with self._changed:
            self._beats.append(seen)
            self._changed.notify()
        await seen.wait()

    def close(self) -> None:
        """Give up what is under way, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        if self._helper:
            self._helper.shutdown()

    def _submit(self, jobs: list[_Job]) -> None:
        self._loop = asyncio.get_running_loop()
        with self._changed:
            if self._closed:
                raise Busy("the server is about to stop")
            self._queue.extend(jobs)
            self._changed.notify()

    def _work(self) -> None:
        while self._admit():
            self._step_all()
        stopped = Busy("the server is about to stop")
        waiting = [*self._queue, *(job for batch in self._batches.values() for job in batch.writings)]
        self._deliver([(job, [], None, stopped) for job in waiting])

    def _admit(self) -> bool:
        """Let texts join where there is room; waits while there is nothing to do. False: the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._queue or self._batches or self._beats)
            waiting, self._queue = self._queue, deque()
            beats, self._beats = self._beats, []
        for seen in beats:
            self._call(seen.set)
        left = []
        for job in waiting:
            if job.gone:
                continue
            if job.loaded not in self._batches:
                self._batches[job.loaded] = Batch(job.loaded, self._helper)
            if self._batches[job.loaded].has_room:
                self._batches[job.loaded].join(job)
            else:
                left.append(job)
        with self._changed:
            self._queue.extendleft(reversed(left))
            return not self._closed

    def _step_all(self) -> None:
        for loaded in list(self._batches):  # in a frame of its own: an idle thread must not keep an old model
            self._step(loaded)

    def _step(self, loaded: LoadedModel) -> None:
        batch = self._batches[loaded]
        before = self._stepped.get(loaded, time.perf_counter())
        try:
            news = batch.step()
        except Exception as error:  # noqa: BLE001 (who waits for a text raises it)
            self._deliver([(job, [], None, error) for job in batch.writings])
            self._drop(loaded)
            return
        if news:
            self._stepped[loaded] = self._measure(news, before)
        due = [job for job in news if job.eager or job.text.finish]
        self._deliver([(job, job.drawn, job.text.finish, None) for job in due])
        for job in due:
            job.drawn = []
        if not batch.writings:
            self._drop(loaded)

    def _drop(self, loaded: LoadedModel) -> None:
        del self._batches[loaded]
        self._stepped.pop(loaded, None)

    def _measure(self, news: list[_Job], before: float) -> float:
        """Count a step; the time, which is when these texts got their tokens."""
        now = time.perf_counter()
        self._metrics.stepped(len(news), now - before)
        for job in news:
            if job.since:
                self._metrics.began(now - job.since)
                job.since = 0
        return now

    def _deliver(self, news: list[_News]) -> None:
        """Hand over what is new, for all texts of a step at once."""
        if news:
            self._call(lambda: _arrive(news))

    def _call(self, callback: Callable[[], None]) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(callback)


def _arrive(news: list[_News]) -> None:
    for job, tokens, finish, failure in news:
        job.arrived += tokens
        job.finish, job.failure = finish, failure
        job.news.set()
