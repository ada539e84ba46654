"""Response bodies as JSON: randyGPT's (the Rust program's) format for `POST /`, OpenAI's below /v1. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import orjson

from randygpt.model.sampling import Finish
from server.completion import Choice
from server.sequence import Token

Json = dict[str, Any]
_ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def plain_body(
    *, text: str, model: str, prompt_tokens: int, completion_tokens: int, dropped_characters: int = 0
) -> Json:
    """Return the body for `POST /`; `text` is without the prompt."""
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"text": text, "model": model, "usage": counts | _dropped(dropped_characters)}


def error_body(message: str) -> Json:
    """Return the body of an error outside /v1."""
    return {"error": message}


def openai_error_body(message: str, *, status: int, field: str | None = None) -> Json:
    """Return the body of an error in OpenAI's format; `field` is its `param`."""
    default = "server_error" if status >= 500 else "invalid_request_error"  # noqa: PLR2004 (HTTP)
    return {"error": {"message": message, "type": _ERROR_TYPES.get(status, default), "param": field, "code": None}}


def models_body(models: Mapping[str, int]) -> Json:
    """Return OpenAI's list of models, from their names and times of loading (seconds since 1970)."""
    data = [{"id": name, "object": "model", "created": at, "owned_by": "randygpt"} for name, at in models.items()]
    return {"object": "list", "data": data}


def usage(prompt_tokens: int, completion_tokens: int, dropped_characters: int = 0) -> dict[str, int]:
    """Return OpenAI's token counts, and the number of prompt characters that the vocabulary lacks, if any."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    } | _dropped(dropped_characters)


def _dropped(characters: int) -> dict[str, int]:
    return {"dropped_characters": characters} if characters else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIFormat:
    """The format of a completion or chat completion, whole or in chunks, and the fields that all chunks share."""

    is_chat: bool
    request_id: str
    created: int  # seconds since 1970
    model: str
    fingerprint: str
    vocab: Sequence[str]  # token texts by id
    special_ids: frozenset[int]  # tokens without text
    logprobs: bool

    def body(self, choices: Sequence[Json], counts: Json) -> Json:
        """Return the body of a response that is not streamed, from its choices (see `whole`)."""
        kind = "chat.completion" if self.is_chat else "text_completion"
        return self._head(kind) | {"choices": choices, "usage": counts}

    def logprobs_of(self, choice: Choice) -> Json | None:
        """Return the log probabilities of a part, if they were requested."""
        if not self.logprobs:
            return None
        return self._chat_logprobs(choice.tokens) if self.is_chat else self._logprobs(choice)

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

    def whole(self, index: int, choice: "WholeChoice") -> Json:
        """Return a choice of a response that is not streamed."""
        text = "".join(choice.texts)
        content = {"message": {"role": "assistant", "content": text, "refusal": None}}
        common = {"index": index, "logprobs": choice.joined_logprobs, "finish_reason": choice.finish}
        return common | (content if self.is_chat else {"text": text})

    def _part(self, choice: Choice, *, first: bool = False) -> Json:
        common = {"index": choice.index, "logprobs": self.logprobs_of(choice), "finish_reason": choice.finish}
        if not self.is_chat:
            return common | {"text": choice.text}
        role = {"role": "assistant"} if first else {}
        return common | {"delta": role | ({"content": choice.text} if choice.text or first else {})}

    def _logprobs(self, choice: Choice) -> Json:
        tokens = choice.tokens
        lengths = [0 if token.id in self.special_ids else len(self.vocab[token.id]) for token in tokens]
        return {
            "tokens": [self.vocab[token.id] for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                None if token.logprob is None else {self.vocab[other]: value for other, value in token.top_logprobs}
                for token in tokens
            ],
            "text_offset": [*accumulate(lengths, initial=choice.offset)][: len(tokens)],
        }

    def _chat_logprobs(self, tokens: Sequence[Token]) -> Json:
        content = [
            self._entry(token.id, token.logprob)
            | {"top_logprobs": [self._entry(*other) for other in token.top_logprobs]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> Json:
        text = self.vocab[token]
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


@dataclass(slots=True)
class WholeChoice:
    """A choice whose parts are collected: as JSON, so that none of the steps to the response takes long."""

    texts: list[str] = field(default_factory=list)
    finish: Finish | None = None
    _logprobs: dict[str, list[bytes] | None] = field(default_factory=dict)  # JSON of the parts' lists

    def add(self, part: Choice, logprobs: Json | None) -> None:
        """Append a part with its log probabilities."""
        self.texts.append(part.text)
        self.finish = part.finish
        for name, values in (logprobs or {}).items():
            parts = self._logprobs.setdefault(name, None if values is None else [])
            if values and parts is not None:
                parts.append(orjson.dumps(values)[1:-1])  # without the brackets

    @property
    def joined_logprobs(self) -> Json | None:
        """Log probabilities of all parts, for orjson."""
        if not self._logprobs:
            return None
        return {
            name: None if parts is None else orjson.Fragment(b"[%b]" % b",".join(parts))
            for name, parts in self._logprobs.items()
        }
