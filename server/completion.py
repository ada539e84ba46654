"""Completions: detokenizes engine outputs and cuts them at stop sequences. No I/O."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Self

from randygpt.model.sampling import Finish, StopFilter
from server.engine import Engine
from server.models import LoadedModel
from server.schema import CompletionRequest
from server.sequence import Request, SequenceOutput, Token
from server.turns import LoopTurns

_TOKENIZED_ON_LOOP = 1024  # characters; a thread tokenizes longer prompts
_SLICE = 64  # tokens that are processed before other work on the event loop has its turn
_NO_TURN = 4  # new tokens of a sequence that are processed without waiting for a turn


@dataclass(slots=True, kw_only=True)
class Choice:
    """A part of one of the texts of a completion."""

    index: int
    text: str = ""
    offset: int = 0  # of its first token, in characters of the whole text
    tokens: list[Token] = field(default_factory=list)
    finish: Finish | None = None


class Completion:
    """The choices of a request, as they are generated.

    Enter it to tokenize and submit the request (which raises Busy); exit cancels what still runs. Iterate for the
    parts of the choices as they come; each has at most 64 tokens. Choices are numbered prompt by prompt.

    Attributes:
        prompt_tokens: Number of tokens in all prompts.
        dropped_characters: Number of characters in all prompts that the vocabulary lacks.
        completion_tokens: Number of tokens generated so far.
    """

    def __init__(
        self,
        engine: Engine,
        turns: LoopTurns,
        model: LoadedModel,
        request: CompletionRequest,
        *,
        key: int | None = None,
    ) -> None:
        self.model = model
        self.prompt_tokens = 0
        self.dropped_characters = 0
        self.completion_tokens = 0
        self._engine = engine
        self._turns = turns
        self._params = request
        self._key = key
        self._tokenizer = model.language_model.tokenizer
        self._stop_filters = [StopFilter(request.stops) for _ in range(request.choices)]
        self._offsets = [0] * request.choices
        self._echoes = [prompt if request.echo else "" for prompt in request.prompts for _ in range(request.n)]
        self._request: Request

    async def __aenter__(self) -> Self:
        if sum(map(len, self._params.prompts)) <= _TOKENIZED_ON_LOOP:
            prompts = self._tokenize()
        else:
            prompts = await asyncio.to_thread(self._tokenize)
        self.prompt_tokens = sum(map(len, prompts))
        pairs = [(prompt, sampling) for prompt in prompts for sampling in self._params.samplings]
        stream = self._params.stream or bool(self._params.stops)
        self._request = self._engine.submit(
            self.model, pairs, key=self._key, logprobs=self._params.logprobs, stream=stream
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._request.close()

    async def __aiter__(self) -> AsyncIterator[Choice]:
        while not self._request.finished:
            for output in await self._request.next_outputs():
                for part in _slices(output):
                    if len(output.tokens) > _NO_TURN:
                        await self._turns.next()
                    choice = self._read(part)
                    yield choice
                    if choice.finish:
                        break

    async def text(self) -> str:
        """Wait for the end and return the text of the only choice."""
        return "".join([part.text async for part in self])

    def _tokenize(self) -> list[list[int]]:
        self.dropped_characters = sum(map(self._tokenizer.count_unknown, self._params.prompts))
        return [self._tokenizer.encode(prompt).tolist() for prompt in self._params.prompts]

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


def _slices(output: SequenceOutput) -> Iterator[SequenceOutput]:
    """Cut an output into parts of few tokens; the last one ends the sequence."""
    tokens = output.tokens
    for start in range(0, max(1, len(tokens)), _SLICE):
        is_last = start + _SLICE >= len(tokens)
        yield SequenceOutput(output.sequence_index, tokens[start : start + _SLICE], output.finish if is_last else None)
