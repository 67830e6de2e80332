"""`farspan report`: one HTML page and a Markdown table of a run."""

from __future__ import annotations

from pathlib import Path

import click
import orjson

from farspan.report.render import write_report

EPILOG = """\b
Examples:
  farspan report runs/scout
  farspan report runs/scout -o public"""


@click.command(epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder to write to.  [default: RUN]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the paths as JSON.")
def command(run: Path, output: Path | None, as_json: bool) -> None:
    """Write report.html and report.md of the run folder RUN.

    The page is one file: it needs no network and runs no script.
    """
    files = write_report(run, output)
    if as_json:
        click.echo(orjson.dumps({"html": str(files.html), "markdown": str(files.markdown)}))
    else:
        click.echo(f"The report is {files.html}; as Markdown it is {files.markdown}.")
