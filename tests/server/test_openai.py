"""The OpenAI API, called with OpenAI's own client."""

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from support.models import CONFIG
from support.serving import serving

from server.models import LoadedModel

NAME = CONFIG.name


@pytest.fixture
async def client(address: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def reference(loaded: LoadedModel, prompt: str, count: int, *, seed: int | None = None) -> str:
    """Return what the model generates alone; greedily without a seed."""
    temperature = 0.7 if seed is not None else 0.0
    return loaded.language_model.generate(prompt, max_tokens=count, temperature=temperature, seed=seed)


async def test_completion(client: openai.AsyncOpenAI, loaded: LoadedModel) -> None:
    done = await client.completions.create(model=NAME, prompt="the quick", max_tokens=12, temperature=0)
    assert done.id.startswith("cmpl-")
    assert (done.object, done.model, done.system_fingerprint) == ("text_completion", NAME, "fp_" + "ab" * 8)
    [choice] = done.choices
    assert (choice.text, choice.finish_reason, choice.index) == (reference(loaded, "the quick", 12), "length", 0)
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (9, 12, 21)


async def test_several_prompts_and_choices(client: openai.AsyncOpenAI, loaded: LoadedModel) -> None:
    done = await client.completions.create(model=NAME, prompt=["the", "fox"], n=2, seed=7, max_tokens=20)
    assert [choice.text for choice in done.choices] == [
        reference(loaded, prompt, 20, seed=seed) for prompt in ("the", "fox") for seed in (7, 8)
    ]
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (6, 80)


@pytest.mark.parametrize("stream", [True, False])
async def test_text_ends_before_a_stop_sequence(
    client: openai.AsyncOpenAI, loaded: LoadedModel, *, stream: bool
) -> None:
    whole = reference(loaded, "the", 60)
    stop = whole[25:28]
    options = {"top_k": 1, "ignore_eos": True}
    if stream:
        parts = await client.completions.create(
            model=NAME, prompt="the", max_tokens=60, stop=[stop, "never"], stream=True, extra_body=options
        )
        choices = [part.choices[0] async for part in parts]
        text, finish = "".join(choice.text for choice in choices), choices[-1].finish_reason
        assert not any(choice.finish_reason for choice in choices[:-1])
    else:
        done = await client.completions.create(
            model=NAME, prompt="the", max_tokens=60, stop=[stop, "never"], extra_body=options
        )
        text, finish = done.choices[0].text, done.choices[0].finish_reason
        assert done.usage is not None
        assert done.usage.completion_tokens == whole.index(stop) + len(stop)
    assert (text, finish) == (whole[: whole.index(stop)], "stop")


async def test_incomplete_stop_sequence_is_kept(client: openai.AsyncOpenAI, loaded: LoadedModel) -> None:
    whole = reference(loaded, "the", 20)
    done = await client.completions.create(
        model=NAME, prompt="the", max_tokens=20, temperature=0, stop=whole[-2:] + "€"
    )
    assert (done.choices[0].text, done.choices[0].finish_reason) == (whole, "length")


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_has_dropped_characters(session: aiohttp.ClientSession, address: str, *, stream: bool) -> None:
    fields = {"prompt": ["f€x", "λό"], "max_tokens": 1, "stream": stream, "stream_options": {"include_usage": True}}
    async with session.post(f"{address}/v1/completions", json=fields) as response:
        text = (await response.text()).removesuffix("data: [DONE]\n\n")
    counts = json.loads(text.rpartition("data: ")[2])["usage"]
    assert (counts["prompt_tokens"], counts["dropped_characters"]) == (2, 3)


async def test_stream_has_the_same_text_and_usage(client: openai.AsyncOpenAI, loaded: LoadedModel) -> None:
    stream = await client.completions.create(
        model=NAME, prompt="fox", max_tokens=30, seed=3, stream=True, stream_options={"include_usage": True}
    )
    parts = [part async for part in stream]
    assert "".join(part.choices[0].text for part in parts[:-1]) == reference(loaded, "fox", 30, seed=3)
    assert [part.choices[0].finish_reason for part in parts[:-1]][-1] == "length"
    assert len({part.id for part in parts}) == 1
    assert all(part.usage is None for part in parts[:-1])
    last = parts[-1]
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 30)


async def test_stream_with_several_choices(client: openai.AsyncOpenAI, loaded: LoadedModel) -> None:
    texts = ["", "", ""]
    async for part in await client.completions.create(
        model=NAME, prompt="fox", max_tokens=30, seed=3, n=3, stream=True
    ):
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert texts == [reference(loaded, "fox", 30, seed=3 + index) for index in range(3)]


async def test_echo_repeats_the_prompt(client: openai.AsyncOpenAI, loaded: LoadedModel) -> None:
    done = await client.completions.create(model=NAME, prompt="the €fox", max_tokens=5, temperature=0, echo=True)
    assert done.choices[0].text == "the €fox" + reference(loaded, "the fox", 5)
    parts = await client.completions.create(
        model=NAME, prompt="the €fox", max_tokens=5, temperature=0, echo=True, stream=True
    )
    assert "".join([part.choices[0].text async for part in parts]) == done.choices[0].text


async def test_logprobs(client: openai.AsyncOpenAI) -> None:
    done = await client.completions.create(model=NAME, prompt="the", max_tokens=6, temperature=0, logprobs=3)
    logprobs = done.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == list(done.choices[0].text)
    assert logprobs.text_offset == [0, 1, 2, 3, 4, 5]
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    for token, value, likeliest in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert value < 0
        assert len(likeliest) == 3
        assert likeliest[token] == value == max(likeliest.values())


async def test_text_offsets_continue_through_a_stream(client: openai.AsyncOpenAI) -> None:
    offsets: list[int] = []
    stream = await client.completions.create(
        model=NAME, prompt="the", max_tokens=6, temperature=0, logprobs=0, stream=True
    )
    async for part in stream:
        logprobs = part.choices[0].logprobs
        assert logprobs is not None
        offsets += logprobs.text_offset or []
    assert offsets == [0, 1, 2, 3, 4, 5]


async def test_ignored_end_token_has_no_text(client: openai.AsyncOpenAI) -> None:
    done = await client.completions.create(
        model=NAME, prompt="the", max_tokens=400, temperature=100, seed=1, logprobs=0, extra_body={"ignore_eos": True}
    )
    logprobs = done.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.text_offset is not None
    assert {"<", ">"} & {*logprobs.tokens}
    spoken = [(one, at) for one, at in zip(logprobs.tokens, logprobs.text_offset, strict=True) if one not in "<>"]
    assert all(done.choices[0].text[at] == one for one, at in spoken)


async def test_chat(client: openai.AsyncOpenAI, loaded: LoadedModel) -> None:
    done = await client.chat.completions.create(
        model=NAME,
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "fox"}]},
        ],
        max_completion_tokens=20,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
    )
    prompt = "System: be brief\nUser: the fox\nAssistant:"
    assert (done.object, done.model) == ("chat.completion", NAME)
    [choice] = done.choices
    assert (choice.message.role, choice.message.content) == ("assistant", reference(loaded, prompt, 20))
    assert choice.finish_reason == "length"
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [entry.token for entry in choice.logprobs.content] == list(choice.message.content or "")
    assert {len(entry.top_logprobs) for entry in choice.logprobs.content} == {2}
    assert all(math.exp(entry.logprob) <= 1 for entry in choice.logprobs.content)


async def test_streamed_chat(client: openai.AsyncOpenAI, loaded: LoadedModel) -> None:
    parts = [
        part
        async for part in await client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": "fox"}], max_tokens=20, temperature=0, stream=True
        )
    ]
    assert [part.choices[0].delta.role for part in parts] == ["assistant", *[None] * (len(parts) - 1)]
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text == reference(loaded, "User: fox\nAssistant:", 20)
    assert parts[-1].choices[0].finish_reason == "length"


async def test_model_list(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [NAME]
    assert (await client.models.retrieve(NAME)).owned_by == "randygpt"
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        await client.models.retrieve("other")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 100.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"min_p": 1.5}, "min_p"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"n": 17}, "n"),
        ({"stop": ["a", ""]}, "stop"),
        ({"seed": 2**63}, "seed"),
        ({"logprobs": 21}, "logprobs"),
    ],
)
async def test_invalid_request_is_refused(client: openai.AsyncOpenAI, options: dict[str, object], field: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model=NAME, prompt="x", extra_body=options)
    assert caught.value.param == field
    assert field in caught.value.message
    assert caught.value.type == "invalid_request_error"


async def test_errors_map_to_client_exceptions(loaded: LoadedModel) -> None:
    async with (
        serving(loaded, api_keys=["own"], max_sequences=1) as address,
        openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="other", max_retries=0, timeout=60) as stranger,
        openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="own", max_retries=0, timeout=60) as friend,
    ):
        with pytest.raises(openai.AuthenticationError, match="a valid API key is required"):
            await stranger.completions.create(model=NAME, prompt="x")
        with pytest.raises(openai.InternalServerError) as caught:
            await friend.completions.create(model=NAME, prompt="x", n=2)
        assert (caught.value.status_code, caught.value.response.headers["Retry-After"]) == (503, "1")


async def test_unsupported_fields_are_ignored(client: openai.AsyncOpenAI) -> None:
    done = await client.completions.create(
        model="any", prompt="x", max_tokens=1, presence_penalty=1, user="me", suffix=None, extra_body={"stop": None}
    )
    assert done.usage is not None
    assert done.usage.completion_tokens == 1


async def test_stream_is_server_sent_events(session: aiohttp.ClientSession, address: str) -> None:
    fields = {"prompt": "x", "max_tokens": 2, "stream": True}
    async with session.post(f"{address}/v1/completions", json=fields, headers={"X-Request-Id": "mine-1"}) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert response.headers["X-Release"] == "ab" * 32
        assert response.headers["X-Request-Id"] == "mine-1"
        events = (await response.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    parts = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert {part["id"] for part in parts} == {"cmpl-mine-1"}


async def test_stream_reports_an_internal_error_without_details(
    session: aiohttp.ClientSession, address: str, loaded: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    loaded.language_model.decoder._layers = None  # type: ignore[assignment]
    fields = {"prompt": "x", "max_tokens": 2, "stream": True}
    async with session.post(f"{address}/v1/completions", json=fields) as response:
        text = await response.text()
    error = json.loads(text.splitlines()[0].removeprefix("data: "))["error"]
    assert error["type"] == "server_error"
    assert error["message"] == "the text is incomplete: internal error; see the server's log"
    assert "TypeError" in caplog.text


async def test_text_matches_the_python_api(client: openai.AsyncOpenAI, loaded: LoadedModel) -> None:
    model = loaded.language_model
    extra: dict[str, Any] = {"top_k": 9, "min_p": 0.01, "repeat_penalty": 1.1}
    done = await client.completions.create(
        model=NAME, prompt="the", max_tokens=300, seed=5, temperature=1.1, top_p=0.8, extra_body=extra
    )
    expected = model.generate("the", max_tokens=300, seed=5, temperature=1.1, top_p=0.8, **extra)
    assert done.choices[0].text == expected
    assert len(expected) > CONFIG.block_size


@pytest.mark.parametrize("stop", ["x" * 1025, ["x" * 65] * 16, ["x" * 600] * 2])
async def test_stop_sequences_too_long_are_refused(session: aiohttp.ClientSession, address: str, stop: object) -> None:
    async with session.post(f"{address}/v1/completions", json={"prompt": "x", "stop": stop}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "stop"
