"""`randygpt serve` as it is typed: whom it answers, and how it ends."""

import json
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.command import background, only_line
from support.models import write_tiny

from randygpt.cli.main import run


def get(address: str, path: str = "/", body: object = None, key: str | None = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, data, headers), timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "others reach 0.0.0.0: set --api-key-file"),  # noqa: S104 (refused)
        (["--host", "::"], "others reach ::"),
        (["--host", "my.example"], "others reach my.example"),
        (["--api-key", " "], "an API key is not empty"),
        (["--api-key-file", "keys"], "keys: no key in it"),
        (["--api-key-file", "none"], "none"),
        (["--log", "xml"], "'xml' is not one of 'console', 'json'"),
    ],
)
def test_what_is_refused_before_anything_starts(
    at_home: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (at_home / "keys").write_text("# none yet\n\n", encoding="utf-8")
    write_tiny(at_home / "m.bin")
    assert run(["serve", "--model", "m.bin", "--port", "0", *words]) == 2
    assert said in only_line(capsys.readouterr().err)


def test_keys_come_from_a_file_and_the_result_is_json(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.bin")
    (tmp_path / "keys").write_text("# ours\none\n\ntwo \n", encoding="utf-8")
    words = ("--model", "m.bin", "--port", "0", "--api-key-file", "keys", "--json", "--log", "json")
    with background(tmp_path, "serve", *words) as (_, line):
        address = json.loads(line)["address"]
        asked = {"prompt": "the", "max_tokens": 2}
        assert [get(address, "/", asked, key)[0] for key in ("one", "two", "# ours", "")] == [200, 200, 401, 401]
        assert get(address, "/ready")[0] == 200


def test_a_request_under_way_ends_well_when_the_server_is_told_to_stop(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.bin")
    with background(tmp_path, "serve", "--model", "m.bin", "--port", "0") as (process, address):
        body = json.dumps({"prompt": "the", "max_tokens": 4000, "ignore_eos": True, "stream": True}).encode()
        with urllib.request.urlopen(f"{address}/v1/completions", body, timeout=60) as response:
            first = response.readline()
            process.send_signal(signal.SIGTERM)
            rest = response.read()
        assert first.startswith(b"data: {")
        assert rest.endswith(b"data: [DONE]\n\n")
        assert b'"finish_reason":"length"' in rest
        assert process.wait(timeout=60) == 143
