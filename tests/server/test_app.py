"""The plain API over real HTTP: responses and errors."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from support.serving import serving

from server.models import LoadedModel
from server.schema import MAX_BODY

RELEASE = "ab" * 32
KEY = "s3cret"


async def is_error(response: aiohttp.ClientResponse, status: int) -> str:
    """Check the form of an error and return its message."""
    assert (response.status, response.content_type) == (status, "application/json")
    body = await response.json()
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)
    assert "Traceback" not in body["error"]
    return str(body["error"])


async def test_completion(session: aiohttp.ClientSession, address: str, loaded: LoadedModel) -> None:
    fields = {"prompt": "the quick", "max_tokens": 12, "temperature": 0}
    async with session.post(address, json=fields) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        assert response.headers["X-Release"] == RELEASE
        assert await response.json() == {
            "text": loaded.language_model.generate("the quick", max_tokens=12, temperature=0),
            "model": "randygpt-2L-2H-16D",
            "usage": {"prompt_tokens": 9, "completion_tokens": 12},
        }


async def test_text_does_not_repeat_the_prompt(session: aiohttp.ClientSession, address: str) -> None:
    async with session.post(address, json={"prompt": "the quick brown fox", "max_tokens": 8}) as response:
        text = (await response.json())["text"]
    assert len(text) <= 8
    assert not text.startswith("the quick")


@pytest.mark.parametrize(
    ("prompt", "count", "dropped"),
    [("", 0, 0), ("fox", 3, 0), ("F0X!", 0, 4), ("f€o\U0001f600x", 3, 2), ("x" * 600, 600, 0)],
)
async def test_usage_counts_known_and_dropped_characters(
    session: aiohttp.ClientSession, address: str, prompt: str, count: int, dropped: int
) -> None:
    async with session.post(address, json={"prompt": prompt, "max_tokens": 3}) as response:
        counts = (await response.json())["usage"]
    assert counts.pop("dropped_characters", 0) == dropped
    assert counts == {"prompt_tokens": count, "completion_tokens": 3}


async def test_default_sampling(session: aiohttp.ClientSession, address: str) -> None:
    texts = []
    for _ in range(2):
        async with session.post(address, json={"prompt": "the"}) as response:
            reply = await response.json()
            assert reply["usage"]["completion_tokens"] == 256
            texts.append(reply["text"])
    assert texts[0] != texts[1]


async def test_content_type_is_ignored(session: aiohttp.ClientSession, address: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with session.post(address, data=b'{"prompt": "the", "max_tokens": 2}', headers=headers) as response:
        assert response.status == 200


async def test_model_file_has_no_release_header(session: aiohttp.ClientSession, loaded: LoadedModel) -> None:
    from_file = LoadedModel(language_model=loaded.language_model, release_id=None, label="m.bin")
    async with serving(from_file) as address, session.post(address, json={"prompt": "x", "max_tokens": 1}) as response:
        assert response.status == 200
        assert "X-Release" not in response.headers


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "prompt is required"),
        (b'{"prompt": 1}', "prompt is required"),
        (b'{"prompt": "x", "max_tokens": 0}', "max_tokens"),
        (b'{"prompt": "x", "max_tokens": -2}', "max_tokens"),
        (b'{"prompt": "x", "temperature": "hot"}', "temperature"),
        (b'{"prompt": "x", "temperature": -1}', "temperature"),
    ],
)
async def test_invalid_request_is_refused(
    session: aiohttp.ClientSession, address: str, body: bytes, words: str
) -> None:
    async with session.post(address, data=body) as response:
        assert words in await is_error(response, 400)


@pytest.mark.parametrize("header", [None, "", "Bearer", f"Basic {KEY}", "Bearer wrong", f"Bearer {KEY}x", KEY])
async def test_request_without_the_key_is_refused(
    session: aiohttp.ClientSession, loaded: LoadedModel, header: str | None
) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with serving(loaded, api_keys=[KEY]) as address:
        for body in (b'{"prompt": "x"}', b"{"):
            async with session.post(address, data=body, headers=headers) as response:
                assert await is_error(response, 401) == "a valid API key is required"
                assert response.headers["WWW-Authenticate"] == "Bearer"
        async with session.get(f"{address}/health", headers=headers) as response:
            assert response.status == 200


async def test_request_with_the_key_is_answered(session: aiohttp.ClientSession, loaded: LoadedModel) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with serving(loaded, api_keys=[KEY]) as address:
        async with session.post(address, json={"prompt": "x", "max_tokens": 1}, headers=headers) as response:
            assert response.status == 200
        async with session.post(address, data=b"{", headers=headers) as response:
            await is_error(response, 400)


@pytest.mark.parametrize("path", ["/v2/completions", "/healthy", "/%00", "/../etc/passwd"])
async def test_unknown_path_is_not_found(session: aiohttp.ClientSession, address: str, path: str) -> None:
    async with session.post(f"{address}{path}", json={"prompt": "x"}) as response:
        assert await is_error(response, 404) == "Not Found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/admin/reload", {"POST"}),
        ("PUT", "/", {"GET", "HEAD", "POST"}),
        ("DELETE", "/", {"GET", "HEAD", "POST"}),
        ("POST", "/health", {"GET", "HEAD"}),
    ],
)
async def test_unknown_method_is_not_allowed(
    session: aiohttp.ClientSession, address: str, method: str, path: str, allowed: set[str]
) -> None:
    async with session.request(method, f"{address}{path}") as response:
        assert await is_error(response, 405) == "Method Not Allowed"
        assert set(response.headers["Allow"].split(",")) == allowed


@pytest.mark.parametrize("chunked", ["with its length", "in pieces"])
async def test_too_large_body_is_refused(session: aiohttp.ClientSession, address: str, chunked: str) -> None:
    data = b'{"prompt": "' + b"x" * MAX_BODY

    async def pieces() -> AsyncIterator[bytes]:
        yield data

    async with session.post(address, data=pieces() if chunked == "in pieces" else data) as response:
        await is_error(response, 413)


async def test_largest_body_is_accepted(session: aiohttp.ClientSession, address: str) -> None:
    start, end = b'{"max_tokens": 1, "prompt": "', b'"}'
    body = start + b"x" * (MAX_BODY - 1 - len(start) - len(end)) + end
    async with session.post(address, data=body) as response:
        assert response.status == 200


async def test_incomplete_body_times_out(loaded: LoadedModel) -> None:
    async with serving(loaded, body_timeout_s=0.05) as address:
        host, port = address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            async with asyncio.timeout(30):
                reply = await reader.readuntil(b"}")
        finally:
            writer.close()
            await writer.wait_closed()
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"application/json" in reply
    assert reply.endswith(b'{"error":"the body did not arrive within 0.05 s"}')


async def test_requests_get_503_before_the_first_model(session: aiohttp.ClientSession) -> None:
    async with serving(None) as address:
        async with session.post(address, json={"prompt": "x"}) as response:
            assert await is_error(response, 503) == "no model is loaded yet"
            assert response.headers["Retry-After"] == "1"
        async with session.get(f"{address}/health") as response:
            assert response.status == 200
            assert await response.json() == {
                "status": "waiting for a first model",
                "model": None,
                "serving": None,
                "release": None,
                "failure": None,
            }


async def test_health(session: aiohttp.ClientSession, loaded: LoadedModel) -> None:
    failure = "tiny version 2: damaged"
    async with serving(loaded, failure=failure) as address, session.get(f"{address}/health") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        assert await response.json() == {
            "status": "ok",
            "model": "randygpt-2L-2H-16D",
            "serving": "tiny version 1",
            "release": RELEASE,
            "failure": failure,
        }


async def test_internal_error_hides_details(
    session: aiohttp.ClientSession,
    loaded: LoadedModel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loaded.language_model.decoder._layers = None  # type: ignore[assignment]
    async with serving(loaded) as address, session.post(address, json={"prompt": "x"}) as response:
        assert await is_error(response, 500) == "internal error; see the server's log"
    assert "TypeError" in caplog.text
