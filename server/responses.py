"""Response bodies as JSON: the Rust program's for `POST /`, OpenAI's below /v1. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from randygpt.model.tokenizer import BOS_ID, EOS_ID
from server.completion import Choice
from server.sequence import Token

Json = dict[str, Any]
_ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def plain_body(*, text: str, model: str, prompt_tokens: int, completion_tokens: int) -> Json:
    """Return the body for `POST /`; `text` is without the prompt."""
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"text": text, "model": model, "usage": counts}


def error_body(message: str) -> Json:
    """Return the body of an error outside /v1."""
    return {"error": message}


def openai_error_body(message: str, *, status: int, field: str | None = None) -> Json:
    """Return the body of an error in OpenAI's form; `field` is its `param`."""
    default = "server_error" if status >= 500 else "invalid_request_error"  # noqa: PLR2004 (HTTP)
    return {"error": {"message": message, "type": _ERROR_TYPES.get(status, default), "param": field, "code": None}}


def models_body(models: Mapping[str, int]) -> Json:
    """Return OpenAI's list of models, from their names and times of loading (seconds since 1970)."""
    data = [{"id": name, "object": "model", "created": at, "owned_by": "randygpt"} for name, at in models.items()]
    return {"object": "list", "data": data}


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """Return OpenAI's token counts."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIFormat:
    """The form of a completion or chat completion, whole or in chunks, and the fields that all chunks share."""

    is_chat: bool
    request_id: str
    created: int  # seconds since 1970
    model: str
    fingerprint: str
    vocab: Sequence[str]  # token texts by id
    logprobs: bool

    def body(self, choices: Sequence[Choice], counts: Json) -> Json:
        """Return the body of a response that is not streamed."""
        kind = "chat.completion" if self.is_chat else "text_completion"
        return self._head(kind) | {"choices": [self._whole(choice) for choice in choices], "usage": counts}

    def chunk(self, choice: Choice, *, first: bool) -> Json:
        """Return a chunk of a stream; `first` marks the first one of the choice."""
        return self._head(self._chunk_kind) | {"choices": [self._part(choice, first=first)]}

    def usage_chunk(self, counts: Json) -> Json:
        """Return the last chunk of a stream, with the token counts alone."""
        return self._head(self._chunk_kind) | {"choices": [], "usage": counts}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _head(self, kind: str) -> Json:
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _whole(self, choice: Choice) -> Json:
        if not self.is_chat:
            return self._part(choice)
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return self._common(choice) | {"message": message}

    def _part(self, choice: Choice, *, first: bool = False) -> Json:
        if not self.is_chat:
            return self._common(choice) | {"text": choice.text}
        role = {"role": "assistant"} if first else {}
        return self._common(choice) | {"delta": role | ({"content": choice.text} if choice.text or first else {})}

    def _common(self, choice: Choice) -> Json:
        logprobs = None
        if self.logprobs:
            logprobs = self._chat_logprobs(choice.tokens) if self.is_chat else self._logprobs(choice)
        return {"index": choice.index, "logprobs": logprobs, "finish_reason": choice.finish}

    def _logprobs(self, choice: Choice) -> Json:
        tokens = choice.tokens
        lengths = [0 if token.id in {BOS_ID, EOS_ID} else len(self.vocab[token.id]) for token in tokens]
        return {
            "tokens": [self.vocab[token.id] for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{self.vocab[other]: value for other, value in token.top_logprobs} for token in tokens],
            "text_offset": [*accumulate(lengths, initial=choice.offset)][: len(tokens)],
        }

    def _chat_logprobs(self, tokens: Sequence[Token]) -> Json:
        content = [
            self._entry(token.id, token.logprob)
            | {"top_logprobs": [self._entry(*other) for other in token.top_logprobs]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> Json:
        text = self.vocab[token]
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
