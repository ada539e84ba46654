"""Benchmark, mostly ratios measured in one run: `make bench`. Prints a table, writes JSON and a picture.

`RANDYGPT_BASELINE` names a plain PyTorch program that prints {"ms_per_iter"} for `train` and {"tokens_per_s"} for
`decode`; `RANDYGPT_TEXT` names the training text, otherwise the built-in sample is used. Rows that need a missing one
are left out. `make bench ONLY=…` measures the rows whose name contains a text, in any case; git ignores its report,
`local-…`.
"""

import argparse
import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import picture
import rows_blossom
import rows_events
import rows_load
import rows_machine
import rows_model
import rows_neighbour
import rows_network
import rows_peers
import rows_search
import rows_server
from machine import machine
from measure import BASELINE, TEXT, Bench, Result, Row

from randygpt.model.tokenizer import CharTokenizer
from randygpt.training.text import Text

RESULTS = Path(__file__).parent / "results"
DEFAULT_ROWS = (
    *rows_peers.ROWS,
    *rows_model.ROWS,
    *rows_neighbour.ROWS,
    *rows_server.ROWS,
    *rows_load.ROWS,
    *rows_events.ROWS,
)
DEFAULT_ROWS += (*rows_network.ROWS, *rows_blossom.ROWS, *rows_search.ROWS, *rows_machine.ROWS)


def main() -> None:
    """Measure, print one line per row, and write JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="TEXT", default="", help="rows whose name contains this, in any case")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--recipe", action="store_true", help="the rows of the fast recipe instead of the default rows")
    group.add_argument("--all", action="store_true", help="both sets of rows")
    arguments = parser.parse_args()
    chosen = [] if arguments.recipe else [*DEFAULT_ROWS]
    if arguments.recipe or arguments.all:
        chosen += rows_model.RECIPE_ROWS
    rows = [row for row in chosen if arguments.only.lower() in row.name.lower()]
    if not rows:
        parser.error(f"--only: no row name contains {arguments.only!r}")
    about = machine()
    print(f"{about['machine']}, load {about['load']}\n", flush=True)
    results = measure(rows)
    if results:
        commit = f"{about['date']}-{about['commit']}{'-dirty' if about['dirty'] else ''}"
        name = f"{'local-' if arguments.only else ''}{commit}{'-recipe' if arguments.recipe else ''}"
        write(RESULTS / name, about, results)


def measure(rows: list[Row]) -> list[Result]:
    """Measure the rows and print each result."""
    width = max(len(row.name) for row in rows)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        bench = prepare(Path(folder))
        print(f"{'row':{width}}  {'value':>16}  {'goal':>6}  reached")
        for row in rows:
            missing = row.missing(bench)
            if missing:
                print(f"{row.name:{width}}  left out: {' and '.join(missing)}", flush=True)
                continue
            result = Result(row, row.measure(bench))
            results.append(result)
            reached = {True: "yes", False: "NO", None: ""}[result.reached]
            shown = f"{row.name:{width}}  {result.value_text:>16}  {result.goal_text:>6}  {reached:7}"
            print(f"{shown}  {result.measured.fault or raw_text(result)}".rstrip(), flush=True)
    return results


def prepare(folder: Path) -> Bench:
    """Set up the folder with a copy of the text; training writes its token cache there."""
    baseline, text = os.environ.get(BASELINE), os.environ.get(TEXT)
    copied = folder / "train.txt"
    if text:
        shutil.copyfile(text, copied)
    else:
        with contextlib.chdir(folder):  # holds no text, so the sample is used
            copied.write_text("".join(Text.find(None)), encoding="utf-8")
    vocab_size = CharTokenizer.from_text(Text.find(copied)).vocab_size
    baseline = str(Path(baseline).resolve(strict=True)) if baseline else None
    return Bench(folder=folder, baseline=baseline, has_text=bool(text), vocab_size=vocab_size)


def raw_text(result: Result) -> str:
    """Return the raw figures of a result, in one line."""
    return "  ".join(f"{name} {value:.4g}" for name, value in result.measured.raw.items())


def write(stem: Path, about: dict[str, object], results: list[Result]) -> None:
    """Write the report, and its picture if any row compares with a peer."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    report = {**about, "rows": [result.as_json() for result in results]}
    written = [stem.with_name(f"{stem.name}.json")]
    written[0].write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if drawn := picture.draw([result.as_json() for result in results], picture.caption_of(about)):
        written.append(stem.with_name(f"{stem.name}.svg"))
        written[1].write_text(drawn, encoding="utf-8")
    for path in written:
        print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    main()
