"""Requests and replies of `POST /`, as the Rust program has them. No I/O."""

from dataclasses import dataclass
from typing import Any

import orjson

from randygpt.errors import CallerError
from randygpt.generate import Sampling
from server.errors import InvalidRequest

MAX_BODY = 64 << 10  # bytes
MAX_TOKENS = 4096
_DEFAULT_MAX_TOKENS = 256
_DEFAULT_TEMPERATURE = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """A prompt and how to go on from it."""

    prompt: str
    sampling: Sampling


def parse_request(raw_body: bytes) -> CompletionRequest:
    """The request in a body: `prompt` (required), `max_tokens`, `temperature`; unknown fields are ignored.

    Raises InvalidRequest with words for the client.
    """
    try:
        raw = orjson.loads(raw_body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InvalidRequest("the body is not a JSON object")
    prompt = raw.get("prompt")
    if not isinstance(prompt, str):
        raise InvalidRequest("prompt is required, and is text")
    max_tokens = raw.get("max_tokens", _DEFAULT_MAX_TOKENS)
    if type(max_tokens) is not int or not 1 <= max_tokens <= MAX_TOKENS:
        raise InvalidRequest(f"max_tokens is a whole number from 1 to {MAX_TOKENS}")
    temperature = raw.get("temperature", _DEFAULT_TEMPERATURE)
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise InvalidRequest("temperature is a number")
    try:
        return CompletionRequest(prompt=prompt, sampling=Sampling(max_tokens=max_tokens, temperature=temperature))
    except CallerError as error:
        raise InvalidRequest(str(error)) from None


def completion_reply(*, text: str, model: str, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """The reply to a completion request; `text` is without the prompt."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"text": text, "model": model, "usage": usage}


def error_reply(message: str) -> dict[str, Any]:
    """The reply to a request that failed."""
    return {"error": message}
