"""`farspan compare`: run B against run A."""

from __future__ import annotations

from pathlib import Path

import click

from farspan.cli.measurement_options import fail_if_option
from farspan.cli.output import json_option, print_json
from farspan.escape_terminal import printable
from farspan.measurement.analysis.comparison import Comparison, Row
from farspan.measurement.analysis.measures import MEASURES
from farspan.sizes import format_tokens
from farspan.verbs.compare import compare

EPILOG = """\b
Examples:
  farspan compare runs/before runs/after
  farspan compare runs/vllm runs/sglang --json
  farspan compare runs/main runs/branch --fail-if 'ratio.ttft.low > 1.05'
  farspan compare runs/main runs/branch --fail-if 'ttft.p50 > 1.1 * a.ttft.p50 or failed > 0'

\b
Exit code: 0 compared, 1 a --fail-if condition is true or cannot be judged, 2 bad input."""


@click.command(epilog=EPILOG, context_settings={"max_content_width": 110})
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--plan", type=click.Path(path_type=Path), help="A plan from farspan plan --json, for --fail-if."
)
@fail_if_option
@json_option
def command(a: Path, b: Path, plan: Path | None, fail_if: tuple[str, ...], as_json: bool) -> int:
    """Compare run folder B with run folder A, measure by measure.

    A and B are medians. The ratio is B over A: the geometric mean with a 95 % confidence interval, by Student's t on
    logarithms, of requests with the same prompt where the runs share them; it need not be the medians' quotient.
    """
    result = compare(a, b, plan=plan, fail_if=fail_if)
    if as_json:
        print_json(result.to_json())
    else:
        for line in _table(result.comparison):
            click.echo(printable(line))
        for note in result.comparison.notes:
            click.echo(printable(f"Note: {note}."))
    for breach in result.breaches:
        click.echo(printable(f"farspan: {breach}"), err=True)
    return result.exit_code


_HEADER = ("context", "depth", "measure", "A", "B", "B / A", "95 % interval", "n", "B is")


def _table(comparison: Comparison) -> list[str]:
    """Lay the rows out as a Markdown table that reads well as it is."""
    cells = [_HEADER, *(_cells(row) for row in comparison.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_HEADER))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    def figure(value: float | None) -> str:
        return MEASURES[row.measure].format(value, missing="none")

    ratio = row.ratio
    interval = "" if ratio is None or ratio.low is None else f"{ratio.low:.3f} to {ratio.high:.3f}"
    return (
        format_tokens(row.context) + (" warm" if row.warm else ""),
        "all" if row.depth is None else f"{row.depth:g}",
        row.measure,
        figure(row.a),
        figure(row.b),
        "" if ratio is None else f"{ratio.ratio:.3f}",
        interval,
        "" if ratio is None else f"{ratio.count}{_pairs(ratio.count) if ratio.paired else ''}",
        row.verdict.value,
    )


def _pairs(count: int) -> str:
    return " pair" if count == 1 else " pairs"
