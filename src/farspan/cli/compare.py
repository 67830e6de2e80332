"""`farspan compare`: run B against run A."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
import orjson

from farspan.escape_terminal import printable
from farspan.measurement.analysis.comparison import (
    Comparison,
    Row,
    compare_runs,
    find_comparison_breaches,
    parse_comparison_condition,
)
from farspan.measurement.analysis.measures import MEASURES
from farspan.measurement.analysis.plan_beside_run import find_plan, read_ttft_plan
from farspan.measurement.runs.run_folder import load_run
from farspan.sizes import format_tokens

EXIT_FIRED = 1
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
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Exit with 1 when this holds at any context; may be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(a: Path, b: Path, plan: Path | None, conditions: tuple[str, ...], as_json: bool) -> int:
    """Compare run folder B with run folder A, measure by measure.

    The ratio is B over A: the geometric mean with a 95 % confidence interval, by Student's t on
    logarithms, of requests with the same prompt where the runs share them.
    """
    parsed = [parse_comparison_condition(text) for text in conditions]
    run_a, run_b = load_run(a), load_run(b)
    comparison = compare_runs(run_a, run_b)
    engine = run_b.info.starts[-1].server.owned_by
    planned = read_ttft_plan(plan, engine) if plan else find_plan(b, engine)
    breaches = find_comparison_breaches(parsed, run_a, run_b, comparison, planned)
    if as_json:
        document = {
            "a": str(a),
            "b": str(b),
            **asdict(comparison),
            "rows": [asdict(row) | {"verdict": row.verdict.value} for row in comparison.rows],
            "fired": [asdict(breach) for breach in breaches],
        }
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    else:
        for line in _table(comparison):
            click.echo(printable(line))
        for note in comparison.notes:
            click.echo(printable(f"Note: {note}."))
    for breach in breaches:
        click.echo(printable(f"farspan: {breach}"), err=True)
    return EXIT_FIRED if breaches else 0


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
        format_tokens(row.context),
        "all" if row.depth is None else f"{row.depth:g}",
        row.measure,
        figure(row.a),
        figure(row.b),
        "" if ratio is None else f"{ratio.ratio:.3f}",
        interval,
        "" if ratio is None else f"{ratio.count}{' pairs' if ratio.paired else ''}",
        row.verdict.value,
    )
