"""`farspan report`: run folders or plans as one HTML page, Markdown, CSV or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from farspan.cli.output import json_option, print_json
from farspan.errors import InputError
from farspan.reports.write_report import Format, ReportOptions, render
from farspan.verbs.report import report

EPILOG = """\b
Examples:
  farspan report runs/scout
  farspan report runs/scout -o scout.html --title 'Scout at 10M' --log vllm.log
  farspan report runs/vllm runs/sglang -o public
  farspan report --compare runs/before runs/after -o change.html
  farspan report runs/scout --format csv -o -
  farspan report runs/scout --charts slides
  farspan report plan.json -o plan.html
  farspan report runs/scout plan.json"""

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog=EPILOG, context_settings={"max_content_width": 110})
@click.argument("runs", metavar="RUN|PLAN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file (.html, .md, .csv or .json), a folder, or - for standard output.  [default: the first RUN, or beside"
    " the first PLAN]",
)
@click.option(
    "--format",
    "formats",
    type=click.Choice([form.value for form in Format]),
    multiple=True,
    help="What to write into a folder or to standard output; may be given several times.  [default: html, md]",
)
@click.option(
    "--compare", is_flag=True, help="Two runs: put the second beside the first, with ratios, on top."
)
@click.option("--title", default="", help="The heading.  [default: the model's name]")
@click.option(
    "--template", type=_FILE, help="A Jinja template for the page, or with .md in its name for Markdown."
)
@click.option(
    "--log",
    "logs",
    type=_FILE,
    multiple=True,
    help="A server's log, one for each RUN in the same order.  [default: server.log in the run folder]",
)
@click.option(
    "--plan", type=_FILE, help="A plan from farspan plan --json.  [default: the one kept with the run]"
)
@click.option(
    "--charts",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Write each chart as an SVG file into FOLDER, and nothing else.",
)
@json_option
def command(
    runs: tuple[Path, ...],
    output: Path | None,
    formats: tuple[str, ...],
    compare: bool,
    title: str,
    template: Path | None,
    logs: tuple[Path, ...],
    plan: Path | None,
    charts: Path | None,
    as_json: bool,
) -> None:
    """Write a report of the run folders RUN: several are put side by side, with ratios to the first.

    PLAN is a file of farspan plan --json. Beside runs it is theirs, as with --plan; by itself, or with other plans, it
    gets a page of what is planned: nothing on it was measured.

    The page is one file that needs no network; values show under the pointer and the arrow keys, and it
    prints. CSV has one line a request, or a planned context.
    """
    how: dict[str, Any] = {
        "compare": compare,
        "title": title,
        "template": template,
        "logs": logs,
        "plan": plan,
    }
    if str(output) == "-" and charts is None:
        chosen = tuple(Format(form) for form in formats)
        if len(chosen) != 1 or as_json:
            raise InputError("standard output takes one format", "pass one --format, or a folder with -o")
        click.echo(render(runs, chosen[0], ReportOptions(**how)).encode(), nl=False)
        return
    files = report(*runs, output=output, formats=formats, charts=charts, **how)
    if as_json:
        print_json(files.to_json())
    elif charts is not None:
        click.echo("\n".join(str(path) for path in files.charts))
    else:
        click.echo(f"The report is {' and '.join(str(path) for path in files.written)}.")
