"""Writes texts on a thread of its own, many at a time, so that the event loop stays free. No I/O."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

from randygpt.generate import Continuation, Finish, Sampling
from server.batch import Batch, Token, Writing
from server.errors import Busy
from server.models import LoadedModel

MAX_WAITING = 128  # texts in all, under way or waiting


@dataclass(slots=True, eq=False, kw_only=True)
class _Job(Writing):
    """A text that somebody on the event loop waits for."""

    loaded: LoadedModel
    eager: bool  # tokens are wanted as they come, not all at the end
    news: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: list[Token] = field(default_factory=list)  # on the event loop's side
    finish: Finish | None = None  # likewise
    failure: Exception | None = None  # likewise


_News: TypeAlias = tuple[_Job, list[Token], Finish | None, Exception | None]


class Engine:
    """One thread that takes every text a token further, step by step, and a helper for steps with many.

    Texts are in one batch for each model. Of more texts than a batch has room for, the first to come are the first
    to join.
    """

    def __init__(self, *, threads: int, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="decode") if threads > 1 else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._count = 0  # of texts that somebody waits for
        self._changed = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._closed = False
        self._batches: dict[LoadedModel, Batch[_Job]] = {}
        self._thread = threading.Thread(target=self._work, name="decode", daemon=True)
        self._thread.start()

    @property
    def count(self) -> int:
        """Texts that somebody waits for."""
        return self._count

    def check_room(self, count: int) -> None:
        """Raise Busy if so many more texts are too many."""
        if self._count + count > self._max_waiting:
            raise Busy(f"{self._count} requests are waiting already")

    async def stream(
        self,
        loaded: LoadedModel,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        logprobs: int | None = None,
        eager: bool = True,
    ) -> AsyncGenerator[tuple[list[Token], Finish | None]]:
        """Tokens as they come, the last of them with why the text ends; raises Busy.

        Not `eager`: all at the end. When it is closed, the text is given up within one token.
        """
        self.check_room(1)
        text = Continuation(prompt, sampling, loaded.language_model.config.block_size)
        job = _Job(text=text, logprobs=logprobs, loaded=loaded, eager=eager)
        self._count += 1
        try:
            self._submit(job)
            while job.finish is None:
                await job.news.wait()
                job.news.clear()
                if job.failure:
                    raise job.failure
                arrived, job.arrived = job.arrived, []
                yield arrived, job.finish
        finally:
            job.gone = True
            self._count -= 1

    async def complete(
        self, loaded: LoadedModel, prompt: Sequence[int], sampling: Sampling, *, logprobs: int | None = None
    ) -> tuple[list[Token], Finish]:
        """All tokens, and why the text ends; raises Busy. When cancelled, the text is given up within one token."""
        async with aclosing(self.stream(loaded, prompt, sampling, logprobs=logprobs, eager=False)) as stream:
            tokens, finish = await anext(stream)
        return tokens, finish or "stop"

    def close(self) -> None:
        """Give up what is under way, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        if self._helper:
            self._helper.shutdown()

    def _submit(self, job: _Job) -> None:
        self._loop = asyncio.get_running_loop()
        with self._changed:
            if self._closed:
                raise Busy("the server is about to stop")
            self._queue.append(job)
            self._changed.notify()

    def _work(self) -> None:
        while self._admit():
            for loaded in list(self._batches):
                self._step(loaded)
        stopped = Busy("the server is about to stop")
        waiting = [*self._queue, *(job for batch in self._batches.values() for job in batch.writings)]
        self._deliver([(job, [], None, stopped) for job in waiting])

    def _admit(self) -> bool:
        """Let texts join where there is room; waits while there is nothing to do. False: the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._queue or self._batches)
            waiting, self._queue = self._queue, deque()
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

    def _step(self, loaded: LoadedModel) -> None:
        batch = self._batches[loaded]
        try:
            news = batch.step()
        except Exception as error:  # noqa: BLE001 (who waits for a text raises it)
            self._deliver([(job, [], None, error) for job in batch.writings])
            del self._batches[loaded]
            return
        due = [job for job in news if job.eager or job.text.finish]
        self._deliver([(job, job.drawn, job.text.finish, None) for job in due])
        for job in due:
            job.drawn = []
        if not batch.writings:
            del self._batches[loaded]

    def _deliver(self, news: list[_News]) -> None:
        """Hand over what is new, for all texts of a step at once."""
        if news and self._loop:
            self._loop.call_soon_threadsafe(_arrive, news)


def _arrive(news: list[_News]) -> None:
    for job, tokens, finish, failure in news:
        job.arrived += tokens
        job.finish, job.failure = finish, failure
        job.news.set()
