"""`farspan prove`: one command from a model's name to a proof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from farspan.cli.measurement_options import api_key_option, corpus_options, depths_option
from farspan.cli.output import json_option, print_json
from farspan.cli.plan_options import plan_options
from farspan.cli.start_options import force_option, ready_limit_option
from farspan.sizes import parse_token_list

if TYPE_CHECKING:
    from farspan.proof.prove import ProofResult

# Findings of an engine, and steps against them, below its verdict; the report has all.
_SHOWN = 3
EPILOG = """\b
Examples:
  farspan prove llama-4-scout --gpus 8xH200 --contexts 2M,5M,6.5M,10M
  farspan prove llama-4-scout --gpus 8xH200 --engines vllm,old=vllm@0.12.0 --contexts 2M --runtime local --dry-run
  farspan prove llama-4-scout --engines vllm,sglang --contexts 1M --flags 'sglang=--attention-backend triton'
  farspan prove ./recall --engines builtin --runtime local --gpus none --contexts 4k,16k
  farspan prove --url http://localhost:8000 --contexts 1M,2M

The same command goes on with what was begun, whatever ended it. One engine is stopped before the next starts.

\b
Exit code: 0 every engine started and answered everything right; 1 one did not; 2 bad input; 130 interrupted."""


def _plan_options_that_apply(command: Any) -> Any:
    """Add the options of a plan but those that a proof has under its own."""
    there = list(command.__click_params__)
    command = plan_options(command)
    own = {"context", "concurrency", "output_tokens", "engine_version"}
    added = [one for one in command.__click_params__ if one not in there]
    command.__click_params__ = there + [one for one in added if one.name not in own]
    return command


@click.command("prove", epilog=EPILOG, context_settings={"max_content_width": 110})
@click.argument("model", default="")
@click.option(
    "--contexts", type=parse_token_list, required=True, metavar="SIZES", help="Prompt lengths: 2M,5M,10M."
)
@click.option(
    "--engines",
    default="vllm,sglang",
    show_default=True,
    help="Engines in turn: vllm, vllm@0.24.0, NAME=vllm@0.12.0.",
)
@click.option(
    "--runtime", type=click.Choice(["docker", "kubernetes", "local"]), default="docker", show_default=True
)
@click.option("--gpus", default="detect", show_default=True, help="GPUs: 8xH200, detect; none for a CPU.")
@click.option(
    "--url", default="", help="Prove the server that is there: its address, or its name in farspan status."
)
@api_key_option
@_plan_options_that_apply
@depths_option("0.1,0.5,0.9")
@click.option("--repeats", type=int, default=1, show_default=True, help="Requests at each context and depth.")
@click.option("--warmup", type=int, default=0, show_default=True, help="Requests before those that count.")
@click.option(
    "--output-tokens", default="200", show_default=True, metavar="SIZE", help="Tokens of an answer."
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=0),
    default=0,
    help="Afterwards, so many at once.  [default: none]",
)
@click.option(
    "--load-contexts",
    type=parse_token_list,
    metavar="SIZES",
    help="Prompt lengths of those.  [default: the shortest of --contexts]",
)
@click.option("--flags", multiple=True, metavar="[NAME=]WORDS", help="Flags of all engines, or of one.")
@click.option("--python", multiple=True, metavar="[NAME=]PATH", help="Local: the Python that has the engine.")
@click.option("--image", multiple=True, metavar="[NAME=]IMAGE", help="Containers: the image.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one."
)
@click.option("--namespace", default="default", help="Kubernetes: where everything goes.")
@click.option(
    "--volume", default="", help="Kubernetes: pvc:NAME or a folder of the machines, for the models."
)
@click.option("--hf-secret", default="", metavar="NAME[:KEY]", help="Kubernetes: Secret with HF_TOKEN.")
@corpus_options
@click.option(
    "--tokenizer", help="The servers' tokenizer.  [default: the model's folder, or by what the server names]"
)
@click.option(
    "--seed", type=int, help="Decides the prompts, the same for every engine.  [default: a fresh one]"
)
@force_option
@ready_limit_option
@click.option("--retry-failed", is_flag=True, help="Try engines and requests again that failed before.")
@click.option(
    "--metrics-interval", type=float, default=1.0, show_default=True, help="Seconds between readings."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="The campaign's folder.  [default: proof/ and the model's name]",
)
@click.option("--dry-run", is_flag=True, help="Print every command, and start nothing.")
@json_option
def command(model: str, *, dry_run: bool, as_json: bool, **settings: Any) -> int:
    """Serve MODEL on engine after engine, measure it, examine its log, stop it, and write one report.

    MODEL is a catalog name, a checkpoint's folder, or a hub id. An engine that does not start is a row of the report
    with the reason; the others go on.
    """
    from farspan.cli.live import PlainWatcher
    from farspan.cli.signals import terminate_like_interrupt
    from farspan.cli.startview import PlainStart
    from farspan.escape_terminal import printable
    from farspan.verbs.prove import prove

    if dry_run:
        commands = prove(model, dry_run=True, **settings)
        if as_json:
            print_json(commands.to_json())
        else:
            click.echo(commands.text)
        return 0
    console = Console(stderr=True)
    try:
        with terminate_like_interrupt():
            proof: ProofResult = prove(
                model, watcher=PlainWatcher(console), start_watcher=PlainStart(console), **settings
            )
    except KeyboardInterrupt:
        click.echo("farspan: what is done is kept; the same command goes on", err=True)
        raise
    if as_json:
        print_json(proof.to_json())
        return proof.exit_code
    for row in proof.engines:
        click.echo(printable(f"{'proven' if row.good else 'NOT PROVEN'}  {row.name}: {row.outcome}"))
        if not row.good:
            for line in (*row.findings[:_SHOWN], *(f"-> {step}" for step in row.fixes[:_SHOWN])):
                click.echo(printable(f"    {line}"))
    for path in proof.report.written:
        click.echo(f"The report is {path}")
    return proof.exit_code
