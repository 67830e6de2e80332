"""From plans to the plan document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from farspan.models.spec import KvDtype
from farspan.models.weights import active_parameters, total_parameters
from farspan.planner.document import SearchByGpu, SearchPlan, SinglePlan, SweepPlan, searched_keys
from farspan.planner.document_records import (
    CalibrationRecord,
    EngineRecord,
    FixRecord,
    FoundRecord,
    ItlRecord,
    KvKindRecord,
    KvRecord,
    LedgerRecord,
    LeverRecord,
    LoadRecord,
    ParametersRecord,
    RequestRecord,
    TermRecord,
    TtftRecord,
)
from farspan.planner.kvcost import kv_cost
from farspan.planner.load_time import BASIS, LoadEstimate, estimate_load
from farspan.sizes import GIB

if TYPE_CHECKING:
    from farspan.planner.ledger import MemoryLedger
    from farspan.planner.levers import Fix
    from farspan.planner.questions import Question, SearchResult
    from farspan.planner.request import EnginePlan, PlanRequest
    from farspan.planner.sweep import SweepPoint
    from farspan.planner.timing import TimeEstimate


def _gib(count: float) -> float:
    return round(count / GIB, 4)


def _seconds(seconds: float) -> float:
    """To six digits, however short: a tiny model's floor is microseconds, and 0 would say that it was not estimated."""
    return float(f"{seconds:.6g}")


def build_plan(
    request: PlanRequest,
    plans: Iterable[EnginePlan],
    refusals: Mapping[str, str],
    fixes: Mapping[str, Fix],
) -> SinglePlan:
    """Put the plans of one context into a document.

    Args:
        request: What was asked.
        plans: The engines that planned it.
        refusals: Those that refuse it, and why.
        fixes: Levers, by engine, for those where it does not fit with the defaults.
    """
    records = {
        plan.engine: build_engine(request.context, plan, fixes.get(plan.engine), estimate_load(request, plan))
        for plan in plans
    }
    records |= {engine: _refused(engine, request.context, why) for engine, why in refusals.items()}
    cost = kv_cost(request)
    kinds = tuple(KvKindRecord(kind.layers, kind.keeps, kind.bytes) for kind in cost.kinds)
    kv = KvRecord(cost.dtype, cost.bytes_per_token, cost.bytes, _gib(cost.bytes), kinds)
    return SinglePlan(_request(request), kv, records)


def build_sweep(request: PlanRequest, points: Iterable[SweepPoint]) -> SweepPlan:
    """Put the plans of several contexts into a document."""
    records = (
        _refused(point.engine, point.context, point.refusal)
        if point.plan is None
        else _point(point.context, point.plan)
        for point in points
    )
    return SweepPlan(_request(request, without=("context",)), tuple(records))


def build_search(request: PlanRequest, question: Question, found: Iterable[SearchResult]) -> SearchPlan:
    """Put the answers to a search into a document."""
    records = {}
    for answer in found:
        context = answer.value if question.value == "context" else request.context
        records[answer.engine] = FoundRecord(
            value=answer.value,
            tp=answer.tp,
            servers=answer.servers if answer.value else 0,
            refusal=answer.refusal or None,
            why_not=answer.missed.words or None,
            missed_ttft_s=answer.missed.ttft_s,
            missed_itl_s=answer.missed.itl_s,
            plan=None if answer.plan is None else build_engine(context, answer.plan),
        )
    return SearchPlan(_request(request, without=searched_keys(question.value)), question.value, records)


def build_search_by_gpu(question: Question, searches: Mapping[str, SearchPlan]) -> SearchByGpu:
    """Put one search for several kinds of GPU into a document."""
    return SearchByGpu(question.value, dict(searches))


def build_engine(
    context: int, plan: EnginePlan, fix: Fix | None = None, load: LoadEstimate | None = None
) -> EngineRecord:
    """Put one engine's plan into a record, with its levers where there are any, and its times under load."""
    times = _times(plan.time)
    return EngineRecord(
        engine=plan.engine,
        context=context,
        version=plan.version,
        starts=plan.starts,
        fits=plan.fits,
        fits_with_defaults=plan.fits_with_defaults,
        added=tuple(plan.added),
        reason=plan.reason,
        weights_gib=_gib(plan.weights_bytes),
        available_kv_gib=_gib(plan.available_kv_bytes),
        available_kv_bytes=plan.available_kv_bytes,
        capacity_tokens=plan.capacity_tokens,
        max_concurrency=round(plan.max_concurrency, 4),
        printed=dict(plan.printed),
        pools=dict(plan.pools),
        ledger=_ledger(plan.ledger),
        free_gib=_gib(plan.ledger.free_bytes),
        flags=tuple(plan.flags),
        env=dict(plan.env),
        warnings=tuple(plan.warnings),
        notes=tuple(plan.notes),
        ttft_s=times[0],
        itl_s=times[1],
        prefill_tokens_per_s=times[2],
        under_load=_load(load),
        levers=_levers(fix) if fix else (),
        fix=_fix(fix) if fix and not plan.fits else None,
        calibration=_calibration(plan),
        request_kv_bytes=plan.request_kv_bytes,
        request_kv_reason=plan.request_kv_reason,
    )


def _point(context: int, plan: EnginePlan) -> EngineRecord:
    """A row of a sweep: what is planned without a ledger."""
    ttft, itl, rate = _times(plan.time)
    return EngineRecord(
        engine=plan.engine,
        context=context,
        version=plan.version,
        fits=plan.fits,
        fits_with_defaults=plan.fits_with_defaults,
        added=tuple(plan.added),
        reason=plan.reason,
        available_kv_gib=_gib(plan.available_kv_bytes),
        capacity_tokens=plan.capacity_tokens,
        max_concurrency=round(plan.max_concurrency, 4),
        printed=dict(plan.printed),
        ttft_s=ttft,
        itl_s=itl,
        prefill_tokens_per_s=rate,
        calibration=_calibration(plan),
    )


def _calibration(plan: EnginePlan) -> CalibrationRecord | None:
    used = plan.calibration
    if used is None:
        return None
    return CalibrationRecord(used.date, used.model, used.runs, used.fitted, str(used.key))


def _load(load: LoadEstimate | None) -> LoadRecord | None:
    if load is None:
        return None
    return LoadRecord(
        load.concurrency,
        load.running,
        _seconds(load.ttft_first_s),
        _seconds(load.ttft_mean_s),
        _seconds(load.ttft_last_s),
        _seconds(load.itl_s),
        BASIS,
    )


def _refused(engine: str, context: int, why: str) -> EngineRecord:
    return EngineRecord(
        engine=engine,
        context=context,
        refused=True,
        fits=False,
        fits_with_defaults=False,
        added=(),
        reason=why,
    )


def _request(request: PlanRequest, without: tuple[str, ...] = ()) -> RequestRecord:
    model = request.model
    numbers = {
        "gpus": request.gpus,
        "tp": request.tp,
        "context": request.context,
        "concurrency": request.concurrency,
    }
    return RequestRecord(
        model=model.name,
        gpu=request.gpu.name,
        gpu_memory_bytes=request.gpu.memory_bytes,
        gpu_memory_basis=request.gpu.memory_origin.value,
        **{name: value for name, value in numbers.items() if name not in without},
        output_tokens=request.output_tokens,
        kv_dtype=request.kv_dtype.value,
        notes=request.notes,
        parameters=ParametersRecord(total_parameters(model).total, active_parameters(model).total),
        kv_bytes_per_token=model.kv_bytes_per_token(KvDtype.BFLOAT16),
    )


def _ledger(ledger: MemoryLedger) -> tuple[LedgerRecord, ...]:
    return tuple(
        LedgerRecord(
            name=line.name,
            bytes=line.bytes,
            gib=_gib(line.bytes),
            when=line.when.value,
            where="host" if line.on_host else "gpu",
            grows_with=line.grows_with,
            formula=line.formula,
            source=line.source,
            basis=line.basis.value,
        )
        for line in ledger
    )


def _times(time: TimeEstimate | None) -> tuple[TtftRecord | None, ItlRecord | None, float | None]:
    """TTFT, time between tokens and prefill rate; None where no time was estimated."""
    if time is None:
        return None, None, None
    terms = tuple(
        TermRecord(term.name, _seconds(term.floor_s), _seconds(term.expected_s), term.formula)
        for term in time.terms
    )
    ttft = TtftRecord(
        _seconds(time.ttft_floor_s), _seconds(time.ttft_expected_s), time.basis, time.fitted, terms
    )
    itl = ItlRecord(_seconds(time.itl_floor_s), _seconds(time.itl_expected_s))
    return ttft, itl, round(time.prefill_rate, 1)


def _levers(fix: Fix) -> tuple[LeverRecord, ...]:
    return tuple(
        LeverRecord(lever.change, lever.costs, lever.bytes_freed, lever.capacity_tokens, lever.fits)
        for lever in fix.levers
    )


def _fix(fix: Fix) -> FixRecord | None:
    """The levers that together make it fit, and the plan after them."""
    if not fix.pull:
        return None
    after = fix.pull[-1].plan
    return FixRecord(
        changes=tuple(lever.change for lever in fix.pull),
        flags=tuple(after.flags),
        env=dict(after.env),
        version=after.version,
        capacity_tokens=after.capacity_tokens,
        max_concurrency=round(after.max_concurrency, 4),
    )
