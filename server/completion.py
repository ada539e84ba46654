"""Completion of a request: the engine's tokens become text that ends at a stop sequence. No I/O."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Self

from randygpt.model.sampling import Finish, StopFilter
from server.engine import Engine
from server.models import LoadedModel
from server.schema import CompletionRequest
from server.sequence import Request, SequenceOutput, Token


@dataclass(slots=True, kw_only=True)
class Choice:
    """One of the texts of a completion, or the latest part of it."""

    index: int
    text: str = ""
    offset: int = 0  # of its first token, in characters of the whole text
    tokens: list[Token] = field(default_factory=list)
    finish: Finish | None = None

    def extend(self, more: "Choice") -> None:
        """Append a later part."""
        self.text += more.text
        self.tokens += more.tokens
        self.finish = more.finish


class Completion:
    """The choices of a request, as they are generated.

    Enter it to submit the request (which raises Busy); leaving cancels what still runs. Iterate for the parts as they
    come, or `collect` all. Choices are numbered prompt by prompt.

    Attributes:
        prompt_tokens: Number of tokens in all prompts.
        completion_tokens: Number of tokens generated so far.
    """

    def __init__(self, engine: Engine, model: LoadedModel, request: CompletionRequest) -> None:
        self.model = model
        self.completion_tokens = 0
        self._engine = engine
        self._params = request
        self._tokenizer = model.language_model.tokenizer
        prompts = [self._tokenizer.encode(prompt).tolist() for prompt in request.prompts]
        self.prompt_tokens = sum(map(len, prompts))
        self._prompts = [(prompt, sampling) for prompt in prompts for sampling in request.samplings]
        self._stop_filters = [StopFilter(request.stops) for _ in self._prompts]
        self._offsets = [0] * len(self._prompts)
        self._echoes = [prompt if request.echo else "" for prompt in request.prompts for _ in request.samplings]
        self._request: Request

    def __enter__(self) -> Self:
        stream = self._params.stream or bool(self._params.stops)
        self._request = self._engine.submit(self.model, self._prompts, logprobs=self._params.logprobs, stream=stream)
        return self

    def __exit__(self, *_: object) -> None:
        self._request.close()

    async def __aiter__(self) -> AsyncIterator[list[Choice]]:
        while not self._request.finished:
            yield [self._read(output) for output in await self._request.next_outputs()]

    async def collect(self) -> list[Choice]:
        """Wait for the end and return all choices."""
        choices = [Choice(index=index) for index in range(len(self._prompts))]
        async for parts in self:
            for part in parts:
                choices[part.index].extend(part)
        return choices

    def _read(self, output: SequenceOutput) -> Choice:
        index, finish = output.sequence_index, output.finish
        stop_filter, text, count, offset = self._stop_filters[index], self._echoes[index], 0, self._offsets[index]
        self._echoes[index] = ""
        for token in output.tokens:
            count += 1
            piece = self._tokenizer.decode([token.id])
            self._offsets[index] += len(piece)
            text += stop_filter.push(piece)
            if stop_filter.stopped:
                finish = "stop"
                self._request.cancel(index)
                break
        if finish:
            text += stop_filter.flush()
        self.completion_tokens += count
        return Choice(index=index, text=text, offset=offset, tokens=output.tokens[:count], finish=finish)
