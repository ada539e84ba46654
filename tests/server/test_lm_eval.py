"""lm-eval scores a model through the server; `make test-all` installs it into an environment of its own."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from support.command import randygpt
from support.models import write_tiny
from support.serving import serving

from randygpt.model.sampling import log_softmax
from server.models import LoadedModel, load_file

PYTHON = Path(__file__).parents[2] / ".venv-lm-eval" / "bin" / "python"
PAIRS = [("the", " cat"), ("a", "ct"), ("h", "eat")]
SCRIPT = """
import json, sys
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
url, folder, pairs = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = LocalCompletionsAPI(base_url=url, model="any", tokenizer=folder, tokenizer_backend="huggingface", max_length=64)
requests = [Instance("loglikelihood", {}, tuple(pair), index) for index, pair in enumerate(pairs)]
print(json.dumps(model.loglikelihood(requests)))
"""


@pytest.mark.full
async def test_lm_eval_scores_through_the_server(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.bin")
    await asyncio.to_thread(randygpt, tmp_path, "export", "--format", "hf", "m.bin", "folder")
    loaded = load_file(path)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HOME": str(tmp_path)}
    async with serving(loaded) as address:
        arguments = (f"{address}/v1/completions", str(tmp_path / "folder"), json.dumps(PAIRS))
        process = await asyncio.create_subprocess_exec(
            PYTHON, "-c", SCRIPT, *arguments, env=offline, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    found = [score for score, _ in json.loads(output.splitlines()[-1])]
    np.testing.assert_allclose(found, [_score(loaded, *pair) for pair in PAIRS], atol=1e-3)


def _score(loaded: LoadedModel, context: str, continuation: str) -> float:
    ids = loaded.language_model.tokenizer.encode(context + continuation).tolist()
    values = log_softmax(loaded.language_model.decoder.logits(ids))
    return sum(float(values[position - 1, ids[position]]) for position in range(len(context), len(ids)))
