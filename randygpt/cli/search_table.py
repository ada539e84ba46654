"""Results of a search as a table of 80 columns, or of the terminal's width. Reads the clock."""

import re
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from randygpt.cli.output import format_size

if TYPE_CHECKING:
    from distribution.search_results import FoundModel
    from distribution.trust_list import TrustList

_LEAST_WIDTH = 80
_COLUMNS = (  # heading, width, aligned to the right
    ("MODEL", 15, False),
    ("AUTHOR", 18, False),
    ("PARAMS", 6, True),
    ("SIZE", 9, True),
    ("BITS", 5, True),
    ("LICENSE", 8, False),
    ("AGE", 3, True),
    ("FROM", 6, False),
)
_LEGEND = {"*": "trusted", "+": "followed", "!": "named like a trusted author, or a model of one"}
_BASE_DIGITS = 6
_LICENSE = re.compile("[A-Za-z0-9.+-]+")  # an SPDX identifier
_UNITS = ((365 * 86_400, "y"), (7 * 86_400, "w"), (86_400, "d"), (3_600, "h"), (60, "m"))
_MAX_UNITS = 99


def search_table(models: Sequence["FoundModel"], trusted: "TrustList") -> str:
    """Return a line for each model, below a heading, and what the marks in the first column mean."""
    now, wider = int(time.time()), max(0, _width() - _LEAST_WIDTH)
    rows = [("", tuple(heading for heading, _, _ in _COLUMNS))]
    rows += [(_mark(model, trusted), _cells(model, trusted, now)) for model in models]
    lines = [f"{mark:1} {_line(cells, wider)}".rstrip() for mark, cells in rows]
    legend = [f"{mark} {meaning}" for mark, meaning in _LEGEND.items() if any(mark == used for used, _ in rows)]
    return "\n".join([*lines, *([", ".join(legend)] if legend else [])])


def _cells(model: "FoundModel", trusted: "TrustList", now: int) -> tuple[str, ...]:
    claims = model.claims
    bits = claims.bits_per_byte
    return (
        f"{model.name}@{model.version}",
        _author(model.author, trusted, _COLUMNS[1][1]),
        format_count(claims.parameters) if claims.parameters else "-",
        format_size(model.size),
        f"{bits:.3f}"[:5] if bits is not None and bits < 100 else "-",  # noqa: PLR2004 (no model is so bad)
        _license(claims.license),
        _age(now - model.created_at),
        model.base.hex()[:_BASE_DIGITS] if model.base else "",
    )


def _author(author: bytes, trusted: "TrustList", width: int) -> str:
    """Return the name on the trust list, else the claimed name and the end of the npub, else the npub's ends."""
    from relay_client.nip19 import short_npub

    claim, npub = trusted.claims.get(author, ""), short_npub(author)
    if author in trusted.names or not claim or trusted.imitated(author):
        return trusted.names.get(author) or npub
    ending = f'"? {npub[-5:]}'
    return f'"{_cut(claim, width - 1 - cell_len(ending))}{ending}'


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…"


def _mark(model: "FoundModel", trusted: "TrustList") -> str:
    from distribution.search_results import Standing

    if model.resembles or trusted.imitated(model.author):
        return "!"
    return {Standing.TRUSTED: "*", Standing.FOLLOWED: "+", Standing.STRANGER: ""}[model.standing]


def _line(cells: Sequence[str], wider: int) -> str:
    """Return cells in columns, the first of which is `wider`; texts that do not fit are cut."""
    parts = []
    for number, (text, (_, width, to_the_right)) in enumerate(zip(cells, _COLUMNS, strict=True)):
        width += 0 if number else wider  # noqa: PLW2901 (the first column)
        cut = _cut(text, width)
        padding = " " * (width - cell_len(cut))
        parts.append(f"{padding}{cut}" if to_the_right else f"{cut}{padding}")
    return " ".join(parts)


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _LEAST_WIDTH


def _license(text: str) -> str:
    """Return a license identifier; a stranger's other text is not shown in a table."""
    return text if not text or _LICENSE.fullmatch(text) else "other"


def format_count(count: int) -> str:
    """Return a number of parameters in at most six characters: 11.2K, 10.7M."""
    for factor, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= 0.99995 * factor:  # 999.95K would be printed as 1000.0K
            return f"{count / factor:.1f}{unit}"
    return str(count)


def _age(seconds: int) -> str:
    """Return an age in at most three characters; what is dated in the future is new."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{min(seconds // length, _MAX_UNITS)}{unit}"
    return "now"
