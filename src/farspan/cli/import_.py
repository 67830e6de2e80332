"""`farspan import`: another tool's result file as a run folder."""

from __future__ import annotations

from pathlib import Path

import click

from farspan.cli.output import json_option, print_json
from farspan.sizes import parse_tokens
from farspan.verbs.import_run import import_run

EPILOG = """\b
Examples:
  vllm bench serve ... --save-result --save-detailed --result-filename vllm.json
  farspan import vllm.json --context 10k -o runs/vllm
  farspan import sweep.json --entry 2 -o runs/guidellm-2
  farspan compare runs/farspan runs/vllm"""


@click.command("import", epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "-o", "--output", "run", type=click.Path(path_type=Path), required=True, help="The run folder to make."
)
@click.option("--entry", type=int, help="Which benchmark of FILE to take, from 1, when it holds several.")
@click.option(
    "--context",
    "--input-len",
    type=parse_tokens,
    metavar="SIZE",
    help="Prompt tokens that every request was asked to have, where FILE does not say (vLLM's never does).",
)
@json_option
def command(file: Path, run: Path, entry: int | None, context: int | None, as_json: bool) -> None:
    """Read the result FILE of another tool into a run folder.

    Reads guidellm (JSON), vLLM's bench serve (--save-detailed), SGLang's bench_serving (--output-details)
    and genai-bench. Every result is labelled as imported: farspan did not measure it.
    """
    imported = import_run(file, run, entry=entry, context=context)
    if as_json:
        print_json(imported.to_json())
        return
    failed = f", {imported.failed} of them failed" if imported.failed else ""
    broken = f"; {imported.left_out} that {imported.tool} broke off are left out" if imported.left_out else ""
    click.echo(f"{imported.requests} requests of {imported.tool} are in {imported.folder}{failed}{broken}.")
