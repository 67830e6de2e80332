"""`farspan plan`: what fits, with which flags, and how long it takes, before anything is launched."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from farspan.cli.options import EngineName, GpuNames, ModelName
from farspan.cli.output import json_option, print_json, print_lines, terminal_width
from farspan.cli.plan_options import engine_flags_argument, plan_options
from farspan.errors import DoesNotFitError
from farspan.planner.answers import PlanAnswer, SearchAnswer, SweepAnswer
from farspan.verbs.plan import plan

_JSON = "--json"
_EPILOG = """\b
Examples:
  farspan plan llama-4-scout --gpus 8xH200 --context 10M
  farspan plan llama-4-scout --gpus 8xH200 --engine sglang --context 10M --explain
  farspan plan llama-4-scout --gpus 8xH200 --engine vllm --engine-version 0.12.0 --context 5Mi -- \\
      --disable-hybrid-kv-cache-manager
  farspan plan llama-4-scout --gpus 8xH200 --contexts 128k,1M,2M,5M,10M --json
  farspan plan ./config.json --gpus detect --context 1M --find context
  farspan plan llama-4-scout --gpus 8xH200 --context 128k --ttft 60s --itl 50ms --find concurrency
  farspan plan llama-4-scout --gpus H200,B200,L40S --context 1M --concurrency 32 --find gpus

Flags after -- are the engine's own; NAME=VALUE there is an environment variable.

\b
Fits means: with the flags and variables shown. Where the engine's defaults do not serve the request and no
flag of yours stands against it, farspan adds what does and says so ("added" in JSON; "fits_with_defaults"
says whether it would fit without). --as-given turns that off: exactly your flags, the engine's defaults for
the rest. What does not fit comes with every lever that helps and the bytes it frees.

Exit code: 0 it fits, 3 it does not, 2 bad input.
"""


@click.command("plan", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=ModelName())
@engine_flags_argument
@click.option(
    "--gpus",
    type=GpuNames(),
    default="detect",
    show_default=True,
    help="8xH200, H100, detect; several kinds with --find gpus.",
)
@click.option("--engine", type=EngineName(), help="One engine; all side by side when not given.")
@plan_options
@click.option("--contexts", help="Several contexts, one row each: 128k,1M,10M.")
@click.option(
    "--gpu-memory-gib", type=float, help="Memory of one GPU as torch sees it, for a kind farspan lacks."
)
@click.option("--available-kv-gib", type=float, help="KV memory of one GPU as the engine's log says.")
@click.option(
    "--find", type=click.Choice(["context", "concurrency", "gpus"]), help="Search for the largest or fewest."
)
@click.option(
    "--ttft",
    metavar="TIME",
    help="Longest time to the first token, all requests sent at once: 60s. Also narrows --find.",
)
@click.option(
    "--itl",
    metavar="TIME",
    help="Longest time between tokens with all requests decoding: 50ms. Also narrows --find.",
)
@click.option("--as-given", is_flag=True, help="Add no flag: judge exactly what is given.")
@click.option("--explain", is_flag=True, help="Show formulas and sources.")
@json_option
def command(model: str, engine_flags: tuple[str, ...], explain: bool, as_json: bool, **options: Any) -> None:
    """Say whether MODEL serves a context on these GPUs, with which flags, and how long it takes.

    MODEL is a catalog name (llama-4-scout), a config.json, its folder, or a hub id (owner/name).
    """
    # No engine has a --json: written last, behind the engine's flags, it is still ours.
    as_json = as_json or _JSON in engine_flags
    answer = plan(model, engine_flags=[word for word in engine_flags if word != _JSON], **options)
    if as_json:
        print_json(answer.to_json())
    else:
        print_lines(_lines(answer, explain=explain))
    if not answer.fits:
        sys.exit(DoesNotFitError.exit_code)


def _lines(answer: PlanAnswer | SweepAnswer | SearchAnswer, *, explain: bool) -> Iterator[str]:
    """The answer as text."""
    from farspan.planner import plan_text

    width = terminal_width()
    if isinstance(answer, PlanAnswer):
        yield from plan_text.answer_lines(
            answer.request,
            answer.model_name,
            answer.plans,
            answer.refusals,
            answer.fixes,
            goals=answer.goals,
            explain=explain,
            width=width,
        )
    elif isinstance(answer, SweepAnswer):
        yield plan_text.where(answer.request)
        yield from plan_text.gpu_note(answer.request, width)
        yield from plan_text.sweep_lines(answer.points, answer.fixes, width=width)
    else:
        from farspan.planner.search_text import search_lines

        for request, found in answer.found:
            yield from search_lines(request, answer.question, found, width=width)
