"""What OpenAI's clients and evaluation harnesses send: prompts as token ids, scored prompts, null and capped fields."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
import pytest
from support.serving import serving

from randygpt.model.sampling import log_softmax
from server.models import LoadedModel
from server.schema import MAX_TOKENS, parse_chat, parse_completion, parse_plain

PROMPT = "the cat"


@pytest.fixture
async def address(loaded: LoadedModel) -> AsyncIterator[str]:
    async with serving(loaded, threads=2) as found:
        yield found


async def complete(session: aiohttp.ClientSession, address: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    async with session.post(f"{address}/v1/completions", json={"temperature": 0, **fields}) as response:
        found: dict[str, Any] = await response.json()
        assert response.status == 200, found
        return found


async def refusal(session: aiohttp.ClientSession, address: str, path: str, **fields: Any) -> tuple[str, str]:  # noqa: ANN401 (JSON)
    """Return the field and the words of a refusal."""
    async with session.post(f"{address}/v1/{path}", json=fields) as response:
        error = (await response.json())["error"]
        assert response.status == 400
        return error["param"], error["message"]


def prompt_logprobs(loaded: LoadedModel, ids: list[int]) -> list[float]:
    values = log_softmax(loaded.language_model.decoder.logits(ids))
    return [float(values[position, token]) for position, token in enumerate(ids[1:])]


async def test_scored_prompt_has_openais_legacy_shape(
    session: aiohttp.ClientSession, address: str, loaded: LoadedModel
) -> None:
    """Send what lm-eval's local-completions backend sends, and read the reply as it does."""
    ids = loaded.language_model.tokenizer.encode(PROMPT).tolist()
    request = {"model": "tiny", "prompt": [ids], "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    [choice] = (await complete(session, address, **request))["choices"]
    found = choice["logprobs"]
    assert choice["text"].startswith(PROMPT)
    assert [len(found[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [
        len(ids) + 1
    ] * 4
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    np.testing.assert_allclose(found["token_logprobs"][1:-1], prompt_logprobs(loaded, ids), atol=1e-4)
    assert found["text_offset"] == [*range(len(ids) + 1)]
    context = 4
    greedy = all(
        value == max(top.values())
        for value, top in zip(found["token_logprobs"][context:-1], found["top_logprobs"][context:-1], strict=True)
    )
    values = loaded.language_model.decoder.logits(ids)[context - 1 : -1]
    assert greedy == (values.argmax(-1).tolist() == ids[context:])


async def test_end_token_after_a_scored_prompt_is_reported(session: aiohttp.ClientSession, address: str) -> None:
    fields = {"prompt": [[2, 3], [4, 5, 6]], "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 100}
    for seed in range(8):
        choices = (await complete(session, address, **fields, seed=seed))["choices"]
        assert [len(choice["logprobs"]["tokens"]) for choice in choices] == [3, 4]


async def test_prompt_alone_can_be_scored(session: aiohttp.ClientSession, address: str, loaded: LoadedModel) -> None:
    found = await complete(session, address, prompt=PROMPT, max_tokens=0, echo=True, logprobs=2, n=2)
    ids = loaded.language_model.tokenizer.encode(PROMPT).tolist()
    for choice in found["choices"]:
        assert (choice["text"], choice["finish_reason"]) == (PROMPT, "length")
        np.testing.assert_allclose(choice["logprobs"]["token_logprobs"][1:], prompt_logprobs(loaded, ids), atol=1e-4)
        assert {len(top) for top in choice["logprobs"]["top_logprobs"][1:]} == {2}
    assert found["usage"] == {"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}
    [choice] = (await complete(session, address, prompt=PROMPT, max_tokens=0, echo=True))["choices"]
    assert (choice["text"], choice["logprobs"]) == (PROMPT, None)


async def test_streamed_prompt_is_scored(session: aiohttp.ClientSession, address: str) -> None:
    fields = {"prompt": PROMPT, "max_tokens": 3, "echo": True, "logprobs": 1, "stream": True, "temperature": 0}
    async with session.post(f"{address}/v1/completions", json=fields) as response:
        text = await response.text()
    assert text.index('"text":"the cat"') < text.index("data: [DONE]")
    assert text.count('"token_logprobs":[null,') == 1


async def test_token_ids_are_a_prompt(session: aiohttp.ClientSession, address: str, loaded: LoadedModel) -> None:
    ids = loaded.language_model.tokenizer.encode(PROMPT).tolist()
    expected = (await complete(session, address, prompt=PROMPT, max_tokens=5))["choices"][0]["text"]
    one = await complete(session, address, prompt=ids, max_tokens=5)
    two = await complete(session, address, prompt=[ids, ids[:3]], max_tokens=5, echo=True)
    assert [choice["text"] for choice in one["choices"]] == [expected]
    assert [choice["text"][:3] for choice in two["choices"]] == ["the", "the"]
    assert two["choices"][0]["text"] == PROMPT + expected


@pytest.mark.parametrize("prompt", [[], [[]], [[1], "a"], [1, "a"], [[1], 2], [-1], [1.5], [True], [9999], {"a": 1}, 5])
async def test_refused_prompt_is_named(session: aiohttp.ClientSession, address: str, prompt: object) -> None:
    field, words = await refusal(session, address, "completions", prompt=prompt)
    assert field == "prompt"
    assert words.startswith("prompt ")


async def test_prompt_over_the_context_is_not_scored(
    session: aiohttp.ClientSession, address: str, loaded: LoadedModel
) -> None:
    ids = [2] * (loaded.language_model.config.block_size + 1)
    field, words = await refusal(session, address, "completions", prompt=ids, echo=True, logprobs=1)
    assert (field, words[:18]) == ("prompt", f"prompt has {len(ids)} tokens"[:18])


@pytest.mark.parametrize("value", [MAX_TOKENS, MAX_TOKENS + 1, 10**18, -1, None])
def test_max_tokens_is_capped(value: int | None) -> None:
    body = b'{"prompt": "x", "messages": [{"role": "user", "content": "x"}], "max_tokens": %b}'
    raw = body % str(value).replace("None", "null").encode()
    for parse in (parse_plain, parse_completion, parse_chat):
        assert parse(raw).sampling.max_tokens == MAX_TOKENS


def test_max_completion_tokens_overrides_max_tokens() -> None:
    start = b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "max_completion_tokens": '
    assert parse_chat(start + b"-1}").sampling.max_tokens == MAX_TOKENS
    assert parse_chat(start + b"null}").sampling.max_tokens == 5


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": ""},
        {"stop": None},
        {"stop": []},
        {"logprobs": False},
        {"logprobs": None},
        {"response_format": {"type": "text"}},
        {"response_format": None},
    ],
    ids=str,
)
async def test_empty_options_mean_none(session: aiohttp.ClientSession, address: str, fields: dict[str, Any]) -> None:
    plain = (await complete(session, address, prompt=PROMPT, max_tokens=3))["choices"]
    assert (await complete(session, address, prompt=PROMPT, max_tokens=3, **fields))["choices"] == plain


async def test_chat_takes_what_tools_leave(session: aiohttp.ClientSession, address: str) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "cat"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]},
        {"role": "tool", "tool_call_id": "1", "content": "a hat"},
    ]
    fields = {"messages": messages, "max_tokens": 2, "logprobs": False, "stop": "", "response_format": {"type": "text"}}
    async with session.post(f"{address}/v1/chat/completions", json=fields) as response:
        assert response.status == 200, await response.text()


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "image_url", "text": "x"}]}, "messages[0].content"),
    ],
)
async def test_refused_message_is_named(
    session: aiohttp.ClientSession, address: str, message: dict[str, Any], field: str
) -> None:
    found, words = await refusal(session, address, "chat/completions", messages=[message])
    assert (found, words.split(" ")[0]) == (field, field.partition(".role")[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_tokens", 0), ("max_tokens", -2), ("logprobs", True), ("response_format", {"type": "json_object"})],
)
async def test_refused_option_is_named(session: aiohttp.ClientSession, address: str, field: str, value: object) -> None:
    found, words = await refusal(session, address, "completions", prompt="x", **{field: value})
    assert (found, words.startswith(field)) == (field, True)
