"""bf16 training and the default precision."""

from pathlib import Path

import pytest
import torch
from support.models import CONFIG, TEXT

from randygpt.checkpoint.sidecar import inspect_checkpoint, read_sidecar
from randygpt.model.gpt import GPT
from randygpt.training.checkpointing import Step
from randygpt.training.device import fastest_precision
from randygpt.training.options import TrainOptions
from randygpt.training.trainer import Trainer


def test_bf16_applies_only_to_training_steps() -> None:
    model = GPT.initialize(CONFIG, seed=0)
    ids = torch.arange(20)[None]
    exact = model(ids)
    model.set_training_dtype(torch.bfloat16)
    rough = model(ids)
    assert not torch.equal(rough, exact)
    assert torch.allclose(rough, exact, atol=0.01)
    assert rough.dtype == torch.float32
    assert torch.equal(model.eval()(ids), exact)


def trained(folder: Path, precision: str, *, stop_after: int | None = None) -> list[Step]:
    folder.mkdir(exist_ok=True)
    options = TrainOptions(iterations=50, batch_size=4, max_lr=3e-3, prefix=folder / "m", precision=precision)
    steps: list[Step] = []
    if options.latest.is_file():
        trainer = Trainer.resume(options, TEXT, inspect_checkpoint(options.latest))
    else:
        trainer = Trainer.start(options, TEXT, lambda _: CONFIG)
    trainer.run(steps.append, lambda: len(steps) == stop_after)
    return steps


@pytest.mark.full
def test_bf16_loss_follows_float32(tmp_path: Path) -> None:
    losses = [trained(tmp_path / precision, precision)[-1].val_loss for precision in ("float32", "bf16")]
    assert losses[0] is not None
    assert losses[0] < 3.2
    assert losses[1] == pytest.approx(losses[0], abs=0.05)


@pytest.mark.full
def test_bf16_run_resumes_exactly(tmp_path: Path) -> None:
    trained(tmp_path / "whole", "bf16")
    trained(tmp_path / "parts", "bf16", stop_after=7)
    trained(tmp_path / "parts", "bf16")
    for name in ("m.bin", "m_best.bin"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    sidecar = read_sidecar(tmp_path / "parts/m.bin")
    assert sidecar is not None
    assert sidecar.training["precision"] == "bf16"


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_default_precision_by_cpu_capability(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert fastest_precision("cpu") == expected


def test_default_precision_is_supported() -> None:
    assert fastest_precision("cpu") in {"float32", "bf16"}
    assert fastest_precision("mps") == "float32"
