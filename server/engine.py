"""Continuous-batching engine: decode worker threads, driven from the event loop. No network or disk I/O.

`Engine` is the event loop's side; the worker threads and their scheduler are in `decode_worker` and `scheduler`.
"""

import asyncio
import threading
from collections import abc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from server.batch import score_prompt
from server.decode_worker import DecodeWorker
from server.metrics import Metrics
from server.models import LoadedModel
from server.scheduler import Scheduler, shutting_down
from server.sequence import Prompt, Request, Token, deliver, failures

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
        self._scheduler = Scheduler()
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
            self._call_on_loop(partial(deliver, failures(waiting, shutting_down())))

    def _forget(self, count: int) -> None:
        self._count -= count

    def _call_on_loop(self, callback: Callable[[], None]) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(callback)
