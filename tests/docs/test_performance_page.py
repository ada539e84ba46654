"""The picture of docs/performance.md, and the speed claims of README.md: from the report that the page names."""

import json
import re
import runpy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[2]
PICTURE = runpy.run_path(str(ROOT / "benchmarks" / "picture.py"))


def report() -> dict[str, Any]:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    found = re.search(r"from one run, report `([^`]+)`", page)
    assert found
    loaded: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{found[1]}.json").read_bytes())
    return loaded


def test_picture_shows_the_report() -> None:
    drawn = PICTURE["draw"](report()["rows"], PICTURE["caption_of"](report()))
    assert (ROOT / "docs" / "performance.svg").read_text(encoding="utf-8") == drawn


def test_picture_has_a_pair_of_bars_for_each_row_of_a_peer() -> None:
    patterns = [comparison.row for comparison in PICTURE["COMPARISONS"]]
    rows = [row for row in report()["rows"] if any(re.fullmatch(pattern, row["name"]) for pattern in patterns)]
    for left_out in (0, 1):
        drawn = ET.fromstring(PICTURE["draw"](rows[left_out:], "a machine"))  # noqa: S314 (our own)
        kinds = [bar.get("class") for bar in drawn.iter("{http://www.w3.org/2000/svg}rect")]
        assert kinds == ["card", *["ours", "peer"] * (len(rows) - left_out)]
    assert PICTURE["draw"]([], "a machine") == ""


def test_speed_claims_of_readme_are_in_the_report() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Speed\n")[1].split("\n## ")[0]
    claimed = {int(number) for number in re.findall(r"([0-9]+) times", section)}
    assert claimed
    assert claimed <= {round(row["value"]) for row in report()["rows"] if row["unit"] == "x"}
