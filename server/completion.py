"""What a request gets: tokens from the engine become texts that end where they should. No I/O."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Self

from randygpt.model.sampling import Finish, StopFilter
from server.batch import Token
from server.engine import Engine
from server.models import LoadedModel
from server.schema import CompletionRequest


@dataclass(slots=True, kw_only=True)
class Choice:
    """One of the texts of an answer, as far as it has come."""

    index: int
    text: str = ""
    offset: int = 0  # where the first of its tokens begins in the whole text
    tokens: list[Token] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, more: "Choice") -> None:
        """Put what has come behind what is there."""
        self.text += more.text
        self.tokens += more.tokens
        self.finish = more.finish


class Answer:
    """Texts in the making. `async for` gives what has come of them; they are numbered prompt by prompt.

    Raises Busy from `open`. On leaving, what is under way is given up.
    """

    def __init__(self, engine: Engine, loaded: LoadedModel, request: CompletionRequest) -> None:
        self.loaded = loaded
        self.completion_tokens = 0
        tokenizer = loaded.language_model.tokenizer
        prompts = [tokenizer.encode(prompt).tolist() for prompt in request.prompts]
        self.prompt_tokens = sum(map(len, prompts))
        self._tokenizer = tokenizer
        wanted = [(prompt, sampling) for prompt in prompts for sampling in request.samplings]
        self._stop_filters = [StopFilter(request.stops) for _ in wanted]
        self._offsets = [0] * len(wanted)
        self._echoes = [prompt if request.echo else "" for prompt in request.prompts for _ in request.samplings]
        eager = request.stream or bool(request.stops)
        self._context = engine.order(loaded, wanted, logprobs=request.logprobs, eager=eager)

    def __enter__(self) -> Self:
        self._order = self._context.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._context.__exit__(None, None, None)

    async def __aiter__(self) -> AsyncIterator[list[Choice]]:
        while self._order.is_open:
            yield [self._read(*piece) for piece in await self._order.next()]

    async def whole(self) -> list[Choice]:
        """All texts, when the last of them has ended."""
        choices = [Choice(index=index) for index in range(len(self._stop_filters))]
        async for news in self:
            for choice in news:
                choices[choice.index].add(choice)
        return choices

    def _read(self, index: int, tokens: list[Token], finish: Finish | None) -> Choice:
        stop_filter, text, count, offset = self._stop_filters[index], self._echoes[index], 0, self._offsets[index]
        self._echoes[index] = ""
        for token in tokens:
            count += 1
            piece = self._tokenizer.decode([token.id])
            self._offsets[index] += len(piece)
            text += stop_filter.push(piece)
            if stop_filter.stopped:
                finish = "stop"
                self._order.give_up(index)
                break
        if finish:
            text += stop_filter.flush()
        self.completion_tokens += count
        return Choice(index=index, text=text, offset=offset, tokens=tokens[:count], finish=finish)
