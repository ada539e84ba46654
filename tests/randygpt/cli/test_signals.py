"""SIGINT and SIGTERM: what a command saves, and its exit code."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.command import TIMEOUT_S, background, environment
from support.models import TEXT
from support.output import killed_on_error, read_until
from support.relays import find_free_port

from randygpt.checkpoint.sidecar import inspect_checkpoint
from randygpt.cli import signals
from randygpt.cli.main import run
from randygpt.cli.train_report import describe_files
from randygpt.training import device
from randygpt.training.options import TrainOptions

SIGNALS = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
TINY = (
    "train",
    "--recipe",
    "classic",
    "--dim",
    "16",
    "--heads",
    "2",
    "--layers",
    "2",
    "--block",
    "32",
    "--batch",
    "2",
    "--quiet",
)
FILES = ("checkpoint.bin", "checkpoint_best.bin", "checkpoint.json", "checkpoint_best.json")


@pytest.fixture
def folder(at_home: Path) -> Path:
    (at_home / "train.txt").write_text(TEXT, encoding="utf-8")
    return at_home


@contextmanager
def signalled(numbers: tuple[int, ...], condition: Callable[[], bool]) -> Iterator[None]:
    """Send this process signals once the condition holds, and no later than the end of the block."""
    ended = threading.Event()

    def send() -> None:
        while not condition():
            if ended.wait(0.005):
                return
        for number in numbers:
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# --- relay


@SIGNALS
def test_signal_ends_relay_with_its_exit_code(tmp_path: Path, free_port: int, number: int, code: int) -> None:
    with background(tmp_path, "relay", "--port", free_port) as (process, _):
        process.send_signal(number)
        assert process.wait(timeout=TIMEOUT_S) == code


@pytest.mark.full
def test_relay_interrupted_as_it_starts_does_not_crash(tmp_path: Path) -> None:
    """One in ten such relays ended by a segmentation fault: a thread of the relay called Python as it unloaded."""
    for _ in range(30):
        with background(tmp_path, "relay", "--port", find_free_port()) as (process, _):
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=TIMEOUT_S) == 130


@pytest.mark.full
def test_relay_started_by_a_script_can_be_terminated(tmp_path: Path, free_port: int) -> None:
    """A shell starts background processes with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with background(tmp_path, "relay", "--port", free_port) as (process, _):
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=TIMEOUT_S) == 143
    finally:
        signal.signal(signal.SIGINT, before)


# --- training


@SIGNALS
@pytest.mark.usefixtures("folder")
def test_signal_ends_training_with_both_files_saved(number: int, code: int) -> None:
    metrics = Path("checkpoint.metrics.jsonl")
    with signalled((number,), lambda: metrics.is_file() and metrics.stat().st_size > 0):
        assert run([*TINY, "--iters", "100000"]) == code
    assert Path("checkpoint.bin").stat().st_size == Path("checkpoint_best.bin").stat().st_size > 0
    iterations = len(metrics.read_text().splitlines())
    assert json.loads(Path("checkpoint.json").read_text())["iteration"] == iterations - 1
    assert run([*TINY, "--iters", str(iterations), "--resume", "checkpoint.bin"]) == 0


@pytest.mark.usefixtures("folder")
def test_training_ends_after_signal_in_weakref_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops exceptions raised in such callbacks, so the handler's KeyboardInterrupt is lost."""
    find_device, dropped = device.find_device, []

    class Thing:
        pass

    def find_and_lose(name: str) -> str:
        thing = Thing()
        reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        del thing
        assert reference() is None
        return find_device(name)

    monkeypatch.setattr(device, "find_device", find_and_lose)
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: dropped.append(raised.exc_type))
    assert run([*TINY, "--iters", "100000"]) == 143
    assert dropped == [KeyboardInterrupt]
    assert inspect_checkpoint(Path("checkpoint.bin")).header.iteration == 0


@pytest.mark.usefixtures("folder")
def test_signals_within_a_second_are_one_wish(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C reaches the whole process group, and torchrun then sends SIGTERM."""
    metrics = Path("checkpoint.metrics.jsonl")
    both = (signal.SIGINT, signal.SIGTERM)
    with signalled(both, lambda: metrics.is_file() and metrics.stat().st_size > 0):
        assert run([*TINY[:-1], "--iters", "100000"]) == 130  # not quiet
    found = inspect_checkpoint(Path("checkpoint.bin"))
    assert found.header.iteration > 0
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert sum("finishing this step, then saving" in line for line in lines) == 1
    assert lines[-2:] == ["resume  randygpt train --resume", "interrupted"]
    assert output.out.startswith(f"stopped at iteration {found.header.iteration + 1:,} of 100,000 (")
    assert found.sidecar is not None
    options = TrainOptions(iterations=100000)
    expected = f"not saved; on disk: checkpoint.bin (iteration {found.header.iteration + 1:,})"
    assert describe_files(options).startswith(expected)


@pytest.mark.full
@SIGNALS
def test_second_signal_ends_training_at_once(tmp_path: Path, number: int, code: int) -> None:
    """In the middle of the first step. The progress bar shows that training has begun."""
    (tmp_path / "train.txt").write_text(TEXT, encoding="utf-8")
    words = ("train", "--preset", "xs", "--batch", "40000", "--accumulate", "10000", "--iters", "1")
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "randygpt", *words],
        cwd=tmp_path,
        env=environment(tmp_path) | {"TERM": "xterm"},
        stderr=theirs,
    )
    with killed_on_error(process):
        os.close(theirs)
        read_until(ours, b"0/1")
        process.send_signal(number)
        read_until(ours, b"again")
        time.sleep(signals.SAME_WISH_S)
        process.send_signal(number)
        rest = read_until(ours, None)
        assert b"not saved; on disk: no checkpoint" in rest
        assert b"Traceback" not in rest
    os.close(ours)
    assert process.returncode == code
    assert not list(tmp_path.glob("*.bin"))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.full)])
def test_resume_after_kill_matches_unbroken_run(folder: Path, number: int) -> None:
    command = (*TINY, "--iters", "100")
    assert run([*command]) == 0
    expected = {name: Path(name).read_bytes() for name in FILES}
    for path in folder.glob("checkpoint*"):
        path.unlink()
    best = Path("checkpoint_best.bin")
    if number == signal.SIGTERM:
        with signalled((number,), best.is_file):
            assert run([*command]) == 143
    else:
        kill_once(best.is_file, folder, *command)
    newest = "checkpoint.bin" if Path("checkpoint.bin").is_file() else best.name
    assert 11 <= inspect_checkpoint(Path(newest)).header.iteration < 99
    assert run([*command, "--resume", newest]) == 0
    assert {name: Path(name).read_bytes() for name in FILES} == expected


def kill_once(condition: Callable[[], bool], folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "randygpt", *words]
    deadline = time.monotonic() + TIMEOUT_S
    process = subprocess.Popen(command, cwd=folder, env=environment(folder))
    with killed_on_error(process):
        while not condition():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        assert process.wait(timeout=TIMEOUT_S) == -signal.SIGKILL
