"""Takes some texts a token further, step by step, on a thread of its own. No I/O."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.batch import Batch
from server.errors import Busy
from server.metrics import Metrics
from server.models import LoadedModel
from server.order import Job, News, arrive


@dataclass(slots=True, eq=False, kw_only=True)
class Writer:
    """What one thread does: `run`, until it is `closed`. Its texts are in one batch for each model."""

    part: tuple[int, int]  # of a model's slots: (number from 0, of how many)
    metrics: Metrics
    changed: threading.Condition  # held by whoever changes or counts texts here
    closed: threading.Event
    arrange: Callable[["Writer"], None]  # who writes what; called between two steps
    call: Callable[[Callable[[], None]], None]  # on the event loop, soon
    coming: list[Job] = field(default_factory=list)  # to join next
    beats: list[asyncio.Event] = field(default_factory=list)  # of those who want to know whether it still goes round
    _batches: dict[LoadedModel, Batch[Job]] = field(default_factory=dict)
    _stepped: dict[LoadedModel, float] = field(default_factory=dict)  # when texts last got a token, by perf_counter

    @property
    def load(self) -> int:
        """Texts that it has."""
        return len(self.coming) + sum(len(batch.writings) for batch in self._batches.values())

    def has_room(self, loaded: LoadedModel) -> bool:
        """Whether another text of this model may join."""
        texts = sum(job.loaded is loaded for job in self.coming)
        if loaded in self._batches:
            texts += len(self._batches[loaded].writings)
        return texts < len(loaded.cache.partition(*self.part).lengths)

    def hand_over(self, other: "Writer") -> bool:
        """Have another go on with one of its texts, where that has room and there is memory; between two steps."""
        for loaded, batch in self._batches.items():
            if batch.writings and other.has_room(loaded):
                try:
                    other.coming.append(batch.release())
                except MemoryError:
                    return False
                return True
        return False

    def run(self) -> None:
        """Write, until `closed`; then what was not written is told so."""
        while self._admit():
            self._step_all()
        jobs = [*self.coming, *(job for batch in self._batches.values() for job in batch.writings)]
        self._deliver([(job, [], None, stopping()) for job in jobs])

    def _admit(self) -> bool:
        """Let texts join; waits while there is nothing to do. False: it is closed."""
        with self.changed:
            if not self.closed.is_set():
                self.arrange(self)
            self.changed.wait_for(lambda: self.closed.is_set() or self.coming or self._batches or self.beats)
            for seen in self.beats:
                self.call(seen.set)
            self.beats.clear()
            if self.closed.is_set():
                return False
            coming, self.coming = self.coming, []
            for job in coming:
                if job.loaded not in self._batches:
                    cache = job.loaded.cache.partition(*self.part)
                    self._batches[job.loaded] = Batch(job.loaded.language_model.decoder, cache)
                batch = self._batches[job.loaded]
                if batch.has_room:
                    batch.join(job)
                else:  # a text was between two slots when somebody else looked
                    self.coming.append(job)
            return True

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
        with self.changed:
            del self._batches[loaded]
        self._stepped.pop(loaded, None)

    def _measure(self, news: list[Job], before: float) -> float:
        """Count a step; the time, which is when these texts got their tokens."""
        now = time.perf_counter()
        self.metrics.stepped(len(news), now - before)
        for job in news:
            if job.since:
                self.metrics.began(now - job.since)
                job.since = 0
        return now

    def _deliver(self, news: list[News]) -> None:
        """Hand over what is new, for all texts of a step at once."""
        if news:
            self.call(lambda: arrive(news))


def stopping() -> Busy:
    """What those are told who come too late."""
    return Busy("the server is about to stop")
