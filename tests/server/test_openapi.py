"""The OpenAPI document, and fuzzed JSON over real HTTP."""

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.models import endless
from support.serving import serving

from server.errors import InvalidRequest
from server.models import LoadedModel
from server.openapi import document
from server.schema import parse_chat, parse_completion

PATHS = ["/", "/v1/completions", "/v1/chat/completions", "/admin/use", "/admin/reload"]


def properties(path: str) -> dict[str, Any]:
    body = document()["paths"][path]["post"].get("requestBody")
    found: dict[str, Any] = body["content"]["application/json"]["schema"]["properties"] if body else {}
    return found


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.integers(-2, 20) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
turns = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": values}), max_size=2)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a path and a body: documented fields with likely and unlikely values, or anything else."""
    path = draw(st.sampled_from(PATHS))
    likely = {
        "prompt": st.text() | st.lists(st.text(), max_size=3),
        "messages": turns,
        "n": st.integers(1, 4),
        "stop": st.text() | st.lists(st.text(), max_size=3),
        "stream": st.booleans(),
        "logprobs": st.integers(0, 5) | st.booleans(),
        "release": st.text("0123456789abcdef", min_size=64, max_size=64),
    }
    names = [*properties(path), "other"]
    given_names = draw(st.lists(st.sampled_from(names), unique=True, max_size=5)) if names else []
    fields = {name: draw(likely.get(name, values) | values) for name in given_names}
    fields.setdefault("max_tokens", 3)
    return path, draw(st.just(orjson.dumps(fields)) | st.binary(max_size=50) | values.map(orjson.dumps))


@pytest.fixture(scope="module")
def background_server() -> Iterator[http.client.HTTPConnection]:
    """Return a connection to a server that runs on its own thread."""
    started: list[str] = []
    is_up, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        loaded = LoadedModel(language_model=endless(), release_id=None, label="endless")
        async with serving(loaded) as address:
            started.append(address)
            is_up.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert is_up.wait(60)
    connection = http.client.HTTPConnection(started[0].removeprefix("http://"), timeout=60)
    yield connection
    connection.close()
    stop.set()
    thread.join()


@settings(suppress_health_check=[*HealthCheck])
@given(request=requests())
def test_any_json_is_answered_or_refused(
    background_server: http.client.HTTPConnection, request: tuple[str, bytes]
) -> None:
    path, body = request
    background_server.request("POST", path, body)
    response = background_server.getresponse()
    reply = response.read()
    assert 200 <= response.status < 300 or 400 <= response.status < 500, reply
    if response.headers.get_content_type() == "application/json":
        assert ("error" in json.loads(reply)) == (response.status >= 400)
    else:
        assert reply.endswith(b"data: [DONE]\n\n")


@given(st.sampled_from([parse_completion, parse_chat]), requests())
def test_any_body_gives_a_request_or_our_error(parse: Any, request: tuple[str, bytes]) -> None:  # noqa: ANN401
    try:
        found = parse(request[1])
    except InvalidRequest:
        return
    assert 1 <= len(found.prompts) * found.n <= 16
    assert all(found.stops)


async def test_document_lists_existing_routes(session: aiohttp.ClientSession, address: str) -> None:
    async with session.get(f"{address}/openapi.json") as response:
        assert response.status == 200
        found = await response.json()
    assert found == document()
    for path, operations in found["paths"].items():
        for method in operations:
            async with session.request(method, f"{address}{path}") as response:
                assert response.status not in {404, 405}, path


@pytest.mark.parametrize("path", ["/", "/v1/completions"])
def test_document_has_the_validated_ranges(path: str) -> None:
    assert properties(path)["max_tokens"] == {
        "type": ["integer", "null"],
        "minimum": -1,
        "default": 256,
        "description": "Number of tokens to generate at most; 4,096 for more, -1 or null.",
    }
    assert properties("/v1/completions")["top_p"]["exclusiveMinimum"] == 0
