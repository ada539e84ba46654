"""QR codes on a terminal, in half blocks: two rows of modules on each line. No I/O but the terminal's size and color.

Light modules are drawn, and dark ones are the background, so that a code without colors suits a dark terminal.
"""

import os
import sys

from rich.text import Text

from randygpt.cli.output import progress_console

_BORDER = 2  # modules of quiet zone; the standard's four do not fit 80 columns
_BLOCKS = {(True, True): " ", (True, False): "▄", (False, True): "▀", (False, False): "█"}  # (upper, lower) dark


def qr_lines(text: str) -> list[str]:
    """Return the lines of a QR code of `text`, in UTF-8 block characters."""
    import segno

    modules = segno.make_qr(text, error="l", boost_error=False).matrix_iter(border=_BORDER)
    rows = [[bool(module) for module in row] for row in modules]
    if len(rows) % 2:
        rows.append([True] * len(rows[0]))
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return ["".join(_BLOCKS[dark] for dark in zip(*pair, strict=True)) for pair in pairs]


def print_qr(text: str) -> bool:
    """Print a QR code of `text` on stderr if that is a terminal on which it fits; return whether it was printed."""
    lines = qr_lines(text)
    is_utf8 = (sys.stderr.encoding or "").lower() in {"utf-8", "utf8"}
    if not os.isatty(2) or not is_utf8 or os.get_terminal_size(2).columns < len(lines[0]):
        return False
    console = progress_console()
    for line in lines:
        console.print(Text(line, style="bright_white on black"), no_wrap=True, crop=False)
    return True
