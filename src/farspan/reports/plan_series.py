"""Plans that no run belongs to: what `farspan plan --json` printed, read as the rows and series of a report."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from farspan.errors import InputError
from farspan.measurement.runs.result import Result
from farspan.planner.document import PlanDocument, PlanPart, SearchPlan, SinglePlan
from farspan.planner.document_records import (
    EngineRecord,
    FoundRecord,
    LedgerRecord,
    LeverRecord,
    RequestRecord,
)
from farspan.reports.expectation import Expectation, expect
from farspan.reports.report_run import MOST_RUNS, name_engine

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """What the plan says of one context; None or empty where it does not.

    Args:
        context, concurrency: Tokens of a request, and how many at once.
        fits: Whether it does, with the planned flags.
        refused: Whether the planner would not plan it at all.
        reason: Why it fits, does not, or is refused.
        expected_s, floor_s, itl_s: TTFT to expect, TTFT that no such hardware can beat, and time between tokens, in
            seconds, of a request alone on the server.
        rate: Prefill, tokens a second.
        capacity: Tokens of the longest single request that would fit.
        most: Requests of this context that fit at once.
        kv_bytes: Room for KV on one GPU.
    """

    context: int | None
    concurrency: int | None
    fits: bool
    refused: bool
    reason: str
    expected_s: float | None
    floor_s: float | None
    itl_s: float | None
    rate: float | None
    capacity: int | None
    most: float | None
    kv_bytes: float | None


@dataclass(frozen=True, slots=True)
class PlanSeries:
    """One engine on one kind of GPU: what a report shows as a series.

    Args:
        key: `a`, `b`, ...: its name in drawings and anchors.
        name: What tells it from the others.
        model, engine, hardware: In words.
        facts: What was asked, as the plan has it.
        rows: By context.
        find, found: What was searched for (`context`, `concurrency`, `gpus`, else empty) and the answer.
        plan: Its times, memory and flags; None when it was refused throughout.
        command: Environment and flags, ready to paste; empty when there are none.
        added: Flags that the planner added to the engine's defaults.
        changes: What else would help, each alone, where it does not fit.
        remedy: What makes it fit together, and those flags; empty when nothing does or need be.
        warnings, notes: The plan's own.
        bases: Ledger lines and their bytes by basis: `mirrored`, `fitted`, `assumed`.
        gpu_basis: Where the GPU's memory is from.
    """

    key: str
    name: str
    model: str
    engine: str
    hardware: str
    facts: tuple[tuple[str, str], ...]
    rows: tuple[PlannedRow, ...]
    find: str
    found: int | None
    plan: Expectation | None
    command: str
    added: tuple[str, ...]
    changes: tuple[LeverRecord, ...]
    remedy: tuple[str, str]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    bases: Mapping[str, tuple[int, float]]
    gpu_basis: str

    @property
    def results(self) -> tuple[Result, ...]:
        """Nothing was measured."""
        return ()

    @property
    def fits(self) -> bool:
        """Whether all that was asked fits."""
        return bool(self.rows) and all(row.fits for row in self.rows)


def is_plan(path: Path) -> bool:
    """Tell whether a path is a file, as a plan is, and not a run folder."""
    return path.is_file()


def load_plans(paths: Sequence[Path]) -> tuple[PlanSeries, ...]:
    """Read plans: every engine of every plan is a series.

    Args:
        paths: Files of `farspan plan --json`: of one context, a sweep, or a search.

    Raises:
        InputError: One cannot be read or is no plan, or there are too many series for one page.
    """
    series = [
        _read_engine(part, engine)
        for path in paths
        for part in PlanDocument.load(path).parts
        for engine in part.engines
    ]
    if len(series) > MOST_RUNS:
        raise InputError(
            f"{len(series)} plans are too many for one page",
            f"a page takes {MOST_RUNS}: plan one engine with --engine, or make several reports",
        )
    keyed = [replace(one, key=chr(ord("a") + index)) for index, one in enumerate(series)]
    return _name_apart(keyed)


def _read_engine(part: PlanPart, engine: str) -> PlanSeries:
    request = part.request
    found = part.found.get(engine) if isinstance(part, SearchPlan) else None
    find = part.find if isinstance(part, SearchPlan) and found and found.value > 0 else ""
    if find == "gpus" and found:
        request = replace(request, gpus=found.value)
    concurrency = found.value if find == "concurrency" and found else request.concurrency
    answers = part.answers_of(engine)
    rows = tuple(_row(answer, _positive(concurrency)) for answer in answers)
    if not rows:
        why = found.refusal if found else None
        rows = (_unanswered(_positive(request.context), _positive(concurrency), why),)
    planned = [answer for answer in answers if not answer.refused]
    last = planned[-1] if planned else None
    fix = last.fix if last else None
    return PlanSeries(
        key="",
        name="",
        model=request.model or "a model",
        engine=f"{name_engine(engine)} {last.version or '' if last else ''}".strip(),
        hardware=request.hardware,
        facts=_list_facts(part, request, found),
        rows=rows,
        find=find,
        found=found.value if find and found else None,
        plan=expect(part, engine),
        command=_write_command(last.env, last.flags) if last else "",
        added=last.added if last else (),
        changes=last.levers if last else (),
        remedy=(" ".join(fix.changes), _write_command(fix.env, fix.flags)) if fix else ("", ""),
        warnings=last.warnings if last else (),
        notes=last.notes if last else (),
        bases=_sum_bases(last.ledger if last else ()),
        gpu_basis=request.gpu_memory_basis,
    )


def _row(answer: EngineRecord, concurrency: int | None) -> PlannedRow:
    ttft, itl = answer.ttft_s, answer.itl_s
    return PlannedRow(
        context=_positive(answer.context),
        concurrency=concurrency,
        fits=answer.fits,
        refused=answer.refused,
        reason=answer.reason,
        expected_s=_positive(ttft.expected) if ttft else None,
        floor_s=_positive(ttft.floor) if ttft else None,
        itl_s=_positive(itl.expected) if itl else None,
        rate=_positive(answer.prefill_tokens_per_s),
        capacity=_positive(answer.capacity_tokens),
        most=_positive(answer.max_concurrency),
        kv_bytes=_positive(answer.kv_room_bytes),
    )


def _unanswered(context: int | None, concurrency: int | None, refusal: str | None) -> PlannedRow:
    """The row of a search that found nothing, or was refused."""
    return PlannedRow(
        context=context,
        concurrency=concurrency,
        fits=False,
        refused=bool(refusal),
        reason=refusal or "nothing fits",
        expected_s=None,
        floor_s=None,
        itl_s=None,
        rate=None,
        capacity=None,
        most=None,
        kv_bytes=None,
    )


def _list_facts(
    part: PlanPart, request: RequestRecord, found: FoundRecord | None
) -> tuple[tuple[str, str], ...]:
    tp = (found.tp if found else None) or request.tp
    layout = f", TP {tp}" if tp else ""
    if found and found.servers > 1:
        layout += f", {found.servers} servers"
    notes = "; ".join(request.notes)
    kv = part.kv if isinstance(part, SinglePlan) else None
    return (
        ("Model", request.model + (f": {notes}" if notes else "")),
        ("Hardware", f"{request.hardware}{layout}"),
        ("Answers", f"{max(0, request.output_tokens):,} tokens, within the context"),
        ("KV cache", kv.dtype if kv else request.kv_dtype),
    )


def _sum_bases(ledger: Sequence[LedgerRecord]) -> dict[str, tuple[int, float]]:
    """Return lines and bytes of one GPU's ledger by basis."""
    sums: dict[str, tuple[int, float]] = {}
    for line in ledger:
        if line.on_gpu:
            count, size = sums.get(line.basis, (0, 0.0))
            sums[line.basis] = (count + 1, size + line.bytes)
    return sums


def _write_command(environment: Mapping[str, str], flags: Sequence[str]) -> str:
    variables = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return " ".join([*variables, *map(shlex.quote, flags)])


def _positive(value: _Number | None) -> _Number | None:
    """A figure, or None where the plan does not have it: 0 is no figure of any of them."""
    return value if value is not None and value > 0 else None


def _name_apart(series: Sequence[PlanSeries]) -> tuple[PlanSeries, ...]:
    """Name every series by its engine, with what differs behind it: hardware, model, else its letter."""
    named = [replace(one, name=one.engine) for one in series]
    for attribute in ("hardware", "model"):
        values: dict[str, set[str]] = {}
        for one in named:
            values.setdefault(one.name, set()).add(getattr(one, attribute))
        named = [
            replace(one, name=f"{one.name}, {getattr(one, attribute)}") if len(values[one.name]) > 1 else one
            for one in named
        ]
    counted = Counter(one.name for one in named)
    return tuple(
        replace(one, name=f"{one.key.upper()}: {one.name}") if counted[one.name] > 1 else one for one in named
    )
