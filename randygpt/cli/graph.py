"""Graph of an ancestry as text, one line for each release, like `git log --graph`. No I/O."""

from collections.abc import Collection, Iterable, Mapping, Sequence

ASCII = str.maketrans("│─├┤┬┴┼╮╯", "|-||--+\\/")  # for output that is not UTF-8

Lanes = list[bytes | None]  # key that each column leads to; None: the column is free


def draw_graph(parents: Mapping[bytes, Sequence[bytes]]) -> list[tuple[str, bytes | None]]:
    """Return the lines of a graph: what to draw, and the key that the line belongs to, None between two keys.

    Args:
        parents: Ancestors of each key, descendants first, as `distribution.ancestry` sorts them.
    """
    lanes: Lanes = []
    lines: list[tuple[str, bytes | None]] = []
    for key, ancestors in parents.items():
        if key not in lanes:
            _claim(lanes, key, from_column=0)
        first, *others = [column for column, awaited in enumerate(lanes) if awaited == key]
        if others:
            for column in others:
                lanes[column] = None
            lines.append((_connector(lanes, first, ended=others), None))
        lines.append((_row(lanes, first), key))
        following = [each for each in ancestors if each in parents]
        lanes[first] = following[0] if following else None
        kept = {each: lanes.index(each) for each in following[1:] if each in lanes}
        started = [_claim(lanes, each, from_column=first) for each in following[1:] if each not in kept]
        if kept or started:
            lines.append((_connector(lanes, first, kept=kept.values(), started=started), None))
    return lines


def _claim(lanes: Lanes, key: bytes, *, from_column: int) -> int:
    """Let the first free column from `from_column` on lead to a key, and return its index."""
    if None not in lanes[from_column:]:
        lanes.append(None)
    column = lanes.index(None, from_column)
    lanes[column] = key
    return column


def _row(lanes: Lanes, column: int) -> str:
    marks = ["*" if each == column else "│" if awaited else " " for each, awaited in enumerate(lanes)]
    return " ".join(marks).rstrip()


def _connector(
    lanes: Lanes,
    column: int,
    *,
    kept: Collection[int] = (),
    started: Collection[int] = (),
    ended: Collection[int] = (),
) -> str:
    """Return the line that joins a column with others: those that go on, those that begin, and those that end."""
    joined = {column, *kept, *started, *ended}
    left, right = min(joined), max(joined)
    text = ""
    for each in range(max(len(lanes), right + 1)):
        inside = left <= each <= right
        if each == column or each in kept:
            mark = "├" if each == left else "┤" if each == right else "┼"
        elif each in started:
            mark = "╮" if each == right else "┬"
        elif each in ended:
            mark = "╯" if each == right else "┴"
        else:
            mark = "│" if lanes[each] else "─" if inside else " "
        text += mark + ("─" if inside and each < right else " ")
    return text.rstrip()


def label_graph(lines: Iterable[tuple[str, bytes | None]], texts: Mapping[bytes, str]) -> str:
    """Return the graph with the text of each key on the right of it."""
    return "\n".join(f"{drawn}  {texts[key]}" if key is not None else drawn for drawn, key in lines)
