"""Entry point of `python -m randygpt` and of the command `randygpt`.

Python puts the current folder on the import path for `-m`, and anybody may have written what is in it. So it comes off
the path before anything that Python has not loaded by itself is imported, and the other packages must be the ones that
were installed together with this one.
"""

import contextlib
import os
import sys
from importlib.util import find_spec

_INSTALLED_IN = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 (pathlib is not loaded yet)
_PACKAGES = ("relay_client", "distribution", "server")
_USAGE_ERROR = 2
_SPINS = "10000"  # of a waiting OpenMP thread before it sleeps; measured by benchmarks/rows_neighbour.py
_SPIN_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")  # GNU's and Intel's OpenMP


def main() -> None:
    """Run the command line and end the process with its exit code."""
    _limit_waiting_threads()
    from randygpt.terminal import prepare_streams  # noqa: PLC0415 (after the current folder is off the path)

    prepare_streams()
    if problem := _shadowed_package():
        sys.stderr.write(f"randygpt: {problem}\n")
        sys.exit(_USAGE_ERROR)
    from randygpt.cli.main import run  # noqa: PLC0415

    _end(run(sys.argv[1:]))


def _limit_waiting_threads() -> None:
    """Limit how long threads of libraries wait in a loop, where the user has not. They read this as they are loaded."""
    # Products with one row are too small to share between OpenBLAS's threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # With the default of GNU OpenMP, which torch bundles, one busy process on one of two cores makes a training
    # iteration ten times slower.
    if not any(name in os.environ for name in _SPIN_SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def _end(code: int) -> None:
    """End the process; at once if it ran the embedded relay, whose threads crash if they call Python as it unloads."""
    if "relay_client.local_relay" in sys.modules:
        with contextlib.suppress(OSError):  # the reader has closed them
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _drop_current_folder() -> None:
    """Take the folder that `-m` put at the head of the import path off it, unless this package is installed there."""
    try:
        is_current = os.path.samefile(sys.path[0], os.curdir)  # noqa: PTH121 (pathlib is not loaded yet)
    except OSError:  # the current folder was removed: Python did not put it there
        return
    if is_current and os.path.realpath(sys.path[0]) != _INSTALLED_IN:
        del sys.path[0]


def _shadowed_package() -> str | None:
    """Return an error message if a package is shadowed by another of the same name."""
    for name in _PACKAGES:
        spec = find_spec(name)
        origin = spec and spec.origin and os.path.realpath(spec.origin)
        if origin != os.path.join(_INSTALLED_IN, name, "__init__.py"):  # noqa: PTH118 (pathlib is not loaded yet)
            found = f"{origin} is found instead: rename that, or take it off PYTHONPATH" if origin else "it is missing"
            return f"the package {name} belongs in {_INSTALLED_IN}, and {found}"
    return None


if __name__ == "__main__":
    _drop_current_folder()
    main()
