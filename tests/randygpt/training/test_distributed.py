"""Gradient accumulation and data parallelism: the loss equals that of one process."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import world_probe
from support.command import TIMEOUT_S, environment, randygpt
from support.models import SHORT, TEXT
from support.output import killed_on_error, read_until
from torch import Tensor

from randygpt.checkpoint.rgpt import read_weights
from randygpt.checkpoint.sidecar import inspect_checkpoint
from randygpt.errors import CallerError
from randygpt.training.distributed import World, process_group
from randygpt.training.options import TrainOptions
from randygpt.training.trainer import Trainer

SHAPE = ("--dim", "16", "--heads", "2", "--layers", "2")
RUN = (*SHAPE, "--batch", "6", "--iters", "12", "--lr", "3e-3", "--precision", "float32")


def losses(folder: Path) -> list[float]:
    lines = (folder / "checkpoint.metrics.jsonl").read_bytes().splitlines()
    return [json.loads(line)["loss"] for line in lines] + [json.loads(lines[-1])["val_loss"]]


def weights(folder: Path, name: str = "checkpoint.bin") -> np.ndarray:
    return read_weights(folder / name, inspect_checkpoint(folder / name).config)


def put_text(folder: Path) -> Path:
    folder.mkdir()
    (folder / "train.txt").write_text(TEXT, encoding="utf-8")
    return folder


TRAIN = ("-m", "randygpt", "train")
PROBE = str(Path(world_probe.__file__))


def torchrun(folder: Path, *words: str) -> subprocess.Popen[str]:
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0")
    command = [sys.executable, *launcher, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    return subprocess.Popen(
        [*command, *words],
        cwd=folder,
        env=environment(folder) | {"GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.full
def test_two_processes_match_one(tmp_path: Path) -> None:
    """Dropout included: masks depend on the sequence, not on the process that computes them."""
    one, many = put_text(tmp_path / "one"), put_text(tmp_path / "many")
    done = randygpt(one, "train", *RUN)
    assert done.returncode == 0, done.stderr
    with torchrun(many, *TRAIN, *RUN) as process:
        printed, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    assert printed.count("finished at iteration 12 of 12") == 1  # only rank 0 prints
    np.testing.assert_allclose(losses(many), losses(one), rtol=0, atol=1e-5)
    np.testing.assert_allclose(weights(many), weights(one), rtol=0, atol=1e-4)
    names = {"train.txt", "checkpoint.bin", "checkpoint.json", "checkpoint_best.bin", "checkpoint_best.json"}
    assert {entry.name for entry in many.iterdir()} == names | {"checkpoint.metrics.jsonl"}


@pytest.mark.full
def test_stopped_run_on_two_processes_saves(tmp_path: Path) -> None:
    folder = put_text(tmp_path / "two")
    words = (*SHAPE, "--batch", "6", "--iters", "1000000", "--precision", "float32")
    process = torchrun(folder, *TRAIN, *words)
    with killed_on_error(process):
        assert process.stderr is not None
        read_until(process.stderr.fileno(), b"parameters")
        deadline = time.monotonic() + TIMEOUT_S
        while not (folder / "checkpoint_best.bin").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=TIMEOUT_S)
    header = inspect_checkpoint(folder / "checkpoint.bin").header
    assert header.iteration >= 24
    assert randygpt(folder, "train", "--resume", "--iters", header.iteration + 3, "--batch", "2").returncode == 0


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_gloo_thread_remains(tmp_path: Path) -> None:
    """A thread that frees a tensor during interpreter exit aborts the process."""
    with torchrun(tmp_path, PROBE) as process:
        printed, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    before, after = zip(*(json.loads(line) for line in printed.splitlines()), strict=True)
    assert len(after) == 2
    assert all(any("gloo" in name for name in names) for names in before)
    assert not any("gloo" in name for names in after for name in names)


def options(folder: Path, **changes: Any) -> TrainOptions:  # noqa: ANN401 (fields)
    folder.mkdir(exist_ok=True)
    made = TrainOptions(iterations=12, batch_size=6, max_lr=3e-3, prefix=folder / "checkpoint")
    return replace(made, **changes)


@pytest.mark.parametrize("accumulate", [4, 6])
def test_accumulation_matches_one_batch(tmp_path: Path, accumulate: int) -> None:
    for name, parts in (("whole", 1), ("parts", accumulate)):
        trainer = Trainer.start(options(tmp_path / name, accumulate=parts), TEXT, lambda _: SHORT)
        trainer.run(lambda _: None, lambda: False)
    np.testing.assert_allclose(losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 5, 50])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_shards_partition_the_batch(count: int, size: int) -> None:
    shards = [World(rank=rank, size=size).shard(count) for rank in range(size)]
    assert [piece for shard in shards for piece in shard] == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(("rank", "size"), [(0, 0), (1, 1), (-1, 2)])
def test_rank_must_be_below_the_world_size(rank: int, size: int) -> None:
    with pytest.raises(CallerError, match=f"rank {rank} is not below the number of processes, {size}"):
        World(rank=rank, size=size)


def test_world_size_without_an_address_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cluster managers also set WORLD_SIZE."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with process_group("cpu") as world:
        assert (world.rank, world.size) == (0, 1)


class _Second(World):
    """Rank 1 of two, which computes whole batches: rank 0 does not run."""

    def shard(self, count: int) -> range:
        return range(count)

    def all_reduce(self, tensor: Tensor) -> None:
        pass


def test_only_rank_0_writes(tmp_path: Path) -> None:
    world = _Second(rank=1, size=2)
    trainer = Trainer.start(options(tmp_path / "second"), TEXT, lambda _: SHORT, world=world)
    assert trainer.run(lambda _: None, lambda: False)
    assert trainer.next_iteration == 12
    assert not list((tmp_path / "second").iterdir())
