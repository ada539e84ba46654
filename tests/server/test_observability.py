"""Metrics, log and readiness."""

import io
import logging
import os
from pathlib import Path

import aiohttp
import orjson
import pytest
from support.models import write_tiny
from support.scrape import scrape
from support.serving import config, serving

from server import logs
from server.app import run_server
from server.models import ActiveModel, LoadedModel, load_file

SECRET = "a private prompt"  # noqa: S105 (of a test)


async def test_metrics(session: aiohttp.ClientSession, address: str) -> None:
    for fields in ({"prompt": "the fox", "max_tokens": 9}, {"prompt": 1}):
        async with session.post(address, json=fields) as response:
            await response.read()
    found = await scrape(address)
    assert found["randygpt_requests_total / 200"] == found["randygpt_requests_total / 400"] == 1
    assert found["randygpt_prompt_tokens_total"] == 7
    assert found["randygpt_completion_tokens_total"] == 9
    assert found["randygpt_time_to_first_token_seconds_count"] == 1
    assert found["randygpt_decode_step_interval_seconds_count"] == found["randygpt_batch_size_sum"] == 9
    assert found["randygpt_sequences_waiting"] == 0
    assert (
        found["randygpt_sequences_running"]
        == found["randygpt_model_swaps_total"]
        == found["randygpt_model_swap_failing"]
        == 0
    )
    assert found["randygpt_model_age_seconds"] >= 0
    assert any("ab" * 32 in name for name in found)


async def test_undecodable_file_name_is_escaped(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a\xff\n.bin")
    write_tiny(tmp_path / "m.bin").rename(path)
    (tmp_path / "m.json").rename(path.with_suffix(".json"))
    async with serving(load_file(path)) as address:
        await scrape(address)
        async with session.get(f"{address}/health") as response:
            assert (await response.json())["serving"].endswith(r"a\udcff\n.bin")


async def test_not_ready_before_the_first_model(session: aiohttp.ClientSession, loaded: LoadedModel) -> None:
    active = ActiveModel()
    async with run_server(active, None, config()) as address:
        assert "randygpt_model_age_seconds" not in await scrape(address)
        async with session.get(f"{address}/ready") as response:
            assert (response.status, await response.json()) == (503, {"ready": False})
        active.current = loaded
        async with session.get(f"{address}/ready") as response:
            assert (response.status, await response.json()) == (200, {"ready": True})


async def test_request_log_has_no_prompt_and_no_key(
    session: aiohttp.ClientSession, loaded: LoadedModel, logged: io.StringIO
) -> None:
    headers = {"X-Request-Id": "mine-1", "Authorization": "Bearer s3cret"}
    async with serving(loaded, api_keys=["s3cret"]) as address:
        for path in ("/", "/v1/completions", f"/nothing/{SECRET.replace(' ', '')}"):
            async with session.post(f"{address}{path}", json={"prompt": SECRET}, headers=headers) as response:
                assert response.headers["X-Request-Id"] == "mine-1"
        async with session.get(address, headers={"If-None-Match": "*"}) as response:
            assert response.status == 304  # an open page polls: not logged
    lines = [orjson.loads(line) for line in logged.getvalue().splitlines()]
    assert [(line["path"], line["status"], line["request_id"]) for line in lines] == [
        ("/", 200, "mine-1"),
        ("/v1/completions", 200, "mine-1"),
        ("other", 404, "mine-1"),
    ]
    assert SECRET not in logged.getvalue()
    assert SECRET.replace(" ", "") not in logged.getvalue()
    assert "s3cret" not in logged.getvalue()


@pytest.mark.parametrize("given", ["", "two words", "x" * 65, "a\tb", "é"])
async def test_invalid_request_id_is_replaced(session: aiohttp.ClientSession, address: str, given: str) -> None:
    async with session.get(f"{address}/health", headers={"X-Request-Id": given}) as response:
        found = response.headers["X-Request-Id"]
    assert found != given
    assert len(found) == 32


@pytest.mark.parametrize("style", ["console", "json"])
def test_log_lines_cannot_be_forged(style: logs.Style) -> None:
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    try:
        logs.set_up(style, stream=stream)
        logging.getLogger("x").error("first\nsecond \x1b[31m %s", "\r", extra={"path": "a\nb\u2028\x9b31m\udc80"})
    finally:
        root.handlers = handlers
        root.setLevel(level)
    assert stream.getvalue().count("\n") == 1
    assert "first\\nsecond" in stream.getvalue()
    assert not set("\x1b\r\u2028\x9b\udc80") & set(stream.getvalue())


def test_exception_is_logged_with_traceback(logged: io.StringIO) -> None:
    try:
        raise ValueError("oh")  # noqa: TRY301
    except ValueError:
        logging.getLogger("x").exception("it failed")
    line = orjson.loads(logged.getvalue())
    assert (line["message"], line["level"]) == ("it failed", "error")
    assert "ValueError: oh" in line["error"]
