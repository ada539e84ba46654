"""docs/checkpoint.md: the messages it quotes are those of the code."""

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from randygpt.checkpoint.header import CheckpointHeader
from randygpt.errors import RandyGPTError
from randygpt.model.config import ModelConfig
from randygpt.model.tokenizer import tokenizer_from_json

PAGE = (Path(__file__).parents[2] / "docs/checkpoint.md").read_text(encoding="utf-8")
QUOTED = re.findall("`([^`]+)`", PAGE[PAGE.index("## What is refused") :])
XS = ModelConfig.from_preset("xs", vocab_size=67)


def header(*, magic: bytes = b"RGPT0003", vocab: int = 67, best_loss: float = 1.0) -> CheckpointHeader:
    return CheckpointHeader.parse(struct.pack("<8sIIIf", magic, vocab, 1, 1, best_loss))


@pytest.mark.parametrize(
    "refused",
    [
        lambda: CheckpointHeader.parse(bytes(12)),
        lambda: header(magic=b"RGPT0009"),
        lambda: header(vocab=0),
        lambda: header(best_loss=float("nan")),
        lambda: header().optimizer_layout(ModelConfig.from_preset("xs", vocab_size=65), 100),
        lambda: header().optimizer_layout(XS, 100),
        lambda: header().infer_config(100),
        lambda: header(magic=b"RGPT0002", vocab=6016).infer_config(37_748_760),
        lambda: ModelConfig.from_json({"n_embd": 8, "n_layer": 1, "block_size": 8, "vocab_size": 67}),
        lambda: ModelConfig(n_embd=10, n_head=4, n_layer=1, vocab_size=67),
        lambda: tokenizer_from_json({}),
        lambda: tokenizer_from_json({"chars": ["a", "bc"]}),
    ],
)
def test_quoted_message_is_raised(refused: Callable[[], object]) -> None:
    with pytest.raises(RandyGPTError) as caught:
        refused()
    assert str(caught.value) in QUOTED
