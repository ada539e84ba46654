"""The examples in docs/server.md, run as they stand against a real server."""

import asyncio
import contextlib
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.models import endless
from support.serving import serving

from server.models import LoadedModel

PAGE = Path(__file__).parents[2] / "docs" / "server.md"
TOOLS = {"sh": ["bash", "-e", "-c"], "js": ["node", "--input-type=module", "-e"]}


def examples() -> list[tuple[str, str]]:
    """Return (language, code) of each example that can run."""
    blocks = re.findall(r"^```(sh|python|js)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "http://" in block[1]]


def test_docs_have_examples_in_each_language() -> None:
    assert {language for language, _ in examples()} == {"sh", "python", "js"}


@pytest.mark.parametrize(("language", "code"), examples(), ids=lambda value: value if len(value) < 7 else "")
async def test_documented_example_runs(language: str, code: str) -> None:
    for tool in {"sh": ["bash", "curl"], "js": ["node"]}.get(language, []):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}")
    loaded = LoadedModel(language_model=endless(), release_id=None, label="endless")
    async with serving(loaded) as address:
        code = code.replace("http://127.0.0.1:8080", address)
        stdout = await asyncio.to_thread(run_python if language == "python" else run_tool, language, code)
    assert len(stdout) > 50
    if "stream_options" in code:
        assert stdout.endswith("data: [DONE]\n\n")
        assert '"usage":{"prompt_tokens"' in stdout


def run_python(_language: str, code: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        exec(compile(code, PAGE.name, "exec"), {"__name__": "__main__"})  # noqa: S102 (our own page)
    return stdout.getvalue()


def run_tool(language: str, code: str) -> str:
    done = subprocess.run([*TOOLS[language], code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
