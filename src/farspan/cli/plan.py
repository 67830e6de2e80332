"""`farspan plan`: what fits, with which flags, and how long it takes, before anything is launched.

Modules are imported where they are used: a plan must answer in 0.3 s, and imports are most of that.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import click
import orjson

from farspan.cli.options import EngineName
from farspan.engines.engine import Engine
from farspan.engines.registry import all_engines
from farspan.errors import InputError
from farspan.hardware.node_spelling import parse_node
from farspan.models.config import WEIGHT_FORMATS, engine_model_name, load_model
from farspan.models.spec import KvDtype
from farspan.planner.engine_flags import parse_engine_flags
from farspan.planner.plan import plan_engines
from farspan.planner.request import PlanRequest
from farspan.sizes import GIB, parse_token_list, parse_tokens

if TYPE_CHECKING:
    from farspan.planner.levers import Fix
    from farspan.planner.sweep import SweepPoint

EXIT_DOES_NOT_FIT = 3
_JSON = "--json"
_EPILOG = """\b
Examples:
  farspan plan llama-4-scout --gpus 8xH200 --context 10M
  farspan plan llama-4-scout --gpus 8xH200 --engine sglang --context 10M --explain
  farspan plan llama-4-scout --gpus 8xH200 --engine vllm --engine-version 0.12.0 --context 5Mi -- \\
      --disable-hybrid-kv-cache-manager
  farspan plan llama-4-scout --gpus 8xH200 --contexts 128k,1M,2M,5M,10M --json
  farspan plan ./config.json --gpus detect --context 1M --find context
  farspan plan llama-4-scout --gpus H200,B200,L40S --context 1M --concurrency 32 --find gpus

Flags after -- are the engine's own; NAME=VALUE there is an environment variable.

\b
Fits means: with the flags and variables shown. Where the engine's defaults do not serve the request and no
flag of yours stands against it, farspan adds what does and says so ("added" in JSON; "fits_with_defaults"
says whether it would fit without). --as-given turns that off: exactly your flags, the engine's defaults for
the rest. What does not fit comes with every lever that helps and the bytes it frees.

Exit code: 0 it fits, 3 it does not, 2 bad input.
"""


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _print_json(value: object) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


@click.command("plan", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.argument("engine_flags", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENGINE FLAGS]")
@click.option(
    "--gpus",
    default="detect",
    show_default=True,
    help="8xH200, H100, detect; several kinds with --find gpus.",
)
@click.option("--tp", type=int, help="Tensor-parallel size; all GPUs when not given.")
@click.option("--engine", type=EngineName(), help="One engine; all side by side when not given.")
@click.option("--engine-version", default="", help="The engine's version; the newest known when not given.")
@click.option("--accept-nearest-version", is_flag=True, help="Plan an unknown version as the nearest.")
@click.option("--context", help="Longest request, prompt and answer together: 128k, 2M, 2Mi.")
@click.option("--contexts", help="Several contexts, one row each: 128k,1M,10M.")
@click.option("--concurrency", default=1, show_default=True, help="Requests of that length at once.")
@click.option("--output-tokens", default="200", show_default=True, help="Tokens of the answer.")
@click.option(
    "--kv-dtype",
    default="auto",
    show_default=True,
    type=click.Choice([kind.value for kind in KvDtype]),
    help="Type of the KV cache.",
)
@click.option("--weights", type=click.Choice(list(WEIGHT_FORMATS)), help="Plan as if weights were kept so.")
@click.option("--available-kv-gib", type=float, help="KV memory of one GPU as the engine's log says.")
@click.option(
    "--find", type=click.Choice(["context", "concurrency", "gpus"]), help="Search for the largest or fewest."
)
@click.option("--as-given", is_flag=True, help="Add no flag: judge exactly what is given.")
@click.option("--explain", is_flag=True, help="Show formulas and sources.")
@click.option("--offline", is_flag=True, help="Never ask the Hugging Face hub for a config.")
@click.option(_JSON, "as_json", is_flag=True, help="Print JSON.")
def command(
    model: str,
    engine_flags: tuple[str, ...],
    gpus: str,
    tp: int | None,
    engine: Engine | None,
    engine_version: str,
    accept_nearest_version: bool,
    context: str | None,
    contexts: str | None,
    concurrency: int,
    output_tokens: str,
    kv_dtype: str,
    weights: str | None,
    available_kv_gib: float | None,
    find: str | None,
    as_given: bool,
    explain: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Say whether MODEL serves a context on these GPUs, with which flags, and how long it takes.

    MODEL is a catalog name (llama-4-scout), a config.json, its folder, or a hub id (owner/name).
    """
    # No engine has a --json: written last, behind the engine's flags, it is still ours.
    as_json = as_json or _JSON in engine_flags
    engine_flags = tuple(word for word in engine_flags if word != _JSON)
    spec = load_model(model, weights=weights or "", allow_network=not offline)
    nodes = [parse_node(part) for part in gpus.split(",")]
    if len(nodes) > 1 and find != "gpus":
        raise InputError(f"--gpus {gpus} names several kinds", "name one, or ask --find gpus for each")
    node = nodes[0]
    if engine is None and (engine_version or engine_flags):
        raise InputError(
            "--engine-version and engine flags belong to one engine", "add --engine vllm or sglang"
        )
    if available_kv_gib is not None and not 0 < available_kv_gib < float("inf"):
        raise InputError(
            f"--available-kv-gib {available_kv_gib} is not a memory size", "copy it from the engine's log"
        )
    longest = spec.max_position_embeddings
    request = PlanRequest(
        model=spec,
        gpu=node.gpu,
        gpus=node.count,
        tp=tp if tp is not None else node.count,
        context=parse_tokens(context) if context else longest,
        concurrency=concurrency,
        kv_dtype=KvDtype(kv_dtype),
        engine_version=engine_version,
        accept_nearest_version=accept_nearest_version,
        available_kv_bytes=None if available_kv_gib is None else round(available_kv_gib * GIB),
        engine_flags=parse_engine_flags(engine_flags),
        output_tokens=parse_tokens(output_tokens),
        host_memory_bytes=node.host_memory_bytes,
        as_given=as_given,
    )
    engines = (engine,) if engine else all_engines()
    if find:
        requests = [replace(request, gpu=other.gpu, gpus=other.count) for other in nodes]
        fits = _answer_search(requests, find, engines, as_json=as_json)
    elif contexts:
        fits = _answer_sweep(request, parse_token_list(contexts), engines, as_json=as_json)
    elif context is None:
        raise InputError("nothing is asked", "give --context, --contexts or --find context")
    else:
        name = engine_model_name(model)
        fits = _answer_plan(request, name, engines, explain=explain, as_json=as_json)
    if not fits:
        sys.exit(EXIT_DOES_NOT_FIT)


def _answer_plan(
    request: PlanRequest, model: str, engines: tuple[Engine, ...], *, explain: bool, as_json: bool
) -> bool:
    plans, refusals = plan_engines(request, engines)
    fixes = {}
    alone = len(engines) == 1
    lacking = [plan for plan in plans if not (plan.fits_with_defaults if alone else plan.fits)]
    if lacking:
        from farspan.planner.levers import find_fix

        named = {engine.name: engine for engine in engines}
        fixes = {plan.engine: find_fix(request, plan, named[plan.engine]) for plan in lacking}
    if as_json:
        from farspan.planner.build_document import build_plan

        _print_json(build_plan(request, plans, refusals, fixes).to_json())
    else:
        from farspan.planner import plan_text as text

        _print(text.answer_lines(request, model, plans, refusals, fixes, explain=explain, width=_width()))
    return any(plan.fits for plan in plans)


def _answer_sweep(
    request: PlanRequest, contexts: tuple[int, ...], engines: tuple[Engine, ...], *, as_json: bool
) -> bool:
    from farspan.planner import plan_text as text
    from farspan.planner.build_document import build_sweep
    from farspan.planner.sweep import sweep

    points = list(sweep(request, contexts, engines))
    if as_json:
        _print_json(build_sweep(request, points).to_json())
    else:
        click.echo(text.where(request))
        _print(text.sweep_lines(points, _fix_shortest(request, points, engines), width=_width()))
    served = {point.context for point in points if point.fits}
    return served == set(contexts)


def _fix_shortest(
    request: PlanRequest, points: Iterable[SweepPoint], engines: tuple[Engine, ...]
) -> dict[str, Fix]:
    """By engine, what makes the shortest context fit that does not."""
    from farspan.planner.levers import find_fix

    named = {engine.name: engine for engine in engines}
    failing: dict[str, SweepPoint] = {}
    for point in points:
        if point.plan is not None and not point.fits:
            shortest = failing.setdefault(point.engine, point)
            failing[point.engine] = min(shortest, point, key=lambda one: one.context)
    return {
        name: find_fix(request.at(point.context), point.plan, named[name])
        for name, point in failing.items()
        if point.plan is not None
    }


def _width() -> int | None:
    """Columns of the terminal; None where the output goes elsewhere, and lines stay whole."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _answer_search(
    requests: list[PlanRequest], find: str, engines: tuple[Engine, ...], *, as_json: bool
) -> bool:
    from farspan.planner import plan_text as text
    from farspan.planner.build_document import build_search, build_search_by_gpu
    from farspan.planner.questions import Question, search

    question = Question(find)
    found = [(request, search(request, question, engines)) for request in requests]
    if not as_json:
        for request, answers in found:
            _print(text.search_lines(request, question, answers, width=_width()))
    elif len(found) == 1:
        _print_json(build_search(found[0][0], question, found[0][1]).to_json())
    else:
        searches = {request.gpu.name: build_search(request, question, answers) for request, answers in found}
        _print_json(build_search_by_gpu(question, searches).to_json())
    return any(answer.value for _, answers in found for answer in answers)
