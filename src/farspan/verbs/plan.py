"""Say what fits, with which flags, and how long it takes, before anything is launched.

Modules are imported where they are used: a plan must answer in 0.3 s, and imports are most of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from farspan.engines.engine import Engine
from farspan.engines.flag_ranks import choose_tp
from farspan.engines.registry import all_engines, get_engine
from farspan.errors import InputError
from farspan.hardware.gpu import Node
from farspan.hardware.node_spelling import parse_node
from farspan.models.config import engine_model_name, keeps_weights_so, load_model
from farspan.models.rope_override import OVERRIDE_FLAGS
from farspan.models.spec import KvDtype, ModelSpec, parse_kv_dtype
from farspan.planner.answers import PlanAnswer, SearchAnswer, SweepAnswer
from farspan.planner.calibration_store import load_calibrations
from farspan.planner.engine_flags import check_kv_dtypes, parse_engine_flags
from farspan.planner.load_time import NO_GOALS, TimeGoals
from farspan.planner.plan import plan_engines
from farspan.planner.remarks import ELASTIC_ALWAYS
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.sizes import (
    GIB,
    LONGEST_WORDS,
    format_tokens,
    parse_seconds,
    parse_token_list,
    parse_tokens,
)

if TYPE_CHECKING:
    from farspan.planner.levers import Fix
    from farspan.planner.sweep import SweepPoint

LONGEST = "max"  # as a context: the longest that fits

# Tokens of an answer where none are said; a context shorter than that is planned all the same.
_USUAL_ANSWER = 200


def plan(
    model: str | ModelSpec,
    *,
    gpus: str | Node = "detect",
    tp: int | None = None,
    engine: str | Engine | None = None,
    engine_version: str = "",
    accept_nearest_version: bool = False,
    context: str | int | None = None,
    contexts: str | Sequence[str | int] | None = None,
    concurrency: int = 1,
    output_tokens: str | int = 200,
    kv_dtype: str | KvDtype = KvDtype.AUTO,
    weights: str | None = None,
    available_kv_gib: float | None = None,
    find: str | None = None,
    as_given: bool = False,
    offline: bool = False,
    ignore_fields: Sequence[str] = (),
    rope_scaling: str = "",
    gpu_memory_gib: float | None = None,
    ttft: str | float | None = None,
    itl: str | float | None = None,
    no_calibration: bool = False,
    elastic: bool = False,
    engine_flags: Sequence[str] = (),
) -> PlanAnswer | SweepAnswer | SearchAnswer:
    """Plan a model on some GPUs: one context, several (`contexts`), or a search (`find`).

    Args:
        model: A catalog name, a config.json, its folder, a hub id, or a ModelSpec.
        gpus: "8xH200", "detect", or a Node; several kinds, with commas, for `find="gpus"`.
        tp: Tensor-parallel size; the largest the heads allow when None.
        engine: One engine; all of them side by side when None.
        engine_version: The engine's version; the newest known when empty.
        accept_nearest_version: Whether an unknown version is planned as the nearest.
        context: Longest request in tokens, prompt and answer together: a number, text such as "10M", or "max" (or
            "auto") for the longest that fits.
        contexts: Several contexts; "max" may be one of them.
        concurrency: Requests of that length at once.
        output_tokens: Tokens of the answer.
        kv_dtype: Type of the KV cache.
        weights: Plan as if the weights were kept so, such as "fp8".
        available_kv_gib: KV memory of one GPU as the engine's log says, GiB.
        find: "context", "concurrency" or "gpus".
        as_given: Whether exactly the flags given are judged, and none is added.
        offline: Whether the Hugging Face hub may not be asked.
        ignore_fields: Unknown fields of the model's config that cannot change memory.
        rope_scaling: RoPE scaling to plan with, such as "yarn:4".
        gpu_memory_gib: Memory of one GPU as torch sees it, for a kind the catalog lacks, GiB.
        ttft: Longest time to the first token of any of `concurrency` requests sent at once: "60s", or seconds.
        itl: Longest time between tokens while all of them decode: "50ms", or seconds.
        no_calibration: Whether what was calibrated on this machine is left out.
        elastic: Whether the KV cache takes memory as requests come: SGLang with farspan's plug-in.
        engine_flags: The engine's own flags, and NAME=VALUE for environment variables.

    Raises:
        InputError: Something given cannot be used, or no engine takes the request.
    """
    context = read_context(context)
    if elastic:
        if engine is None:
            raise InputError("--elastic belongs to one engine", "add --engine sglang")
        chosen = get_engine(engine) if isinstance(engine, str) else engine
        engine_flags = chosen.with_elastic(tuple(engine_flags))
    flags = parse_engine_flags(tuple(engine_flags))
    spec = (
        load_model(
            model,
            weights=weights or "",
            allow_network=not offline,
            ignore_fields=ignore_fields,
            rope_scaling=rope_scaling,
            override=_override(flags),
        )
        if isinstance(model, str)
        else model
    )
    nodes = (
        [parse_node(part, gpu_memory_gib) for part in gpus.split(",")] if isinstance(gpus, str) else [gpus]
    )
    if len(nodes) > 1 and find != "gpus":
        raise InputError(f"--gpus {gpus} names several kinds", "name one, or ask --find gpus for each")
    if engine is None and (engine_version or engine_flags):
        raise InputError(
            "--engine-version and engine flags belong to one engine", "add --engine vllm or sglang"
        )
    if available_kv_gib is not None and not 0 < available_kv_gib < float("inf"):
        raise InputError(
            f"--available-kv-gib {available_kv_gib} is not a memory size", "copy it from the engine's log"
        )
    if contexts and context is not None:
        raise InputError("--context and --contexts both say how long requests are", "give one of them")
    check_kv_dtypes(parse_kv_dtype(kv_dtype), flags)
    _check_answer(context, parse_tokens(str(output_tokens)))
    node = nodes[0]
    goals = TimeGoals(*(None if goal is None else parse_seconds(str(goal)) for goal in (ttft, itl)))
    if contexts and goals != NO_GOALS:
        raise InputError("--ttft and --itl judge one context or a search", "ask --find context instead")
    request = PlanRequest(
        model=spec,
        gpu=node.gpu,
        gpus=node.count,
        tp=tp if tp is not None else choose_tp(spec, node.count, flags),
        context=spec.max_position_embeddings if context in (None, LONGEST) else parse_tokens(str(context)),
        concurrency=concurrency,
        kv_dtype=parse_kv_dtype(kv_dtype),
        engine_version=engine_version,
        accept_nearest_version=accept_nearest_version,
        available_kv_bytes=None if available_kv_gib is None else round(available_kv_gib * GIB),
        engine_flags=flags,
        output_tokens=parse_tokens(str(output_tokens)),
        host_memory_bytes=node.host_memory_bytes,
        as_given=as_given,
        calibrations=() if no_calibration else load_calibrations(),
    )
    engines = (
        all_engines() if engine is None else (get_engine(engine) if isinstance(engine, str) else engine,)
    )
    if find:
        requests = [replace(request, gpu=other.gpu, gpus=other.count) for other in nodes]
        return _search(requests, find, engines, goals)
    if contexts:
        from farspan.planner.sweep import sweep

        lengths = _read_lengths(contexts, request, engines)
        points = tuple(sweep(request, lengths, engines))
        return SweepAnswer(request, points, _fix_shortest(request, points, engines))
    if context is None:
        raise InputError("nothing is asked", "give --context, --contexts or --find context")
    if context == LONGEST:
        request = longest_request(request, engines)
    name = engine_model_name(model) if isinstance(model, str) else spec.name
    if weights and isinstance(model, str) and not keeps_weights_so(model, weights, allow_network=not offline):
        name = f"PATH_TO_A_CHECKPOINT_IN_{weights.upper()}"  # the model's own is not the one that was planned
    answer = _plan(request, name, engines, goals)
    if not elastic or engines[0].elastic_words():
        return answer
    plans = tuple(replace(one, notes=(*one.notes, ELASTIC_ALWAYS)) for one in answer.plans)
    return replace(answer, plans=plans)


def longest_request(request: PlanRequest, engines: Sequence[Engine]) -> PlanRequest:
    """The request at the longest context that some engine serves as often at once; at the model's where none does.

    Raises:
        InputError: Every engine refuses the request.
    """
    from farspan.planner.questions import largest_context

    longest, refusals = 0, []
    for engine in engines:
        try:
            longest = max(longest, largest_context(request, engine))
        except InputError as error:
            refusals.append(error)
    if len(refusals) == len(engines):
        raise refusals[0]
    return request.at(longest) if longest else request


def read_context(context: str | int | None) -> str | int | None:
    """Return a context as it is given, the longest that fits as `LONGEST` however it is written."""
    if not isinstance(context, str):
        return context
    return LONGEST if context.strip().lower() in LONGEST_WORDS else context


def _read_lengths(
    contexts: str | Sequence[str | int], request: PlanRequest, engines: Sequence[Engine]
) -> tuple[int, ...]:
    """The contexts of a sweep, the longest that fits among them where it is asked for."""
    words = contexts.split(",") if isinstance(contexts, str) else [str(length) for length in contexts]
    given = [read_context(word.strip()) for word in words]
    if LONGEST not in given:
        return parse_token_list(",".join(words))
    longest = longest_request(request, engines).context
    return tuple(dict.fromkeys(longest if word == LONGEST else parse_tokens(str(word)) for word in given))


def _override(flags: Mapping[str, str | None]) -> str:
    """The engine's own override of config fields, if one is given."""
    return next((flags[name] or "" for name in OVERRIDE_FLAGS if name in flags), "")


def _check_answer(context: str | int | None, answer: int) -> None:
    """Refuse an answer that leaves no room for a prompt.

    Raises:
        InputError: It does.
    """
    if context not in (None, LONGEST) and answer >= (length := parse_tokens(str(context))) > _USUAL_ANSWER:
        raise InputError(
            f"--output-tokens {format_tokens(answer)} leaves no room for a prompt in a context of "
            f"{format_tokens(length)}",
            "a context is prompt and answer together",
        )


def _plan(request: PlanRequest, model_name: str, engines: tuple[Engine, ...], goals: TimeGoals) -> PlanAnswer:
    plans, refusals = plan_engines(request, engines)
    alone = len(engines) == 1
    lacking = [plan for plan in plans if not (plan.fits_with_defaults if alone else plan.fits)]
    fixes = {}
    if lacking:
        from farspan.planner.levers import find_fix

        named = {engine.name: engine for engine in engines}
        fixes = {plan.engine: find_fix(request, plan, named[plan.engine]) for plan in lacking}
    return PlanAnswer(request, model_name, tuple(plans), refusals, fixes, goals)


def _fix_shortest(
    request: PlanRequest, points: Sequence[SweepPoint], engines: tuple[Engine, ...]
) -> dict[str, Fix]:
    """By engine, what makes the shortest context fit that does not."""
    failing: dict[str, tuple[int, EnginePlan]] = {}
    for point in points:
        if point.plan is not None and not point.fits:
            known = failing.get(point.engine)
            if known is None or point.context < known[0]:
                failing[point.engine] = (point.context, point.plan)
    if not failing:
        return {}
    from farspan.planner.levers import find_fix

    named = {engine.name: engine for engine in engines}
    return {
        name: find_fix(request.at(context), plan, named[name]) for name, (context, plan) in failing.items()
    }


def _search(
    requests: list[PlanRequest], find: str, engines: tuple[Engine, ...], goals: TimeGoals
) -> SearchAnswer:
    from farspan.planner.questions import Question, search

    try:
        question = Question(find)
    except ValueError:
        raise InputError(
            f"--find {find} is no question", f"ask one of {', '.join(kind.value for kind in Question)}"
        ) from None
    return SearchAnswer(
        question, tuple((request, tuple(search(request, question, engines, goals))) for request in requests)
    )
