"""`farspan rehearse`: a deployment of eight GPUs tried out on one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from farspan.cli.options import EngineName, GpuNames, ModelName, WeightFormat
from farspan.cli.output import json_option, print_json
from farspan.cli.plan_options import (
    accept_nearest_version_option,
    engine_flags_argument,
    ignore_field_option,
    no_calibration_option,
    offline_option,
)
from farspan.cli.start_options import force_option, ready_limit_option
from farspan.sizes import parse_token_list

if TYPE_CHECKING:
    from farspan.proof.rehearsal_report import RehearsalReport
    from farspan.verbs.rehearse import RehearsalCommands

EPILOG = """\b
Examples:
  farspan rehearse llama-4-scout --tp 8 --engine vllm --contexts 8k,256k,1M --context 10M
  farspan rehearse llama-3.1-70b --tp 8 --engine sglang --contexts 8k,64k --python sglang -- --attention-backend triton
  farspan rehearse qwen3-235b-a22b --tp 8 --ep 8 --gpus 8xH200 --dry-run
  farspan rehearse llama-4-scout --tp 8 --context 10M --calibrate
  farspan rehearse llama-4-scout --tp 8 --toy

One rank of a tensor-parallel deployment is a model of its own: heads, widths and vocabulary divided. Alone on one GPU,
with weights made up, it takes the same memory and does the same arithmetic, collectives aside. Needs no weights.
The same command goes on with what was begun, whatever ended it. Flags after -- are the engine's own.

\b
Exit code: 0 the rank started and answered every prompt; 1 it did not; 2 bad input, or no GPU; 3 the rank does not fit;
130 interrupted."""


@click.command("rehearse", epilog=EPILOG, context_settings={"max_content_width": 110})
@click.argument("model", type=ModelName())
@engine_flags_argument
@click.option("--engine", type=EngineName(), default="vllm", show_default=True)
@click.option(
    "--tp",
    type=click.IntRange(min=1),
    help="Tensor-parallel size of the deployment.  [default: as --gpus, or 8]",
)
@click.option(
    "--ep", type=click.IntRange(min=1), default=1, help="Ranks that whole experts are shared out over."
)
@click.option("--pp", type=click.IntRange(min=1), default=1, help="Pipeline stages; the first is rehearsed.")
@click.option(
    "--contexts",
    type=parse_token_list,
    metavar="SIZES",
    help="Prompt lengths.  [default: 8k,64k,256k,1M, as far as the model reaches]",
)
@click.option(
    "--context",
    metavar="SIZE",
    help="Longest request of the deployment, extrapolated to.  [default: the longest prompt]",
)
@click.option(
    "--gpus",
    type=GpuNames(),
    default="detect",
    show_default=True,
    help="GPUs of the deployment: 8xH200; one runs.",
)
@click.option(
    "--kv-dtype",
    default="auto",
    show_default=True,
    metavar="TYPE",
    help="Type of the KV cache: fp8, bf16 ...",
)
@click.option(
    "--weights",
    type=WeightFormat(),
    help="As if weights were kept so.",
)
@click.option("--output-tokens", default="32", show_default=True, metavar="SIZE", help="Tokens of an answer.")
@click.option(
    "--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Prompts of each length."
)
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Prompts before those that count.",
)
@click.option("--engine-version", default="", help="The engine's version.  [default: the installed one]")
@accept_nearest_version_option
@force_option
@click.option("--python", default="", help="Python, or conda environment, of the engine.  [default: this]")
@click.option(
    "--port", default=0, type=click.IntRange(0, 65535), help="Port of the server.  [default: a free one]"
)
@click.option("--seed", type=int, help="Decides the prompts.  [default: a fresh one]")
@ready_limit_option
@click.option("--retry-failed", is_flag=True, help="Try a start, or prompts, again that failed before.")
@click.option(
    "--metrics-interval",
    type=float,
    default=1.0,
    show_default=True,
    help="Seconds between readings; 0 for none.",
)
@ignore_field_option
@offline_option
@no_calibration_option
@click.option("--calibrate", is_flag=True, help="Keep what was fitted: plans on this machine use it.")
@click.option(
    "--toy", is_flag=True, help="A small model of the same family on the CPU: the same steps, no GPU."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder for everything.  [default: rehearsal/ and the names]",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["html", "md", "csv", "json"]),
    help="What the report is written as.  [default: html, md, json]",
)
@click.option("--dry-run", is_flag=True, help="Print what would run, and start nothing.")
@json_option
def command(model: str, *, dry_run: bool, as_json: bool, **settings: Any) -> int:
    """Try a deployment of several GPUs out on one: serve one rank of MODEL, and hold it against the plan.

    MODEL is a catalog name, a config.json, its folder, or a hub id; no weights are needed.
    """  # fmt: skip
    from farspan.cli.live import PlainWatcher
    from farspan.cli.signals import terminate_like_interrupt
    from farspan.cli.startview import PlainStart
    from farspan.verbs.rehearse import rehearse

    if dry_run:
        return _show_commands(rehearse(model, dry_run=True, **settings), as_json=as_json)
    console = Console(stderr=True)
    try:
        with terminate_like_interrupt():
            done = rehearse(
                model, watcher=PlainWatcher(console), start_watcher=PlainStart(console), **settings
            )
    except KeyboardInterrupt:
        click.echo("farspan: what is done is kept; the same command goes on", err=True)
        raise
    from farspan.verbs.rehearse import RehearsalCommands

    if isinstance(done, RehearsalCommands):
        return _show_commands(done, as_json=as_json)
    return _show(done, as_json=as_json)


def _show_commands(commands: RehearsalCommands, *, as_json: bool) -> int:
    if as_json:
        print_json(commands.to_json())
    else:
        click.echo(commands.text)
    if commands.reason:
        click.echo(f"farspan: {commands.reason}; --toy runs the same steps on this CPU", err=True)
    return commands.exit_code


def _show(report: RehearsalReport, *, as_json: bool) -> int:
    from farspan.escape_terminal import printable

    if as_json:
        print_json(report.to_json())
        return report.exit_code
    for line in report.lines():
        click.echo(printable(line))
    for path in report.files.written:
        click.echo(f"The report is {path}", err=True)
    return report.exit_code
