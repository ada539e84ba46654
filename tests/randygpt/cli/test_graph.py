"""Graphs of ancestries as text."""

import pytest

from randygpt.cli.graph import ASCII, draw_graph, label_graph

CHAIN = {"C": "B", "B": "A", "A": ""}
MERGE = {"M": "XY", "X": "B", "Y": "B", "B": ""}
THREE = {"M": "XYZ", "X": "B", "Y": "B", "Z": "B", "B": ""}
SECOND_ROUND = {"N": "VW", "V": "M", "W": "M", "M": "XY", "X": "B", "Y": "B", "B": ""}
CROSSING = {"M": "XYZ", "X": "P", "Y": "Q", "Z": "P", "P": "B", "Q": "B", "B": ""}
KEPT = {"M": "XYZ", "Y": "B", "X": "BZ", "Z": "B", "B": ""}
UNFINISHED = {"M": "XY", "X": "?", "Y": ""}


def drawn(parents: dict[str, str]) -> str:
    encoded = {key.encode(): [each.encode() for each in ancestors] for key, ancestors in parents.items()}
    return label_graph(draw_graph(encoded), {key: key.decode() for key in encoded})


@pytest.mark.parametrize(
    ("parents", "graph"),
    [
        (CHAIN, ["*  C", "*  B", "*  A"]),
        (MERGE, ["*  M", "├─╮", "* │  X", "│ *  Y", "├─╯", "*  B"]),
        (THREE, ["*  M", "├─┬─╮", "* │ │  X", "│ * │  Y", "│ │ *  Z", "├─┴─╯", "*  B"]),
        (
            SECOND_ROUND,
            ["*  N", "├─╮", "* │  V", "│ *  W", "├─╯", "*  M", "├─╮", "* │  X", "│ *  Y", "├─╯", "*  B"],
        ),
        (
            CROSSING,
            ["*  M", "├─┬─╮", "* │ │  X", "│ * │  Y", "│ │ *  Z", "├─│─╯", "* │  P", "│ *  Q", "├─╯", "*  B"],
        ),
        (KEPT, ["*  M", "├─┬─╮", "│ * │  Y", "* │ │  X", "├─│─┤", "│ │ *  Z", "├─┴─╯", "*  B"]),
        (UNFINISHED, ["*  M", "├─╮", "* │  X", "  *  Y"]),
    ],
    ids=["chain", "merge", "merge of three", "two rounds", "crossing lines", "line in use", "ancestor left out"],
)
def test_graph_is_drawn(parents: dict[str, str], graph: list[str]) -> None:
    assert drawn(parents) == "\n".join(graph)


def test_graph_without_unicode() -> None:
    assert drawn(KEPT).translate(ASCII).isascii()


def test_wide_merges_keep_one_line_for_each_release() -> None:
    wide = {"M": "abcdefghijklmnop", **dict.fromkeys("abcdefghijklmnop", "B"), "B": ""}
    lines = drawn(wide).splitlines()
    assert [line.split()[-1] for line in lines if "*" in line] == list(wide)
    assert max(map(len, lines)) < 40
