"""Check and measure training on a GPU: `python benchmarks/gpu.py`, made to take less than five minutes.

Checks: attention in one kernel and no waiting in a training step (CUDA only), the loss curve against the CPU's and
bf16's against float32's, a resumed run, and the export. Then it measures iterations of preset l. Prints a line for each
and ends with exit code 1 if a check fails, and 2 where PyTorch finds no GPU. `--out FILE` writes the same as JSON.
"""

import argparse
import contextlib
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from randygpt.checkpoint.export import export_model, read_export
from randygpt.checkpoint.rgpt import read_weights
from randygpt.checkpoint.sidecar import inspect_checkpoint
from randygpt.language_model import load
from randygpt.model.config import ModelConfig
from randygpt.model.gpt import GPT
from randygpt.model.tokenizer import CharTokenizer
from randygpt.training.compute import Compute
from randygpt.training.data import Corpus
from randygpt.training.device import fastest_precision, find_device
from randygpt.training.distributed import World
from randygpt.training.options import TrainOptions
from randygpt.training.run_state import RunState
from randygpt.training.text import Text
from randygpt.training.trainer import Trainer

FAILED, NO_GPU = 1, 2  # exit codes
CLOSE, ROUNDED = 1e-3, 2e-2  # largest differences in loss or logits: of one precision, and of bf16


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is trained, on which device."""

    device: str
    preset: str = "xs"  # of the checks
    curve: int = 150  # iterations of a loss curve
    curve_on_cpu: int = 20
    resumed: int = 40
    measured_preset: str = "l"
    batch_sizes: tuple[int, ...] = (64, 512)
    warm_up: int = 5
    measured: int = 20

    @property
    def is_cuda(self) -> bool:
        """Whether the device is one of NVIDIA's, or AMD's under the same name."""
        return self.device.startswith("cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the report."""

    name: str
    result: str  # "ok", "FAILED", "left out" or a figure with its unit
    about: str = ""

    def __str__(self) -> str:
        return f"{self.name:<58}  {self.result:>14}  {self.about}".rstrip()


class Failure(Exception):
    """A check found something wrong."""


def main(words: list[str]) -> int:
    """Check, measure and report; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the report as JSON too")
    arguments = parser.parse_args(words)
    device = find_device(None)
    if device == "cpu":
        print(f"no GPU: PyTorch {torch.__version__} finds none here, so nothing was checked or measured")
        return NO_GPU
    name = torch.cuda.get_device_name() if device.startswith("cuda") else device
    about = f"{name}, PyTorch {torch.__version__}, Python {platform.python_version()}"
    print(about, flush=True)
    lines = []
    for line in report(Plan(device=device)):
        print(line, flush=True)
        lines.append(line)
    if arguments.out:
        rows = [{"name": line.name, "result": line.result, "about": line.about} for line in lines]
        arguments.out.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    failed = [line.name for line in lines if line.result == "FAILED"]
    print(f"FAILED: {', '.join(failed)}" if failed else "all checks passed")
    return FAILED if failed else 0


def report(plan: Plan) -> Iterator[Line]:
    """Yield a line for each check and measurement."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):  # no text is there: the built-in one is used
        folder = Path(name)
        checks: dict[str, Callable[[], str]] = {
            "attention in one kernel, forward and backward": partial(attention, plan),
            "no waiting for the GPU in a training step, both recipes": partial(waiting, plan, folder),
            f"loss curve of {plan.curve_on_cpu} iterations, against the CPU": partial(curve_on_cpu, plan, folder),
            f"loss curve of {plan.curve} iterations, bf16 against float32": partial(curve_in_bf16, plan, folder),
            f"a resumed run of {plan.resumed} iterations, both recipes": partial(resuming, plan, folder),
            "export, and logits of the exported model": partial(exporting, plan, folder),
        }
        for title, check in checks.items():
            yield checked(title, check)
        yield from measurements(plan, folder)


def checked(title: str, check: Callable[[], str]) -> Line:
    """Run a check, which returns a remark, or nothing where it does not apply."""
    try:
        remark = check()
    except (Failure, RuntimeError) as error:
        reason = " ".join(str(error).split())
        return Line(name=title, result="FAILED", about=f"{reason:.300}")
    return Line(name=title, result="ok" if remark else "left out", about=remark or "does not apply to this device")


def attention(plan: Plan) -> str:
    """Train on a batch in bf16 with no other implementation of attention than FlashAttention."""
    if not plan.is_cuda or fastest_precision(plan.device) != "bf16":
        return ""
    shape = ModelConfig.from_preset(plan.measured_preset, vocab_size=100)
    model = GPT.initialize(shape, seed=0, device=plan.device)
    model.set_training_dtype(torch.bfloat16)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        model(torch.zeros(2, shape.block_size, dtype=torch.int64, device=plan.device)).sum().backward()
    torch.cuda.synchronize()
    return "FlashAttention"


def waiting(plan: Plan, folder: Path) -> str:
    """Run training steps while PyTorch raises an error for whatever makes the CPU wait."""
    if not plan.is_cuda:
        return ""
    for recipe in ("classic", "fast"):
        compute = prepare(options(plan, folder, recipe=recipe, accumulate=2, dropout=0.1), plan.preset)
        compute.train_step(0, 1e-3).cpu()
        torch.cuda.set_sync_debug_mode("error")
        try:
            losses = [compute.train_step(iteration, 1e-3) for iteration in (1, 2, 3)]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.stack(losses).cpu()
    return "as far as PyTorch notices"


def curve_on_cpu(plan: Plan, folder: Path) -> str:
    """Compare with the CPU, in float32."""
    asked = options(plan, folder, iterations=plan.curve_on_cpu)
    return within(CLOSE, losses(asked, plan.preset), losses(replace(asked, device="cpu"), plan.preset))


def curve_in_bf16(plan: Plan, folder: Path) -> str:
    """Compare bf16 with float32, both on the GPU."""
    if fastest_precision(plan.device) != "bf16":
        return ""
    asked = options(plan, folder, iterations=plan.curve)
    return within(ROUNDED, losses(replace(asked, precision="bf16"), plan.preset), losses(asked, plan.preset))


def resuming(plan: Plan, folder: Path) -> str:
    """Compare a run with one that was stopped and resumed."""
    same = True
    for recipe in ("classic", "fast"):
        asked = options(plan, folder, recipe=recipe, iterations=plan.resumed, dropout=0.1)
        whole = losses(asked, plan.preset)
        contents = asked.latest.read_bytes()
        middle = plan.resumed // 2 + 1
        parts = losses(asked, plan.preset, stop_after=middle) + losses(asked, plan.preset, resume=True)
        within(CLOSE, parts, whole)
        same &= asked.latest.read_bytes() == contents
    return "the same bytes" if same else "the same losses, other bytes"


def exporting(plan: Plan, folder: Path) -> str:
    """Export the newest checkpoint, and compare what generates text with the network on the GPU."""
    asked = options(plan, folder, iterations=plan.resumed)
    losses(asked, plan.preset)
    found = inspect_checkpoint(asked.latest)
    export_model(found, folder / "export", "hf")
    exported, _ = read_export(folder / "export")
    if not np.array_equal(exported.weights, read_weights(asked.latest, found.config)):
        raise Failure("the exported weights differ")
    model = GPT(found.config, torch.from_numpy(exported.weights).to(plan.device)).eval()
    ids = np.arange(2 * found.config.block_size).reshape(2, -1) % found.config.vocab_size
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids).to(plan.device)).cpu()
    logits = load(asked.latest).logits(ids.tolist())
    return within(CLOSE, logits.flatten().tolist(), expected.flatten().tolist())


def measurements(plan: Plan, folder: Path) -> Iterator[Line]:
    """Yield ms and tokens per second of training iterations."""
    fastest = fastest_precision(plan.device)
    for recipe, precision, batch_size in [
        *(("classic", fastest, size) for size in plan.batch_sizes),
        *((("classic", "float32", plan.batch_sizes[0]),) if fastest != "float32" else ()),
        ("fast", fastest, plan.batch_sizes[0]),
    ]:
        title = f"training iteration, preset {plan.measured_preset}, {recipe}, {precision}, batch size {batch_size}"
        asked = options(plan, folder, recipe=recipe, precision=precision, batch_size=batch_size, dropout=0.1)
        try:
            ms, tokens = iteration_ms(plan, asked)
        except torch.OutOfMemoryError:
            yield Line(name=title, result="left out", about="out of memory")
            continue
        memory = f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if plan.is_cuda else ""
        yield Line(name=title, result=f"{ms:.1f} ms", about=f"{tokens / ms * 1e3:,.0f} tokens/s{memory}")


def iteration_ms(plan: Plan, asked: TrainOptions) -> tuple[float, int]:
    """Return the mean ms of an iteration, and its tokens."""
    compute = prepare(asked, plan.measured_preset)
    if plan.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    for iteration in range(plan.warm_up):
        compute.train_step(iteration, 1e-4).cpu()
    started = time.perf_counter()
    steps = [compute.train_step(plan.warm_up + iteration, 1e-4) for iteration in range(plan.measured)]
    torch.stack(steps).cpu()  # waits for all of them
    ms = (time.perf_counter() - started) * 1e3 / plan.measured
    return ms, asked.batch_size * ModelConfig.from_preset(plan.measured_preset, vocab_size=2).block_size


def options(plan: Plan, folder: Path, **changes: object) -> TrainOptions:
    """Return options of a short run on the device."""
    asked = TrainOptions(iterations=10, batch_size=8, dropout=0.0, device=plan.device, prefix=folder / "gpu")
    return replace(asked, **changes)  # type: ignore[arg-type]


def prepare(asked: TrainOptions, preset: str) -> Compute:
    """Return the training steps of a new model."""
    text = Text.find(None)
    tokenizer = CharTokenizer.from_text(text)
    shape = ModelConfig.from_preset(preset, vocab_size=tokenizer.vocab_size)
    model = GPT.initialize(shape, seed=asked.seed)
    state = RunState.start(asked, shape, model.flat, tokenizer)
    return Compute(asked, Corpus(text, tokenizer, shape.block_size), state, World(device=asked.device))


def losses(asked: TrainOptions, preset: str, *, stop_after: int | None = None, resume: bool = False) -> list[float]:
    """Train, and return the training loss of each iteration."""
    text = Text.find(None)
    if resume:
        trainer = Trainer.resume(asked, text, inspect_checkpoint(asked.latest))
    else:
        trainer = Trainer.start(asked, text, lambda size: ModelConfig.from_preset(preset, vocab_size=size))
    found: list[float] = []
    trainer.run(lambda step: found.append(step.loss), lambda: trainer.next_iteration == stop_after)
    return found


def within(limit: float, found: list[float], expected: list[float]) -> str:
    """Return the largest difference in words; raise Failure above the limit."""
    if len(found) != len(expected):
        raise Failure(f"{len(found)} values instead of {len(expected)}")
    largest = float(np.abs(np.subtract(found, expected)).max())
    if not largest <= limit:
        raise Failure(f"values differ by up to {largest:.2g}, more than {limit:g}")
    return f"largest difference {largest:.2g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
