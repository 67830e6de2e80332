"""Plans as JSON objects, for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from farspan.planner.kvcost import kv_cost
from farspan.sizes import GIB

if TYPE_CHECKING:
    from farspan.planner.ledger import MemoryLedger
    from farspan.planner.levers import Fix, Lever
    from farspan.planner.questions import Question, SearchResult
    from farspan.planner.request import EnginePlan, PlanRequest
    from farspan.planner.sweep import SweepPoint


def _gib(count: float) -> float:
    return round(count / GIB, 4)


def ledger_object(ledger: MemoryLedger) -> list[dict[str, Any]]:
    """The lines of a ledger."""
    return [
        {
            "name": line.name,
            "bytes": line.bytes,
            "gib": _gib(line.bytes),
            "when": line.when.value,
            "where": "host" if line.on_host else "gpu",
            "grows_with": line.grows_with,
            "formula": line.formula,
            "source": line.source,
            "basis": line.basis.value,
        }
        for line in ledger
    ]


def _seconds(seconds: float) -> float:
    """To six digits, however short: a tiny model's floor is microseconds, and 0 would say that it was not estimated."""
    return float(f"{seconds:.6g}")


def time_objects(plan: EnginePlan) -> dict[str, Any]:
    """The keys of a plan's times; None where no time was estimated."""
    time = plan.time
    if time is None:
        return {"ttft_s": None, "itl_s": None, "prefill_tokens_per_s": None}
    return {
        "ttft_s": {
            "floor": _seconds(time.ttft_floor_s),
            "expected": _seconds(time.ttft_expected_s),
            "basis": time.basis,
            "fitted": time.fitted,
            "terms": [
                {
                    "name": term.name,
                    "floor": _seconds(term.floor_s),
                    "expected": _seconds(term.expected_s),
                    "formula": term.formula,
                }
                for term in time.terms
            ],
        },
        "itl_s": {"floor": _seconds(time.itl_floor_s), "expected": _seconds(time.itl_expected_s)},
        "prefill_tokens_per_s": round(time.prefill_rate, 1),
    }


def plan_object(plan: EnginePlan) -> dict[str, Any]:
    """One engine's plan."""
    return {
        "engine": plan.engine,
        "version": plan.version,
        "starts": plan.starts,
        "fits": plan.fits,
        "fits_with_defaults": plan.fits_with_defaults,
        "added": list(plan.added),
        "reason": plan.reason,
        "weights_gib": _gib(plan.weights_bytes),
        "available_kv_gib": _gib(plan.available_kv_bytes),
        "available_kv_bytes": plan.available_kv_bytes,
        "capacity_tokens": plan.capacity_tokens,
        "max_concurrency": round(plan.max_concurrency, 4),
        "printed": dict(plan.printed),
        "pools": dict(plan.pools),
        "ledger": ledger_object(plan.ledger),
        "free_gib": _gib(plan.ledger.free_bytes),
        "flags": list(plan.flags),
        "env": dict(plan.env),
        "warnings": list(plan.warnings),
        **time_objects(plan),
    }


def lever_object(lever: Lever) -> dict[str, Any]:
    """One lever."""
    return {
        "change": lever.change,
        "costs": lever.costs,
        "bytes_freed": lever.bytes_freed,
        "capacity_tokens": lever.capacity_tokens,
        "fits": lever.fits,
    }


def fix_object(fix: Fix) -> dict[str, Any] | None:
    """The levers that together make it fit, and the plan after them."""
    if not fix.pull:
        return None
    after = fix.pull[-1].plan
    return {
        "changes": [lever.change for lever in fix.pull],
        "flags": list(after.flags),
        "env": dict(after.env),
        "version": after.version,
        "capacity_tokens": after.capacity_tokens,
        "max_concurrency": round(after.max_concurrency, 4),
    }


def request_object(request: PlanRequest) -> dict[str, Any]:
    """What was asked."""
    return {
        "model": request.model.name,
        "gpu": request.gpu.name,
        "gpu_memory_bytes": request.gpu.memory_bytes,
        "gpu_memory_basis": request.gpu.memory_origin.value,
        "gpus": request.gpus,
        "tp": request.tp,
        "context": request.context,
        "concurrency": request.concurrency,
        "output_tokens": request.output_tokens,
        "kv_dtype": request.kv_dtype.value,
        "notes": list(request.model.notes),
    }


def kv_object(request: PlanRequest) -> dict[str, Any]:
    """What one request keeps on one GPU, engines' rounding apart."""
    cost = kv_cost(request)
    return {
        "dtype": cost.dtype,
        "bytes_per_token": cost.bytes_per_token,
        "bytes": cost.bytes,
        "gib": _gib(cost.bytes),
        "kinds": [{"layers": kind.layers, "keeps": kind.keeps, "bytes": kind.bytes} for kind in cost.kinds],
    }


def refusal_object(engine: str, why: str) -> dict[str, Any]:
    """An engine that refuses the request, with every key of a plan."""
    none = dict.fromkeys(("version", "weights_gib", "available_kv_gib", "available_kv_bytes", "free_gib"))
    empty: dict[str, Any] = {"printed": {}, "pools": {}, "ledger": [], "flags": [], "env": {}, "warnings": []}
    return {
        "engine": engine,
        "refused": True,
        "starts": False,
        "fits": False,
        "fits_with_defaults": False,
        "added": [],
        "reason": why,
        "capacity_tokens": 0,
        "max_concurrency": 0.0,
        **none,
        **empty,
        "ttft_s": None,
        "itl_s": None,
        "prefill_tokens_per_s": None,
        "levers": [],
        "fix": None,
    }


def answer_object(
    request: PlanRequest,
    plans: Iterable[EnginePlan],
    refusals: Mapping[str, str],
    fixes: Mapping[str, Fix],
) -> dict[str, Any]:
    """The whole answer: the request, every engine under `engines`, a single engine's keys at the top too."""
    engines: dict[str, Any] = {}
    for plan in plans:
        engines[plan.engine] = plan_object(plan)
        fix = fixes.get(plan.engine)
        engines[plan.engine]["levers"] = [lever_object(lever) for lever in fix.levers] if fix else []
        engines[plan.engine]["fix"] = fix_object(fix) if fix and not plan.fits else None
    for engine, why in refusals.items():
        engines[engine] = refusal_object(engine, why)
    answer: dict[str, Any] = {}
    if len(engines) == 1:
        answer.update(next(iter(engines.values())))
    for key in ("fits", "fits_with_defaults"):
        answer[key] = any(engine[key] for engine in engines.values())
    return {**request_object(request), "kv": kv_object(request), **answer, "engines": engines}


def point_object(point: SweepPoint) -> dict[str, Any]:
    """One row of a sweep."""
    row: dict[str, Any] = {"context": point.context, "engine": point.engine, "fits": point.fits}
    plan = point.plan
    if plan is None:
        return {**row, "fits_with_defaults": False, "added": [], "reason": point.refusal, "refused": True}
    return {
        **row,
        "fits_with_defaults": plan.fits_with_defaults,
        "added": list(plan.added),
        "version": plan.version,
        "reason": plan.reason,
        "capacity_tokens": plan.capacity_tokens,
        "max_concurrency": round(plan.max_concurrency, 4),
        "available_kv_gib": _gib(plan.available_kv_bytes),
        "printed": dict(plan.printed),
        **time_objects(plan),
    }


def sweep_object(request: PlanRequest, points: Iterable[SweepPoint]) -> dict[str, Any]:
    """A whole sweep."""
    asked = request_object(request)
    del asked["context"]
    return {**asked, "points": [point_object(point) for point in points]}


def search_object(request: PlanRequest, question: Question, found: Iterable[SearchResult]) -> dict[str, Any]:
    """The answers to a search, by engine."""
    asked = request_object(request)
    for key in ("gpus", "tp") if question.value == "gpus" else (question.value,):
        del asked[key]
    engines: dict[str, Any] = {}
    for answer in found:
        engines[answer.engine] = {
            "value": answer.value,
            "tp": answer.tp,
            "servers": answer.servers if answer.value else 0,
            "refusal": answer.refusal or None,
        }
        if answer.plan is not None:
            engines[answer.engine].update(plan_object(answer.plan))
    return {**asked, "find": question.value, "engines": engines}


def searches_object(question: Question, answers: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One search for several kinds of GPU, by kind."""
    return {"find": question.value, "by_gpu": dict(answers)}
