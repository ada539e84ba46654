"""Parsing of requests: valid, invalid and fuzzed fields."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from randygpt.model.sampling import Sampling
from server.errors import InvalidRequest
from server.responses import error_body, plain_body
from server.schema import CompletionRequest, parse_plain


def asked(**fields: Any) -> CompletionRequest:  # noqa: ANN401 (JSON)
    return parse_plain(orjson.dumps(fields))


def test_prompt_alone_is_enough() -> None:
    assert asked(prompt="Once") == CompletionRequest(
        prompts=("Once",), sampling=Sampling(max_tokens=256, temperature=0.7, top_p=1.0, top_k=0, seed=None)
    )


def test_every_field() -> None:
    request = asked(prompt="né\U0001f600\x00", max_tokens=7, temperature=1.5)
    assert request.prompts[0] == "né\U0001f600\x00"
    assert (request.sampling.max_tokens, request.sampling.temperature) == (7, 1.5)


def test_unknown_fields_are_ignored() -> None:
    assert asked(prompt="x", stream=True, top_p=-1, seed="no", model=None) == asked(prompt="x")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""),
        ("prompt", "x" * 60_000),
        ("max_tokens", 1),
        ("max_tokens", 4096),
        ("temperature", 0),
        ("temperature", 0.0),
        ("temperature", 100),
    ],
)
def test_ends_of_the_ranges(field: str, value: float | str) -> None:
    request = asked(**{"prompt": "x", field: value})
    assert value in {request.prompts[0], request.sampling.max_tokens, request.sampling.temperature}


@pytest.mark.parametrize("value", [None, 1, 1.5, True, [], ["x"], {"text": "x"}])
def test_prompt_must_be_a_string(value: object) -> None:
    with pytest.raises(InvalidRequest, match="prompt is required and must be a string"):
        asked(prompt=value)


def test_prompt_is_required() -> None:
    with pytest.raises(InvalidRequest, match="prompt is required"):
        asked(max_tokens=5)


@pytest.mark.parametrize("value", [0, -2, -(10**18), 1.0, -1.0, 256.5, "5", True, False, [], {}])
def test_max_tokens_must_be_an_integer_in_range(value: object) -> None:
    with pytest.raises(InvalidRequest, match="max_tokens must be an integer from 1, or -1 for the limit"):
        asked(prompt="x", max_tokens=value)


@pytest.mark.parametrize("value", ["0.7", "hot", True, False, [], {}, [0.7]])
def test_temperature_must_be_a_number(value: object) -> None:
    with pytest.raises(InvalidRequest, match="temperature must be a number"):
        asked(prompt="x", temperature=value)


@pytest.mark.parametrize("value", [-0.001, -1, 100.5, 101, 10**18, 1e308])
def test_temperature_must_be_in_range(value: float) -> None:
    with pytest.raises(InvalidRequest, match="temperature must be from 0 to 100"):
        asked(prompt="x", temperature=value)


@pytest.mark.parametrize("field", ["max_tokens", "temperature"])
@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 30, "9" * 5000, "01", "+1"]
)
def test_malformed_numbers_are_refused(field: str, number: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_plain(f'{{"prompt": "x", "{field}": {number}}}'.encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"prompt": "x"',
        b'{"prompt": "x"}}',
        b"{'prompt': 'x'}",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b"prompt=x",
        b"\x00",
        b'{"a":' * 60_000,
    ],
    ids=lambda body: repr(body)[:20],
)
def test_body_must_be_json(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="the body is not JSON"):
        parse_plain(body)


@pytest.mark.parametrize("body", [b"null", b"[]", b'"prompt"', b"1", b"true", b'[{"prompt": "x"}]'])
def test_body_must_be_an_object(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="the body must be a JSON object"):
        parse_plain(body)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(
    st.binary()
    | st.dictionaries(st.sampled_from(["prompt", "max_tokens", "temperature", "other"]), values).map(orjson.dumps)
)
def test_any_bytes_give_a_request_or_our_error(body: bytes) -> None:
    try:
        request = parse_plain(body)
    except InvalidRequest:
        return
    assert isinstance(request.prompts[0], str)
    assert 1 <= request.sampling.max_tokens <= 4096
    assert 0 <= request.sampling.temperature <= 100


def test_plain_bodies() -> None:
    assert plain_body(text="t", model="m", prompt_tokens=1, completion_tokens=2) == {
        "text": "t",
        "model": "m",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    assert error_body("words") == {"error": "words"}
