"""README.md and docs/: links lead to files; the index of decision records and the tables of modules are complete."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DECISIONS = ROOT / "docs/decisions"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
RECORDS = sorted(DECISIONS.glob("[0-9]*.md"))
FOLDERS = ("randygpt", "relay_client", "distribution", "server", "benchmarks", "deploy", "docs", "tests")
FORM = re.compile(
    r"# (?P<number>\d{4}) (?P<title>.+)\n\n"
    r"- Status: (?P<status>(accepted|superseded by)[^\n]*(\n  [^\n]+)*)\n"
    r"- Date: (?P<date>\d{4}-\d\d-\d\d)\n\n## Context\n"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_on_a_page_exist(page: Path) -> None:
    names = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+\.\w+)`", page.read_text(encoding="utf-8"))
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_index_lists_every_decision_record() -> None:
    rows = []
    for record in RECORDS:
        found = FORM.match(record.read_text(encoding="utf-8"))
        assert found, record.name
        assert record.name.startswith(found["number"])
        status = re.sub(r"\n  ", " ", found["status"])
        rows.append(f"| [{found['number']}]({record.name}) | {found['title']} | {status} | {found['date']} |")
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    assert [line for line in index.splitlines() if line.startswith("| [")] == rows
    assert len(rows) > 30


@pytest.mark.parametrize("package", ["relay_client", "distribution", "randygpt", "server"])
def test_architecture_names_every_module(package: str) -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = re.search(rf"^\| {package} \| \|\n\|---\|---\|\n((\|.*\n)+)", page, re.MULTILINE)
    assert table
    named = {name for row in table[1].splitlines() for name in re.findall("`([^`]+)`", row.split("|")[1])}
    folders = tuple(name for name in named if name.endswith("/"))
    paths = (path.relative_to(ROOT / package).with_suffix("") for path in (ROOT / package).rglob("*.py"))
    modules = {str(path) for path in paths if not path.name.startswith("__")}
    assert {name for name in modules if not name.startswith(folders)} == named - set(folders)
    assert all((ROOT / package / folder).is_dir() for folder in folders)
