"""What training leaves on disk, when something comes between."""

import threading
from pathlib import Path

import pytest
from support.models import CONFIG, TOKENIZER, tiny_checkpoint

from randygpt.saving import CheckpointWriter
from randygpt.sidecar import Sidecar


def test_an_interrupt_waits_for_the_write_under_way_alone(tmp_path: Path) -> None:
    under_way = threading.Event()

    def interrupted(writer: CheckpointWriter) -> None:
        with writer:
            writer._executor.submit(under_way.wait, 10)
            writer.submit(tmp_path / "m.bin", tiny_checkpoint(), Sidecar(config=CONFIG, tokenizer=TOKENIZER))
            writer._writes[0].add_done_callback(lambda _: under_way.set())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(CheckpointWriter())
    assert under_way.is_set()
    assert list(tmp_path.iterdir()) == []


def test_an_error_waits_for_every_write(tmp_path: Path) -> None:
    """They are good states: what was found to be the best before a run diverged."""

    def failing(writer: CheckpointWriter) -> None:
        with writer:
            for name in ("m.bin", "m_best.bin"):
                writer.submit(tmp_path / name, tiny_checkpoint(), Sidecar(config=CONFIG, tokenizer=TOKENIZER))
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        failing(CheckpointWriter())
    assert {path.name for path in tmp_path.glob("*.bin")} == {"m.bin", "m_best.bin"}
