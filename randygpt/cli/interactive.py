"""Interactive mode of `randygpt generate`: prompts by line, from a terminal with line editing, or from a pipe."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator, Sequence

from randygpt.cli.output import print_stderr, write
from randygpt.cli.signals import was_terminated

_MARK = "> "


def generate_interactively(
    continue_text: Callable[[str], Iterator[str]], prompts: Sequence[str], *, quiet: bool
) -> None:
    """Print the completions of some prompts, then of each line of standard input.

    An empty line continues the last text. On a terminal, Ctrl-C stops the text or clears the line, and Ctrl-D leaves;
    elsewhere Ctrl-C ends the command.

    Args:
        continue_text: Yields the text that continues a prompt.
        prompts: Prompts to begin with.
        quiet: Do not explain the keys.
    """
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if is_terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (gives `input` line editing and a history)
        if not quiet:
            print_stderr("Ctrl-C stops the text, Ctrl-D leaves; an empty line continues the last text")
    pending, text = list(prompts), ""
    while True:
        try:
            line = pending.pop(0) if pending else _read_line(_MARK if is_terminal else "")
            if line is None:
                return
            text = line or text
            for part in continue_text(text):
                text += part
                if not write(part):
                    return
            write("\n")
        except KeyboardInterrupt:
            if was_terminated() or not is_terminal:
                raise
            write("\n")


def _read_line(mark: str) -> str | None:
    """Return the next line of standard input, None at its end."""
    try:
        return input(mark)
    except EOFError:
        if mark:
            write("\n")
        return None
