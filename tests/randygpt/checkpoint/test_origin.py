"""Origins of a checkpoint: the releases that its sidecar names."""

from typing import Any

import pytest
from support.models import CONFIG, TOKENIZER

from randygpt.checkpoint.origin import Origin
from randygpt.checkpoint.sidecar import Sidecar
from randygpt.errors import InvalidModelFile
from randygpt.origins import lineage_of

BASE, FIRST, SECOND = (Origin(release=bytes([number]) * 32, author=bytes(32)) for number in range(3))
HEX = "0" * 64


def sidecar(base: Origin | None = None, merged: tuple[Origin, ...] = ()) -> Sidecar:
    return Sidecar(config=CONFIG, tokenizer=TOKENIZER, base=base, merged=merged)


@pytest.mark.parametrize(
    "origins", [{}, {"base": BASE}, {"base": BASE, "merged": (FIRST, SECOND)}], ids=["none", "base", "merge"]
)
def test_origins_round_trip(origins: dict[str, Any]) -> None:
    written = sidecar(**origins)
    read = Sidecar.from_json(written.to_json())
    assert (read.base, read.merged) == (written.base, written.merged)
    assert (set(written.to_json()) & {"base", "merged"}) == set(origins)


@pytest.mark.parametrize(
    "raw",
    [
        {"base": []},
        {"base": {}},
        {"base": {"release": HEX, "author": HEX[1:]}},
        {"base": {"release": HEX.replace("0", "A"), "author": HEX}},
        {"base": {"release": HEX, "author": HEX, "relay": 5}},
        {"base": {"release": HEX, "author": HEX}, "merged": {}},
        {"merged": [FIRST.to_json(), SECOND.to_json()]},
        {"base": BASE.to_json(), "merged": [FIRST.to_json(), FIRST.to_json()]},
    ],
    ids=str,
)
def test_malformed_origin_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidModelFile):
        Sidecar.from_json(sidecar().to_json() | raw)


def test_merge_that_left_all_but_one_out_names_its_base() -> None:
    assert lineage_of(sidecar(base=BASE, merged=(FIRST,))).merged == ()
    assert len(lineage_of(sidecar(base=BASE, merged=(FIRST, SECOND))).merged) == 2
    assert lineage_of(sidecar()).base is None
