"""Replies as JSON: those of `POST /` as the Rust program has them, the others in OpenAI's form. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from randygpt.model.tokenizer import BOS_ID, EOS_ID
from server.completion import Choice
from server.sequence import Token

Json = dict[str, Any]
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def completion_reply(*, text: str, model: str, prompt_tokens: int, completion_tokens: int) -> Json:
    """The reply to `POST /`; `text` is without the prompt."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"text": text, "model": model, "usage": usage}


def error_reply(message: str) -> Json:
    """The reply to a request that failed."""
    return {"error": message}


def openai_error(message: str, *, status: int, field: str | None = None) -> Json:
    """The same in OpenAI's form."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")  # noqa: PLR2004 (HTTP)
    return {"error": {"message": message, "type": kind, "param": field, "code": None}}


def models_reply(names: Mapping[str, int]) -> Json:
    """The models that there are, and since when (seconds since 1970)."""
    data = [{"id": name, "object": "model", "created": since, "owned_by": "randygpt"} for name, since in names.items()]
    return {"object": "list", "data": data}


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """Counts of tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What is the same in all parts of an answer: to a completion, or to a chat."""

    chat: bool
    request_id: str
    created: int  # seconds since 1970
    model: str
    fingerprint: str
    texts: Sequence[str]  # of the vocabulary, by id
    logprobs: bool

    def whole(self, choices: Sequence[Choice], counts: Json) -> Json:
        """The reply with all texts."""
        kind = "chat.completion" if self.chat else "text_completion"
        return self._head(kind) | {"choices": [self._whole(choice) for choice in choices], "usage": counts}

    def part(self, choices: Sequence[Choice], *, first: bool) -> Json:
        """A part of a stream."""
        return self._head(self._part_kind) | {"choices": [self._part(choice, first=first) for choice in choices]}

    def last(self, counts: Json) -> Json:
        """The part of a stream that has no text and the counts."""
        return self._head(self._part_kind) | {"choices": [], "usage": counts}

    @property
    def _part_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> Json:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _whole(self, choice: Choice) -> Json:
        if not self.chat:
            return self._part(choice)
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return self._end(choice) | {"message": message}

    def _part(self, choice: Choice, *, first: bool = False) -> Json:
        if not self.chat:
            return self._end(choice) | {"text": choice.text}
        role = {"role": "assistant"} if first else {}
        return self._end(choice) | {"delta": role | ({"content": choice.text} if choice.text or first else {})}

    def _end(self, choice: Choice) -> Json:
        told = (self._chat_logprobs(choice.tokens) if self.chat else self._logprobs(choice)) if self.logprobs else None
        return {"index": choice.index, "logprobs": told, "finish_reason": choice.finish}

    def _logprobs(self, choice: Choice) -> Json:
        tokens = choice.tokens
        lengths = [0 if token.id in {BOS_ID, EOS_ID} else len(self.texts[token.id]) for token in tokens]
        return {
            "tokens": [self.texts[token.id] for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{self.texts[other]: value for other, value in token.top_logprobs} for token in tokens],
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
        text = self.texts[token]
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
