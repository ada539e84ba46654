"""Completions: detokenizes engine outputs and cuts them at stop sequences. No I/O."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Self

from randygpt.model.sampling import Finish, StopFilter
from server.engine import Engine
from server.errors import InvalidRequest
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
        self._echoes = [""] * request.choices
        self._ids: list[list[int]] = []  # of each prompt
        self._request: Request | None = None

    async def __aenter__(self) -> Self:
        if sum(map(len, self._params.prompts)) <= _TOKENIZED_ON_LOOP:
            self._ids = self._tokenize()
        else:
            self._ids = await asyncio.to_thread(self._tokenize)
        self.prompt_tokens = sum(map(len, self._ids))
        self._check_scored()
        if self._params.echo:
            texts = [raw if isinstance(raw, str) else self._tokenizer.decode(raw) for raw in self._params.prompts]
            self._echoes = [text for text in texts for _ in range(self._params.n)]
        if self._params.prompt_only:
            return self
        pairs = [(prompt, sampling) for prompt in self._ids for sampling in self._params.samplings]
        stream = self._params.stream or bool(self._params.stops)
        self._request = self._engine.submit(
            self.model, pairs, key=self._key, logprobs=self._params.logprobs, stream=stream
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._request:
            self._request.close()

    async def __aiter__(self) -> AsyncIterator[Choice]:
        if self._is_scored:
            async for choice in self._scored_prompts():
                yield choice
        if self._request:
            async for choice in self._generated(self._request):
                yield choice
        elif not self._is_scored:
            for index, text in enumerate(self._echoes):
                yield Choice(index=index, text=text, finish="length")

    async def _generated(self, request: Request) -> AsyncIterator[Choice]:
        while not request.finished:
            for output in await request.next_outputs():
                for part in _slices(output):
                    if len(output.tokens) > _NO_TURN:
                        await self._turns.next()
                    choice = self._read(part, request)
                    yield choice
                    if choice.finish:
                        break

    async def text(self) -> str:
        """Wait for the end and return the text of the only choice."""
        return "".join([part.text async for part in self])

    @property
    def _is_scored(self) -> bool:
        return self._params.echo and self._params.logprobs is not None

    def _tokenize(self) -> list[list[int]]:
        texts = [prompt for prompt in self._params.prompts if isinstance(prompt, str)]
        self.dropped_characters = sum(map(self._tokenizer.count_unknown, texts))
        return [self._ids_of(prompt) for prompt in self._params.prompts]

    def _ids_of(self, prompt: str | tuple[int, ...]) -> list[int]:
        if isinstance(prompt, str):
            ids: list[int] = self._tokenizer.encode(prompt).tolist()
            return ids
        if max(prompt) >= self._tokenizer.vocab_size:
            raise InvalidRequest(f"prompt has a token id over {self._tokenizer.vocab_size - 1}", field="prompt")
        return list(prompt)

    def _check_scored(self) -> None:
        longest, limit = max(map(len, self._ids)), self.model.language_model.config.block_size
        if self._is_scored and longest > limit:
            raise InvalidRequest(
                f"prompt has {longest} tokens; with echo and logprobs it may have the context length, {limit}, at most",
                field="prompt",
            )

    async def _scored_prompts(self) -> AsyncIterator[Choice]:
        """Yield each choice's prompt, in parts, with log probabilities."""
        count = self._params.logprobs or 0
        for number, ids in enumerate(self._ids):
            tokens = await self._engine.score(self.model, ids, count)
            for index in range(number * self._params.n, (number + 1) * self._params.n):
                finish: Finish | None = "length" if self._params.prompt_only else None
                for output in _slices(SequenceOutput(index, tokens, finish)):
                    await self._turns.next()
                    text, offset = self._tokenizer.decode([token.id for token in output.tokens]), self._offsets[index]
                    self._offsets[index] += len(text)
                    yield Choice(index=index, text=text, offset=offset, tokens=output.tokens, finish=output.finish)
                self._echoes[index] = ""

    def _read(self, output: SequenceOutput, request: Request) -> Choice:
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
                request.cancel(index)
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
