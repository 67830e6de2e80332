"""`farspan export`: a run under another tool's names."""

from __future__ import annotations

from pathlib import Path

import click

from farspan.cli.measurement_options import percentiles_option
from farspan.cli.output import print_json
from farspan.verbs.export import export

EPILOG = """\b
Examples:
  farspan export runs/scout --format vllm
  farspan export runs/scout --format vllm --metric-percentiles 50,90,99 --save-detailed -o scout.json"""


@click.command(epilog=EPILOG, context_settings={"max_content_width": 110})
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["vllm"]),
    default="vllm",
    show_default=True,
    help="Whose names to use.",
)
@percentiles_option("99")
@click.option("--save-detailed", "detailed", is_flag=True, help="Add the lists with one value a request.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file.  [default: standard output]",
)
@click.option("--json", "as_json", is_flag=True, help="JSON is the only format there is; changes nothing.")
def command(
    run: Path, form: str, percentiles: tuple[float, ...], detailed: bool, output: Path | None, as_json: bool
) -> None:
    """Write the run folder RUN as `vllm bench serve --save-result` would have: mean_ttft_ms, p99_itl_ms and so on.

    docs/metrics.md says which of the names mean the same in both.
    """
    del form, as_json  # one format so far, and it is JSON
    exported = export(run, output=output, percentiles=percentiles, detailed=detailed)
    if output is None:
        print_json(exported.to_json())
    else:
        click.echo(f"{run} is in {output} under vLLM's names.")
