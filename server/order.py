"""What somebody on the event loop waits for: texts, and what has come of them. No I/O."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from randygpt.model.sampling import Finish
from server.batch import Token, Writing
from server.models import LoadedModel


class Piece(NamedTuple):
    """What has come of a text: tokens, and with the last of them why it ends."""

    number: int  # of the text in its order
    tokens: list[Token]
    finish: Finish | None


@dataclass(slots=True, eq=False, kw_only=True)
class Job(Writing):
    """A text that somebody on the event loop waits for."""

    loaded: LoadedModel
    eager: bool  # tokens are wanted as they come, not all at the end
    news: asyncio.Event  # of its order
    since: float = field(default_factory=time.perf_counter)  # when it was asked for; 0 once it has begun
    arrived: list[Token] = field(default_factory=list)  # on the event loop's side
    finish: Finish | None = None  # likewise
    failure: Exception | None = None  # likewise


News: TypeAlias = tuple[Job, list[Token], Finish | None, Exception | None]


class Order:
    """Some texts that somebody waits for together."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.news = asyncio.Event()
        self._unfinished: set[int] = set()

    def add(self, job: Job) -> None:
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


def arrive(news: Sequence[News]) -> None:
    """Tell those who wait; on the event loop."""
    for job, tokens, finish, failure in news:
        job.arrived += tokens
        job.finish, job.failure = finish, failure
        job.news.set()
