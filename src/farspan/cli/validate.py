"""`farspan validate`: a plan beside what its server printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from farspan.cli.output import json_option, print_json, print_lines, terminal_width
from farspan.engines.engine import FigureKind
from farspan.escape_terminal import printable
from farspan.launch.validation import TOLERANCE, ValidatedFigure, Validation
from farspan.planner.text_layout import table, wrap
from farspan.verbs.validate import validate

_EPILOG = """\b
Examples:
  farspan validate vllm.log llama-4-scout --gpus 8xH200
  farspan validate vllm.log --plan plan.json
  farspan validate container:scout
  farspan validate pod:llm/scout-0 --json
  farspan validate llama-4-scout-vllm

\b
Exit code: 0 every figure is within the tolerance (0.5 %, or 0.3 GiB of one GPU where that is more), 1 one is not,
2 nothing can be compared."""


@click.command(
    epilog=_EPILOG, context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]}
)
@click.argument("source", metavar="FILE|-|container:NAME|pod:[NAMESPACE/]NAME|SERVER|URL")
@click.argument("model", default="")
@click.option("--gpus", default="", help="The GPUs, where the log does not name them: 8xH200.")
@click.option("--engine-version", default="", help="The engine's version, where the log does not print it.")
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    help="A plan from farspan plan --json.  [default: the plan a server of farspan was started by, else the log's own "
    "arguments are planned]",
)
@click.option("--container", default="", help="Of a pod with several containers, the one to read.")
@click.option("--previous", is_flag=True, help="Of a pod, the log from before its last restart.")
@json_option
def command(
    source: str,
    model: str,
    gpus: str,
    engine_version: str,
    plan: Path | None,
    container: str,
    previous: bool,
    as_json: bool,
) -> int:
    """Hold a plan against what its server printed at start: weights, KV memory, tokens, requests, graphs.

    SOURCE is the server's log, or a server that farspan has started. MODEL is needed where the log names only a folder.
    """
    result = validate(
        source,
        model,
        gpus=gpus,
        engine_version=engine_version,
        plan=plan,
        container=container,
        previous=previous,
    )
    if as_json:
        print_json(result.to_json())
    else:
        print_lines(printable(line) for line in _lines(result, terminal_width()))
    return result.exit_code


def _lines(result: Validation, width: int | None) -> Iterator[str]:
    """The comparison, the answer first."""
    beyond = sum(not figure.within for figure in result.figures)
    server = f"{result.engine} {result.version or result.planned_version}"
    verdict = (
        f"{beyond} of {len(result.figures)} figures {'is' if beyond == 1 else 'are'} beyond"
        if beyond
        else f"all {len(result.figures)} figures are within"
    )
    yield from wrap(f"{server}, {result.source}: {verdict} the tolerance; the plan is {result.plan}.", width)
    yield ""
    rows = [["figure", "planned", "got", "off", "off, GiB", "basis", "within"]]
    rows.extend(_cells(figure) for figure in result.figures)
    yield from table(rows, right=(1, 2, 3, 4), width=width)
    yield ""
    yield from wrap(f"Off is planned less got. Tolerance: {TOLERANCE}.", width)
    for note in result.notes:
        yield from wrap(f"Note: {note}.", width)


def _cells(figure: ValidatedFigure) -> list[str]:
    percent, gib = figure.difference_percent, figure.difference_gib
    return [
        figure.what,
        _number(figure.planned, figure.kind),
        _number(figure.got, figure.kind),
        "-" if percent is None else f"{percent:+.2f} %",
        "-" if gib is None else f"{gib:+.2f}",
        figure.basis or "-",
        "yes" if figure.within else "NO",
    ]


def _number(value: float, kind: FigureKind) -> str:
    whole = kind is not FigureKind.MEMORY and value == int(value)
    return f"{value:,.0f}" if whole else f"{value:,.2f}"
