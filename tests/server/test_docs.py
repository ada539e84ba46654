"""The examples in docs/server.md, run as they stand against a real server."""

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.models import endless
from support.serving import serving

from server.models import LoadedModel

PAGE = Path(__file__).parents[2] / "docs" / "server.md"
RUNNERS = {"sh": ["bash", "-e", "-c"], "python": [sys.executable, "-c"], "js": ["node", "--input-type=module", "-e"]}


def examples() -> list[tuple[str, str]]:
    """Return (language, code) of each example that can run."""
    blocks = re.findall(r"^```(sh|python|js)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "http://" in block[1]]


def test_docs_have_examples_in_each_language() -> None:
    assert {language for language, _ in examples()} == {"sh", "python", "js"}


@pytest.mark.parametrize(("language", "code"), examples(), ids=lambda value: value if len(value) < 7 else "")
async def test_documented_example_runs(language: str, code: str) -> None:
    command = RUNNERS[language]
    tool = "curl" if language == "sh" else command[0]
    if shutil.which(tool) is None:
        pytest.skip(f"there is no {tool}")
    loaded = LoadedModel(language_model=endless(), release_id=None, label="endless")
    async with serving(loaded) as address:
        code = code.replace("http://127.0.0.1:8080", address)
        done = await asyncio.to_thread(
            subprocess.run, [*command, code], capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 50
    if "stream_options" in code:
        assert done.stdout.endswith("data: [DONE]\n\n")
        assert '"usage":{"prompt_tokens"' in done.stdout
