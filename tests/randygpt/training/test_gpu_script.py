"""`benchmarks/gpu.py`: what it says without a GPU, and that its checks run, on the second device."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from support import second_device

SECOND = second_device.register()  # while tests are collected: torch counts devices in the first backward pass
SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_machine_without_gpu_is_one_line(gpu: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu["main"]([]) == 2
    assert capsys.readouterr().out.startswith("no GPU: PyTorch")


def test_difference_above_the_limit_fails(gpu: dict[str, Any]) -> None:
    assert gpu["checked"]("same", lambda: gpu["within"](0.1, [1.0], [1.01])).result == "ok"
    for found in ([1.2], [float("nan")], []):
        assert gpu["checked"]("different", lambda found=found: gpu["within"](0.1, found, [1.0])).result == "FAILED"


@pytest.mark.full
def test_checks_pass_on_the_second_device(gpu: dict[str, Any]) -> None:
    plan = gpu["Plan"](
        device=SECOND,
        curve=4,
        curve_on_cpu=3,
        resumed=4,
        measured_preset="xs",
        batch_sizes=(2, 4),
        warm_up=1,
        measured=1,
    )
    lines = list(gpu["report"](plan))
    assert [line.result for line in lines[:6]] == ["left out", "left out", "ok", "left out", "ok", "ok"], lines
    assert [line.result.endswith(" ms") for line in lines[6:]] == [True] * 3
