"""Picture of a report: what we do per second next to a peer, measured in the same run.

    python benchmarks/picture.py benchmarks/results/REPORT.json docs/performance.svg

Reads and writes files only when run as a program.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

ITERATION = 64 * 256  # tokens
XL_MB = 172  # checkpoint of preset xl with optimizer state

WIDTH, MARGIN, GROUP, BAR = 760, 24, 82, 18  # pixels
LABELS, BARS = 150, 400  # width of the names left of the bars, and of the longest bar
STYLE = """
    .card { fill: #ffffff; stroke: #d0d7de; } .title { fill: #1f2328; font-weight: 600; } .soft { fill: #57606a; }
    .value { fill: #1f2328; } .ours { fill: #0969da; } .peer { fill: #afb8c1; }
    @media (prefers-color-scheme: dark) {
      .card { fill: #0d1117; stroke: #30363d; } .title, .value { fill: #e6edf3; } .soft { fill: #9198a1; }
      .ours { fill: #4493f8; } .peer { fill: #656c76; }
    }
"""  # the card has a background of its own: the page may have another scheme than the browser


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two bars: a row of the report as amounts per second."""

    title: str
    row: str  # pattern of the row's name; its raw figures are ms per `amount`
    peer: str
    amount: float
    unit: str


COMPARISONS = (
    Comparison(
        title="Decoding one sequence, preset l, vocabulary 2,000, float32",
        row="one sequence, preset l: against llama.cpp, float32",
        peer="llama.cpp",
        amount=1,
        unit="tokens/s",
    ),
    Comparison(
        title="Serving 32 HTTP clients; llama.cpp decodes 32 sequences without HTTP",
        row="clients over HTTP, preset l, 32: against llama.cpp in its process, float32",
        peer="llama.cpp",
        amount=1,
        unit="tokens/s",
    ),
    Comparison(
        title="Training, preset l, batch size 64, next to torch.compile in bf16",
        row="training iteration, preset l, batch 64: against a compiled bf16 program",
        peer="compiled PyTorch",
        amount=ITERATION,
        unit="tokens/s",
    ),
    Comparison(
        title="Training, preset l, batch size 64",
        row="training iteration, preset l, batch 64",
        peer="plain PyTorch",
        amount=ITERATION,
        unit="tokens/s",
    ),
    Comparison(
        title="Decoding one sequence, preset l, vocabulary 2,000",
        row="decoding, preset l, vocabulary 2000, 200 tokens",
        peer="plain PyTorch",
        amount=1,
        unit="tokens/s",
    ),
    Comparison(
        title="Serving 32 HTTP clients; plain PyTorch decodes one text at a time",
        row="served over HTTP: 32 clients, 200 tokens each",
        peer="plain PyTorch",
        amount=1,
        unit="tokens/s",
    ),
    Comparison(
        title="Fetching and verifying a checkpoint of 172 MB from a local relay",
        row="fetch and verify .* from LocalRelay, against nostr-sdk",
        peer="nostr-sdk (Rust)",
        amount=XL_MB,
        unit="MB/s",
    ),
)


def draw(rows: Sequence[Mapping[str, Any]], caption: str) -> str:
    """Return the picture as SVG; comparisons without a row in the report are left out, and empty if all are.

    Args:
        rows: The rows of a report, as in its JSON.
        caption: Machine, commit and date.
    """
    raw = {comparison: _raw(rows, comparison.row) for comparison in COMPARISONS}
    groups = [_group(place, each, found) for place, (each, found) in enumerate(_present(raw))]
    if not groups:
        return ""
    height = 2 * MARGIN + 48 + GROUP * len(groups)
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            'aria-labelledby="title" font-family="system-ui, sans-serif" font-size="14">'
        ),
        '  <title id="title">Throughput next to peers, in one run</title>',
        f"  <style>{STYLE}  </style>",
        f'  <rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        f'  <text class="title" x="{MARGIN}" y="{MARGIN + 14}" font-size="16">Per second, more is better</text>',
        f'  <text class="soft" x="{MARGIN}" y="{MARGIN + 34}" font-size="12">{escape(caption)}</text>',
        *groups,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _present(
    raw: Mapping[Comparison, Mapping[str, float] | None],
) -> list[tuple[Comparison, Mapping[str, float]]]:
    return [(comparison, found) for comparison, found in raw.items() if found]


def _raw(rows: Sequence[Mapping[str, Any]], pattern: str) -> Mapping[str, float] | None:
    return next((row["raw"] for row in rows if re.fullmatch(pattern, row["name"])), None)


def _group(place: int, comparison: Comparison, raw: Mapping[str, float]) -> str:
    """Return the title and the two bars of a comparison."""
    top = 2 * MARGIN + 48 + GROUP * place
    rates = [comparison.amount * 1e3 / raw[key] for key in ("ours_ms", "reference_ms")]
    bars = []
    names = (("randygpt", "ours"), (comparison.peer, "peer"))
    for number, ((name, kind), rate) in enumerate(zip(names, rates, strict=True)):
        y = top + 8 + number * (BAR + 6)
        length = max(2, BARS * rate / max(rates))
        bars += [
            f'  <text class="soft" x="{MARGIN + LABELS - 10}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'  <rect class="{kind}" x="{MARGIN + LABELS}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>',
            (
                f'  <text class="value" x="{MARGIN + LABELS + length + 8:.1f}" y="{y + 14}">'
                f"{_rounded(rate)} {comparison.unit}</text>"
            ),
        ]
    return "\n".join([f'  <text class="title" x="{MARGIN}" y="{top}">{escape(comparison.title)}</text>', *bars])


def _rounded(rate: float) -> str:
    """Return a rate with three significant digits and thousands separators."""
    return f"{float(f'{rate:.3g}'):,g}" if rate < 1000 else f"{round(float(f'{rate:.3g}')):,}"  # noqa: PLR2004


def caption_of(report: Mapping[str, Any]) -> str:
    """Return machine, commit and date of a report."""
    return f"{report['machine']}; one run, commit {report['commit']}, {report['date']}"


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(draw(given["rows"], caption_of(given)), encoding="utf-8")
