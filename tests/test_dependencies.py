"""Imports of the four packages: each is of a distribution that pyproject.toml declares."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("randygpt", "relay_client", "distribution", "server")
EXPORTED = {"transformers"}  # of code that transformers runs where it is installed


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level names that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_imported_distributions_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["plot"]]
    declared = {normalized(re.split(r"[\s<>=!~;\[]", each, maxsplit=1)[0]) for each in requirements}
    names = {name for package in PACKAGES for path in (ROOT / package).rglob("*.py") for name in imported(path)}
    found = importlib.metadata.packages_distributions()
    undeclared = {
        name
        for name in names - sys.stdlib_module_names - {*PACKAGES} - EXPORTED
        if declared.isdisjoint(map(normalized, found.get(name, ())))
    }
    assert undeclared == set()
