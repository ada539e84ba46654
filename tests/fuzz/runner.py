"""Runner of `make fuzz`: coverage-guided fuzzing of every target in turn with atheris (libFuzzer), within a time limit.

Each target runs in a child process, so that a crash or a hang ends only that one. `--input FILE` repeats one saved
input in this process, without atheris.
"""

import argparse
import contextlib
import hashlib
import os
import re
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
FINDINGS = Path("fuzz-findings")
MAX_INPUT = 4096  # bytes; no parser needs more to reach all of its branches
HANG_S = 20  # of wall-clock time for one input
MAX_RSS_MB = 1024
_PACKAGES = ["relay_client", "distribution", "randygpt", "server", "fuzz"]
_COMMAND = "PYTHONPATH=tests:. .venv/bin/python -m fuzz.runner"
_EXECUTED = re.compile(rb"^(?:#|stat::number_of_executed_units: +)([0-9]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one target."""

    name: str
    inputs: int
    seconds: float
    finding: Path | None = None  # the input that failed, as it was saved
    output: str = ""  # of the child, if it failed

    @property
    def is_good(self) -> bool:
        """True if no input failed and some ran."""
        return not self.output


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the targets; return 0 if all inputs passed, else 1."""
    parser = argparse.ArgumentParser(prog="fuzz.runner", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--seed", type=lambda text: int(text or 0), default=0, help="0: a random one")
    parser.add_argument("--only", default="", help="targets whose name contains this text")
    parser.add_argument("--grow", type=Path, help="folder for inputs that reach new code, one folder a target")
    parser.add_argument("--input", type=Path, help="repeat this one input with the one target of --only")
    given = parser.parse_args(arguments)
    if given.input:
        return _repeat(given.only, given.input)
    with _instrumented():
        from fuzz.targets import TARGETS  # noqa: PLC0415 (atheris changes what is imported here)
    names = [name for name in TARGETS if given.only in name]
    if not names:
        parser.error(f"no target has {given.only!r} in its name: {', '.join(TARGETS)}")
    seed = given.seed or secrets.randbelow(2**31 - 1) + 1
    print(f"seed {seed}, {len(names)} targets, {given.seconds:g} s", flush=True)
    results = []
    for name in names:
        grow = given.grow / name if given.grow else None
        results.append(fuzz(name, TARGETS[name], seconds=given.seconds / len(names), seed=seed, grow=grow))
        _report(results[-1], seed)
    failed = sum(not result.is_good for result in results)
    print(f"{sum(result.inputs for result in results):,} inputs, {failed} of {len(names)} targets failed")
    return 1 if failed else 0


def _report(result: Result, seed: int) -> None:
    verdict = "ok" if result.is_good else "FAILED"
    print(f"{result.name:24} {result.inputs:>10,} inputs {result.seconds:6.1f} s  {verdict}", flush=True)
    if not result.is_good:
        again = f"--only {result.name} --input {result.finding}" if result.finding else f"--only {result.name}"
        print(f"{result.output}\nrepeat it with: {_COMMAND} {again} --seed {seed}", flush=True)


@contextlib.contextmanager
def _instrumented() -> Iterator[None]:
    """Let what is imported here report its coverage; exits with a message where atheris is missing."""
    try:
        import atheris  # noqa: PLC0415 (repeating an input does without)
    except ImportError:
        sys.exit("atheris is missing: run make fuzz, which installs it into .venv-fuzz")
    with (
        Path(os.devnull).open("w") as quiet,
        contextlib.redirect_stderr(quiet),  # atheris names every module
        atheris.instrument_imports(include=_PACKAGES),
    ):
        yield


def _repeat(name: str, path: Path) -> int:
    from fuzz.oracle import check  # noqa: PLC0415 (not before the imports are instrumented)
    from fuzz.targets import TARGETS  # noqa: PLC0415

    target, data = TARGETS[name], path.read_bytes()
    with contextlib.suppress(Exception):
        check(target, data, bounded=False)  # the first time imports modules
    check(target, data)
    print(f"{name}: {path} passes")
    return 0


def fuzz(
    name: str, target: Callable[[bytes], object], *, seconds: float, seed: int, grow: Path | None = None
) -> Result:
    """Fuzz one target in a child process.

    Args:
        name: Its name, and that of its folder in the corpus.
        target: Function that reads the bytes.
        seconds: How long.
        seed: Seed of the mutations.
        grow: Folder for inputs that reach new code; None: a temporary one.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as raw_scratch:
        scratch = Path(raw_scratch)
        found, log = grow or scratch / "corpus", scratch / "log"
        found.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _fuzz_here(target, log, [str(found), *_corpus(name)], scratch, seed)
        status = _wait(child, seconds)
        output = log.read_bytes()
        counted = max(map(int, _EXECUTED.findall(output)), default=0)
        saved = [path for path in scratch.iterdir() if path.name.startswith(("crash-", "timeout-", "oom-"))]
        finding = _save(name, saved[0].read_bytes()) if saved else None
    failed = status != 0 or finding is not None
    return Result(
        name=name,
        inputs=counted,
        seconds=time.monotonic() - start,
        finding=finding,
        output=(output[-6000:].decode(errors="replace") or f"exit status {status}") if failed else "",
    )


def _corpus(name: str) -> list[str]:
    return [str(CORPUS / name)] if (CORPUS / name).is_dir() else []


def _fuzz_here(target: Callable[[bytes], object], log: Path, corpora: list[str], scratch: Path, seed: int) -> None:
    """Run libFuzzer in this process, which ends with it."""
    import atheris  # noqa: PLC0415 (only here)
    from fuzz.mutator import mutate  # noqa: PLC0415
    from fuzz.oracle import check  # noqa: PLC0415

    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until libFuzzer ends at this signal
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    for folder in corpora:
        for path in sorted(Path(folder).iterdir()):
            with contextlib.suppress(Exception):  # imports modules and fills caches; it is run again below
                check(target, path.read_bytes(), bounded=False)

    def test_one_input(data: bytes) -> None:
        try:
            check(target, data)
        except Exception:
            (scratch / "crash-input").write_bytes(data)
            raise

    options = {
        "seed": seed,
        "max_len": MAX_INPUT,
        "timeout": HANG_S,
        "rss_limit_mb": MAX_RSS_MB,
        "artifact_prefix": f"{scratch}/",
        "print_final_stats": 1,
        "reload": 0,
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup(["fuzz", *flags, *corpora], test_one_input, custom_mutator=mutate)
    try:
        atheris.Fuzz()
    finally:
        os._exit(99)  # libFuzzer has ended the process before


def _wait(child: int, seconds: float) -> int:
    """Let a child run for some seconds, and return its exit code; kill it if it does not end then."""
    start = time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        taken = time.monotonic() - start
        if taken > seconds:
            os.kill(child, signal.SIGUSR1 if taken < seconds + 2 * HANG_S else signal.SIGKILL)
        time.sleep(0.05)


def _save(name: str, data: bytes) -> Path:
    FINDINGS.mkdir(exist_ok=True)
    path = FINDINGS / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    sys.exit(main())
