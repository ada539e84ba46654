"""The corpus of the fuzzer as tests, the oracle, and short runs of the fuzzer itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.oracle import MAX_CPU_S, BrokenPromise, check, same
from fuzz.runner import CORPUS
from fuzz.targets import TARGETS

from relay_client.errors import InvalidEvent

REPOSITORY = Path(__file__).parents[2]
FAULTY = """
from pathlib import Path
from fuzz.runner import fuzz

def target(data: bytes) -> None:
    if data[:1] == b"a":
        raise KeyError("found")

result = fuzz("faulty", target, seconds=20, seed=1)
assert "KeyError: 'found'" in result.output, result.output
print(result.finding.read_bytes()[:1])
"""


_HEAVY = dict.fromkeys(("safetensors", "http-connection", "blossom-connection"), pytest.mark.full)  # torch, threads


@pytest.fixture
def environment() -> dict[str, str]:
    if not (REPOSITORY / ".venv-fuzz" / "atheris").is_dir():
        pytest.skip("atheris is not installed")
    return os.environ | {"PYTHONPATH": f"{REPOSITORY / '.venv-fuzz'}:{REPOSITORY / 'tests'}:{REPOSITORY}"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=_HEAVY.get(name, ())) for name in TARGETS])
def test_corpus_is_read_or_refused(name: str) -> None:
    paths = sorted((CORPUS / name).iterdir())
    assert paths
    for path in paths:
        check(TARGETS[name], path.read_bytes(), bounded=False)


def test_each_folder_of_the_corpus_has_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


def test_error_of_ours_passes() -> None:
    def target(_data: bytes) -> None:
        raise InvalidEvent("no event")

    check(target, b"")


def test_other_error_does_not_pass() -> None:
    with pytest.raises(ZeroDivisionError):
        check(lambda _data: 1 // 0, b"")


def test_slow_input_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0, 2 * MAX_CPU_S))
    monkeypatch.setattr("time.thread_time", lambda: next(times))
    with pytest.raises(BrokenPromise, match="CPU time"):
        check(len, b"")


def test_changed_round_trip_does_not_pass() -> None:
    with pytest.raises(BrokenPromise, match="round trip"):
        check(lambda data: same(data, data.lower()), b"A")


@pytest.mark.full
def test_every_target_is_fuzzed(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fuzz.runner", "--seconds", "25"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"{name} " in done.stdout for name in TARGETS)


@pytest.mark.full
def test_input_that_fails_is_saved(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", FAULTY]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "b'a'\n", done.stdout + done.stderr
