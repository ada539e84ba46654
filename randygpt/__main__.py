"""`python -m randygpt`, and the command `randygpt`."""

import io
import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # Products with one row are too small to share, and OpenBLAS's threads wait for work in a loop. It reads this as it
    # is loaded.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name need not be text, nor a terminal know all letters
            stream.reconfigure(errors="backslashreplace")
    from randygpt.cli.main import run  # noqa: PLC0415

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
