"""Decodes on threads of its own, so that the event loop stays free. No I/O."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from randygpt.generate import generate
from server.errors import Busy
from server.models import LoadedModel
from server.schema import CompletionRequest

MAX_WAITING = 64  # requests in all, under way or waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a model wrote."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class Engine:
    """A few threads that complete prompts, each request on one of them from first to last token."""

    def __init__(self, *, threads: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode")
        self._waiting = 0

    async def complete(self, loaded: LoadedModel, request: CompletionRequest) -> Completion:
        """The completion of a prompt; raises Busy. When cancelled, decoding stops within one token."""
        if self._waiting >= MAX_WAITING:
            raise Busy(f"{self._waiting} requests are waiting already")
        gone = threading.Event()
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, _complete, loaded, request, gone)
        finally:
            gone.set()
            self._waiting -= 1

    def close(self) -> None:
        """Wait for what is under way and end the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def _complete(loaded: LoadedModel, request: CompletionRequest, gone: threading.Event) -> Completion:
    tokenizer = loaded.language_model.tokenizer
    prompt = tokenizer.encode(request.prompt).tolist()
    tokens: list[int] = []
    for token in generate(loaded.language_model.decoder, prompt, request.sampling):
        tokens.append(token)
        if gone.is_set():
            break
    return Completion(text=tokenizer.decode(tokens), prompt_tokens=len(prompt), completion_tokens=len(tokens))
