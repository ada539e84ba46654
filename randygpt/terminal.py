"""Standard streams: text printed on a terminal cannot control it, and closed streams are opened. Replaces sys streams.

Names, errors and generated text come from strangers. ESC, BEL, C1 and bidirectional control characters would move the
cursor, change the clipboard or title, or show text in another order. On a terminal they are escaped as in JSON, so that
JSON stays valid; pipes and files get the bytes as they are.
"""

import io
import os
import sys
import unicodedata
from typing import Literal, TextIO

_CONTROLS = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode categories
_JOINERS = "\u200c\u200d"  # they only shape letters and emoji
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_FIRST_FREE = 3  # descriptor after stdin, stdout and stderr


class _Escapes(dict[int, str]):
    """Table for `str.translate` that escapes control characters, except those kept."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if unicodedata.category(char) not in _CONTROLS:
            return char
        if char in _SHORT:
            return _SHORT[char]
        units = char.encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def escape_controls(text: str, *, kept: str = "\n\t") -> str:
    r"""Return text with control characters as `\uXXXX` or `\n`, except those in `kept` and joiners of letters."""
    return text if text.isprintable() else text.translate(_Escapes({ord(char): char for char in kept + _JOINERS}))


def escape_line(text: str) -> str:
    """Return text with all control characters escaped, newlines too, so that it cannot forge another line."""
    return escape_controls(text, kept="")


class _Terminal(io.TextIOWrapper):
    """Stream to a terminal that escapes control characters."""

    def write(self, text: str, /) -> int:
        super().write(escape_controls(text))
        return len(text)


def prepare_streams() -> None:
    """Make the standard streams safe: open closed ones on /dev/null, and escape what is printed on a terminal.

    A file opened later would otherwise get the number of a closed stream, and output of this or a child process would
    be written into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < _FIRST_FREE:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or _open_text(0, "r")
    sys.stdout, sys.stderr = _output(sys.stdout, 1), _output(sys.stderr, 2)


def _output(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:
        return _open_text(descriptor, "w")
    if stream.isatty():
        binary = open(descriptor, "wb", closefd=False)  # noqa: SIM115 (open until the process ends)
        return _Terminal(binary, stream.encoding, "backslashreplace", line_buffering=True)
    if isinstance(stream, io.TextIOWrapper):  # a file name may not be text, and the encoding may lack characters
        stream.reconfigure(errors="backslashreplace")
    return stream


def _open_text(descriptor: int, mode: Literal["r", "w"]) -> TextIO:
    return open(descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False)


def discard_output(descriptor: int) -> None:
    """Discard all later output of a stream that cannot be written."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
