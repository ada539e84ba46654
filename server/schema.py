"""Requests, checked: `POST /` as the Rust program has it, and completions and chats as OpenAI has them. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from randygpt.model.sampling import Sampling
from server.errors import InvalidRequest
from server.fields import Field, Flag, Inner, Number, Texts, parse_object, read

MAX_BODY = 64 << 10  # bytes
MAX_TOKENS = 4096
MAX_CHOICES = 16  # texts that a request asks for
MAX_LIKELIEST = 20
_MAX_STOPS = 16
_INT = 1 << 63

PLAIN: Mapping[str, Field] = {
    "max_tokens": Number(whole=True, low=1, high=MAX_TOKENS, default=256, about="Stop after so many tokens."),
    "temperature": Number(low=0, high=100, default=0.7, about="0: always the likeliest token."),
}
_COMMON: Mapping[str, Field] = {
    **PLAIN,
    "top_p": Number(low=0, high=1, above=True, default=1.0, about="Share of the likeliest tokens to draw from."),
    "top_k": Number(whole=True, low=0, high=_INT - 1, default=0, about="Draw from so many likeliest tokens; 0: all."),
    "seed": Number(whole=True, low=-_INT, high=_INT - 1, about="Same seed, same text; choice i has seed + i."),
    "n": Number(whole=True, low=1, high=MAX_CHOICES, default=1, about="How many texts."),
    "stop": Texts(most=_MAX_STOPS, fewest=0, least=1, default=(), about="End where one of these would begin."),
    "ignore_eos": Flag(about="Write on behind the end token."),
    "stream": Flag(about="Send tokens as they are drawn, as server-sent events."),
    "stream_options": Inner(
        fields={"include_usage": Flag(about="End the stream with the counts of tokens.")}, about="How to stream."
    ),
}
COMPLETION: Mapping[str, Field] = {
    "prompt": Texts(most=MAX_CHOICES, default=("",), about="What to go on from; of a list, each by itself."),
    **_COMMON,
    "logprobs": Number(whole=True, low=0, high=MAX_LIKELIEST, about="Tell log probabilities, and of so many others."),
    "echo": Flag(about="Repeat the prompt before the text."),
}
CHAT: Mapping[str, Field] = {
    **_COMMON,
    "max_completion_tokens": Number(whole=True, low=1, high=MAX_TOKENS, about="The same as max_tokens."),
    "logprobs": Flag(about="Tell log probabilities."),
    "top_logprobs": Number(whole=True, low=0, high=MAX_LIKELIEST, about="Of how many tokens beside the drawn one."),
}
ROLES = ("system", "developer", "user", "assistant")
CHAT_STOP = "\nUser:"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """Prompts, and how to go on from each."""

    prompts: Sequence[str]
    sampling: Sampling
    choices: int = 1  # texts for each prompt
    stops: Sequence[str] = ()
    logprobs: int | None = None  # likeliest tokens to tell beside each
    echo: bool = False
    stream: bool = False
    include_usage: bool = False

    @property
    def samplings(self) -> list[Sampling]:
        """How each choice of a prompt is drawn."""
        seed = self.sampling.seed
        if seed is None:
            return [self.sampling] * self.choices
        return [replace(self.sampling, seed=seed + choice) for choice in range(self.choices)]


def parse_request(raw_body: bytes) -> CompletionRequest:
    """The request of `POST /`: `prompt` (required), `max_tokens`, `temperature`; unknown fields are ignored.

    Raises InvalidRequest with words for the client.
    """
    raw = parse_object(raw_body)
    prompt = raw.get("prompt")
    if not isinstance(prompt, str):
        raise InvalidRequest("prompt is required, and is text", field="prompt")
    return CompletionRequest(prompts=(prompt,), sampling=Sampling(**read(PLAIN, raw, nullable=False)))


def parse_completion(raw_body: bytes) -> CompletionRequest:
    """The request of `POST /v1/completions`; unknown fields are ignored. Raises InvalidRequest."""
    values = read(COMPLETION, parse_object(raw_body))
    if values["echo"] and values["logprobs"] is not None:
        raise InvalidRequest("echo does not go with logprobs", field="echo")
    request = _request(values, prompts=values["prompt"], stops=values["stop"])
    return replace(request, logprobs=values["logprobs"], echo=values["echo"])


def parse_chat(raw_body: bytes) -> CompletionRequest:
    """The request of `POST /v1/chat/completions`; unknown fields are ignored. Raises InvalidRequest."""
    raw = parse_object(raw_body)
    values = read(CHAT, raw)
    prompt = join_turns(raw.get("messages"))
    values["max_tokens"] = values["max_completion_tokens"] or values["max_tokens"]
    request = _request(values, prompts=(prompt,), stops=(*values["stop"], CHAT_STOP))
    return replace(request, logprobs=(values["top_logprobs"] or 0) if values["logprobs"] else None)


def join_turns(raw_messages: object) -> str:
    """The prompt of a chat: a line `Role: content` for each turn, then `Assistant:`; raises InvalidRequest."""
    if not isinstance(raw_messages, list) or not raw_messages:
        raise InvalidRequest("messages is a list of at least one turn", field="messages")
    lines = []
    for turn in raw_messages:
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            raise InvalidRequest(f"a turn has a role, one of {', '.join(ROLES)}", field="messages")
        lines.append(f"{turn['role'].capitalize()}: {_content(turn.get('content'))}\n")
    return "".join(lines) + "Assistant:"


def _content(raw: object) -> str:
    if isinstance(raw, str):
        return raw
    if isinstance(raw, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in raw):
        return "".join(part["text"] for part in raw)
    raise InvalidRequest("a turn's content is text, or a list of parts with text", field="messages")


def _request(values: dict[str, Any], *, prompts: Sequence[str], stops: Sequence[str]) -> CompletionRequest:
    if len(prompts) * values["n"] > MAX_CHOICES:
        raise InvalidRequest(f"prompts times n is at most {MAX_CHOICES}", field="n")
    names = ("max_tokens", "temperature", "top_p", "top_k", "seed", "ignore_eos")
    return CompletionRequest(
        prompts=prompts,
        sampling=Sampling(**{name: values[name] for name in names}),
        choices=values["n"],
        stops=stops,
        stream=values["stream"],
        include_usage=bool((values["stream_options"] or {}).get("include_usage")),
    )
