"""Parsing of request bodies: randyGPT's (the Rust program's) format for `POST /`, OpenAI's below /v1. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from randygpt.model.sampling import Sampling
from server.errors import InvalidRequest
from server.fields import Field, Flag, Number, Object, Prompts, Strings, TokenLimit, parse_object, read_fields

MAX_BODY = 64 << 10  # bytes
MAX_TOKENS = 4096
MAX_CHOICES = 16  # per request: prompts times n
MAX_TOP_LOGPROBS = 20
MAX_LOGPROBS = 1 << 17  # log probabilities in a response: choices, times tokens, times one and the most likely ones
_MAX_STOPS = 16
_MAX_STOP_CHARACTERS = 1024  # of all stop sequences together
_INT64 = 1 << 63

_MAX_TOKENS = TokenLimit(
    minimum=1,
    maximum=MAX_TOKENS,
    default=256,
    is_null_maximum=True,
    description=f"Number of tokens to generate at most; {MAX_TOKENS:,} for more, -1 or null.",
)
PLAIN: Mapping[str, Field] = {
    "max_tokens": _MAX_TOKENS,
    "temperature": Number(
        minimum=0, maximum=100, default=0.7, description="Sampling temperature; 0 always takes the most likely token."
    ),
}
_COMMON: Mapping[str, Field] = {
    **PLAIN,
    "top_p": Number(
        minimum=0,
        maximum=1,
        is_minimum_exclusive=True,
        default=1.0,
        description="Sample from the most likely tokens that together have this probability.",
    ),
    "top_k": Number(
        is_integer=True,
        minimum=0,
        maximum=_INT64 - 1,
        default=0,
        description="Sample from this many most likely tokens; 0 means all.",
    ),
    "min_p": Number(
        minimum=0,
        maximum=1,
        default=0.0,
        description="Sample from tokens with at least this share of the most likely one's probability; 0 means all.",
    ),
    "repeat_penalty": Number(
        minimum=0,
        maximum=10,
        is_minimum_exclusive=True,
        default=1.0,
        description="Divide positive logits of the last 64 tokens by this, and multiply others; 1 means no penalty.",
    ),
    "seed": Number(
        is_integer=True,
        minimum=-_INT64,
        maximum=_INT64 - 1,
        description="The same seed gives the same text; choice i uses seed + i.",
    ),
    "n": Number(
        is_integer=True, minimum=1, maximum=MAX_CHOICES, default=1, description="Number of choices per prompt."
    ),
    "stop": Strings(
        max_items=_MAX_STOPS,
        min_items=0,
        min_length=1,
        max_total=_MAX_STOP_CHARACTERS,
        default=(),
        description="End the text before any of these, which have at most 1,024 characters together.",
    ),
    "ignore_eos": Flag(description="Continue after the end token."),
    "stream": Flag(description="Send tokens as they are generated, as server-sent events."),
    "response_format": Object(
        fields={"type": Strings(max_items=1, description="Only `text`.")}, description='Only `{"type": "text"}`.'
    ),
    "stream_options": Object(
        fields={"include_usage": Flag(description="End the stream with the token counts.")},
        description="Options for streaming.",
    ),
}
COMPLETION: Mapping[str, Field] = {
    "prompt": Prompts(
        max_items=MAX_CHOICES, description="Text or token ids to continue; each entry of a list is its own prompt."
    ),
    **_COMMON,
    "max_tokens": replace(_MAX_TOKENS, minimum=0),
    "logprobs": Number(
        is_integer=True,
        minimum=0,
        maximum=MAX_TOP_LOGPROBS,
        description="Return log probabilities, with this many most likely tokens at each position.",
    ),
    "echo": Flag(description="Return the prompt before the text."),
}
CHAT: Mapping[str, Field] = {
    **_COMMON,
    "max_completion_tokens": TokenLimit(
        minimum=1, maximum=MAX_TOKENS, description="The same as max_tokens, which it overrides."
    ),
    "logprobs": Flag(description="Return log probabilities."),
    "top_logprobs": Number(
        is_integer=True,
        minimum=0,
        maximum=MAX_TOP_LOGPROBS,
        description="Number of most likely tokens to return at each position.",
    ),
}
ROLES = ("system", "developer", "user", "assistant", "tool")
CHAT_STOP = "\nUser:"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """Prompts, sampling parameters and format of a completion."""

    prompts: Sequence[str | tuple[int, ...]]  # text or token ids
    sampling: Sampling
    n: int = 1  # choices per prompt
    stops: Sequence[str] = ()
    logprobs: int | None = None  # number of most likely tokens to return with each
    echo: bool = False
    prompt_only: bool = False  # generate nothing (max_tokens 0 with echo)
    stream: bool = False
    include_usage: bool = False

    @property
    def choices(self) -> int:
        """Number of choices of all prompts."""
        return len(self.prompts) * self.n

    def most_tokens(self, block_size: int) -> int:
        """Return the number of tokens that it can need at most: a prompt has no more of them than characters."""
        prompts = sum(min(len(prompt), block_size) for prompt in self.prompts)
        return self.n * prompts + self.choices * self.sampling.max_tokens

    @property
    def samplings(self) -> list[Sampling]:
        """Sampling parameters of each choice of a prompt."""
        seed = self.sampling.seed
        if seed is None:
            return [self.sampling] * self.n
        return [replace(self.sampling, seed=seed + choice) for choice in range(self.n)]


def parse_plain(raw_body: bytes) -> CompletionRequest:
    """Parse the body of `POST /`: `prompt` (required), `max_tokens`, `temperature`; others are ignored.

    Raises:
        InvalidRequest: With a message for the client.
    """
    raw = parse_object(raw_body)
    prompt = raw.get("prompt")
    if not isinstance(prompt, str):
        raise InvalidRequest("prompt is required and must be a string", field="prompt")
    return CompletionRequest(prompts=(prompt,), sampling=Sampling(**read_fields(PLAIN, raw, nullable=False)))


def parse_completion(raw_body: bytes) -> CompletionRequest:
    """Parse the body of `POST /v1/completions`; unknown fields are ignored. Raises InvalidRequest."""
    raw = parse_object(raw_body)
    if raw.get("logprobs") is False:
        raw["logprobs"] = None
    values = read_fields(COMPLETION, raw)
    echo, logprobs, max_tokens = values["echo"], values["logprobs"], values["max_tokens"]
    if not max_tokens and not echo:
        raise InvalidRequest("max_tokens must be at least 1, unless echo is true", field="max_tokens")
    if echo and logprobs is not None and max_tokens == 1:
        values["ignore_eos"] = True  # evaluation harnesses expect one token after the prompt, whichever it is
    values["max_tokens"] = max(1, max_tokens)
    request = _request(values, prompts=values["prompt"], stops=values["stop"])
    return _with_logprobs(replace(request, echo=echo, prompt_only=not max_tokens), logprobs)


def parse_chat(raw_body: bytes) -> CompletionRequest:
    """Parse the body of `POST /v1/chat/completions`; unknown fields are ignored. Raises InvalidRequest."""
    raw = parse_object(raw_body)
    values = read_fields(CHAT, raw)
    prompt = chat_prompt(raw.get("messages"))
    values["max_tokens"] = values["max_completion_tokens"] or values["max_tokens"]
    request = _request(values, prompts=(prompt,), stops=(*values["stop"], CHAT_STOP))
    return _with_logprobs(request, (values["top_logprobs"] or 0) if values["logprobs"] else None)


def chat_prompt(raw_messages: object) -> str:
    """Apply the chat template: a line `Role: content` per message, then `Assistant:`; raises InvalidRequest."""
    if not isinstance(raw_messages, list) or not raw_messages:
        raise InvalidRequest("messages must be a list of at least one message", field="messages")
    lines = []
    for index, message in enumerate(raw_messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            roles = ", ".join(ROLES)
            raise InvalidRequest(f"messages[{index}] needs a role, one of {roles}", field=f"messages[{index}].role")
        lines.append(f"{message['role'].capitalize()}: {_content(message, f'messages[{index}].content')}\n")
    return "".join(lines) + "Assistant:"


def _content(message: Mapping[str, Any], name: str) -> str:
    raw = message.get("content")
    if raw is None and message["role"] == "assistant":  # a turn of tool calls or a refusal
        return ""
    if isinstance(raw, str):
        return raw
    if not isinstance(raw, list) or not all(isinstance(part, dict) for part in raw):
        raise InvalidRequest(f"{name} must be a string, or a list of text parts", field=name)
    for part in raw:
        if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            raise InvalidRequest(f"{name} may have only parts of type text, with a text", field=name)
    return "".join(part["text"] for part in raw)


def _with_logprobs(request: CompletionRequest, count: int | None) -> CompletionRequest:
    """Return a request for log probabilities with `count` most likely tokens; raises InvalidRequest for too many."""
    if count is None:
        return request
    prompts = request.n * sum(map(len, request.prompts)) if request.echo else 0  # a token has a character at least
    total = (prompts + request.choices * request.sampling.max_tokens) * (1 + count)
    if total > MAX_LOGPROBS:
        raise InvalidRequest(
            f"logprobs for {request.choices} choices of {request.sampling.max_tokens} tokens are {total} log "
            f"probabilities, but at most {MAX_LOGPROBS} are allowed",
            field="logprobs",
        )
    return replace(request, logprobs=count)


def _request(
    values: dict[str, Any], *, prompts: Sequence[str | tuple[int, ...]], stops: Sequence[str]
) -> CompletionRequest:
    if (values["response_format"] or {}).get("type", ("text",)) != ("text",):
        raise InvalidRequest("response_format must have the type text", field="response_format")
    if len(prompts) * values["n"] > MAX_CHOICES:
        raise InvalidRequest(f"prompts times n must be at most {MAX_CHOICES}", field="n")
    names = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repeat_penalty", "seed", "ignore_eos")
    return CompletionRequest(
        prompts=prompts,
        sampling=Sampling(**{name: values[name] for name in names}),
        n=values["n"],
        stops=stops,
        stream=values["stream"],
        include_usage=bool((values["stream_options"] or {}).get("include_usage")),
    )
