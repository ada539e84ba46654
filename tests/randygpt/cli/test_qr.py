"""QR codes on a terminal."""

import segno

from randygpt.cli.qr import print_qr, qr_lines

URI = f"nostrconnect://{'5eed' * 16}?relay=wss%3A%2F%2Frelay.example&secret=0123456789abcdef&name=randygpt"
_HALVES = {" ": (1, 1), "▄": (1, 0), "▀": (0, 1), "█": (0, 0)}  # 1: dark, as the background


def test_qr_lines_draw_every_module() -> None:
    lines = qr_lines(URI)
    rows = [[_HALVES[block][half] for block in line] for line in lines for half in (0, 1)]
    expected = [[int(module) for module in row] for row in segno.make_qr(URI, error="l", boost_error=False).matrix]
    size = len(expected)
    assert [row[2 : 2 + size] for row in rows[2 : 2 + size]] == expected
    assert len(lines[0]) == size + 4 <= 80
    assert not any(rows[0])  # the quiet zone is light


def test_qr_code_is_not_printed_into_a_pipe() -> None:
    assert not print_qr(URI)
