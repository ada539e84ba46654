"""Names that people mistake for each other: their skeletons, in the manner of Unicode TS #39. No I/O.

The table is short on purpose: digits for letters, Cyrillic and Greek letters for Latin ones, accents, case, separators
and invisible characters. It marks names; it decides nothing.
"""

import unicodedata

_MAX_NAME = 256  # characters that count
_SEQUENCES = (("rn", "m"), ("vv", "w"), ("cl", "d"))
_LOOKALIKES = str.maketrans(
    {
        **dict(zip("0123456789", "olzeasbtbg", strict=True)),
        **dict(zip("i|!\u0131$@", "llllsa", strict=True)),
        **dict(zip("авгеикмнопрстухьѕіјһӏԁԛԝ", "abrenkmhonpctyxbsljhldqw", strict=True)),
        **dict(zip("αβγεηικνορτυχω", "abyenlkvoptuxw", strict=True)),
    }
)


def skeleton(name: str) -> str:
    """Return the form that a name shares with those it is mistaken for; for comparison only.

    Args:
        name: Any text, also a stranger's.
    """
    decomposed = unicodedata.normalize("NFKD", name[:_MAX_NAME]).casefold()
    text = "".join(c for c in decomposed.translate(_LOOKALIKES) if unicodedata.category(c)[0] in "LN")
    for shown, meant in _SEQUENCES:
        text = text.replace(shown, meant)
    return text
