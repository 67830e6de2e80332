"""Plans as plain text: the answer first, then flags to paste, then the ledger."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from farspan.planner.kvcost import kv_cost
from farspan.sizes import GIB, format_bytes, format_seconds, format_tokens

if TYPE_CHECKING:
    from farspan.planner.levers import Fix, Lever
    from farspan.planner.questions import Question, SearchResult
    from farspan.planner.request import EnginePlan, PlanRequest
    from farspan.planner.sweep import SweepPoint


def table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Rows as aligned columns; the columns in `right` are aligned to the right."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned = set(right)
    lines = []
    for row in rows:
        cells = [
            cell.rjust(widths[column]) if column in aligned else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def where(request: PlanRequest) -> str:
    """The model and the GPUs in words."""
    gpus = f"{request.gpus}x {request.gpu.name}"
    return f"{request.model.name} on {gpus}, TP {request.tp}"


def answer_line(request: PlanRequest, plans: Sequence[EnginePlan], refusals: Mapping[str, str]) -> str:
    """The answer in one line."""
    what = format_tokens(request.context)
    if request.concurrency > 1:
        what = f"{request.concurrency} x {what}"
    good = [plan for plan in plans if plan.fits]
    if good and len(plans) + len(refusals) > 1:
        names = ", ".join(f"{plan.engine} {plan.version} ({plan.max_concurrency:.2f}x)" for plan in good)
        rest = [plan.engine for plan in plans if not plan.fits] + list(refusals)
        but = f"; not on {', '.join(rest)}" if rest else ""
        return f"{what} fits {where(request)} with {names}{but}."
    if good:
        plan = good[0]
        added = f" and {' '.join(plan.added)}" if plan.added else ""
        named = f"{plan.engine} {plan.version}{added} ({plan.max_concurrency:.2f}x)"
        return f"{what} fits {where(request)} with {named}: {plan.reason}."
    if len(plans) == 1:
        engine = f"{plans[0].engine} {plans[0].version}"
        return f"{what} does not fit {where(request)} with {engine}: {plans[0].reason}."
    return f"{what} does not fit {where(request)} on any of {', '.join(plan.engine for plan in plans)}."


def command_lines(plan: EnginePlan, model: str) -> list[str]:
    """The engine's command, environment first, ready to paste."""
    words = [word.format(model=shlex.quote(model)) for word in plan.program]
    environment = [f"{name}={shlex.quote(value)}" for name, value in plan.env.items()]
    lines, current = [], " ".join([*environment, *words])
    for word in plan.flags:
        if word.startswith("--"):
            lines.append(current)
            current = f"    {shlex.quote(word)}"
        else:
            current += f" {shlex.quote(word)}"
    lines.append(current)
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def kv_line(request: PlanRequest) -> str:
    """What one request keeps, in one line."""
    cost = kv_cost(request)
    kinds = ", ".join(
        f"{kind.layers} layers keep {kind.keeps} ({format_bytes(kind.bytes)})" for kind in cost.kinds
    )
    what = f"{format_tokens(request.context)} keeps {format_bytes(cost.bytes)} of {cost.dtype} KV"
    return f"One request of {what} on each GPU: {kinds}."


def time_line(plan: EnginePlan) -> str:
    """Time to the first token and between tokens, or nothing when there is no estimate."""
    time = plan.time
    if time is None:
        return ""
    return (
        f"time to first token {format_seconds(time.ttft_expected_s)} "
        f"(floor {format_seconds(time.ttft_floor_s)}), "
        f"then {format_seconds(time.itl_expected_s)} a token; {time.basis}"
    )


def side_by_side(plans: Sequence[EnginePlan], refusals: Mapping[str, str]) -> list[str]:
    """One row an engine."""
    rows = [["engine", "version", "fits", "at once", "longest", "KV room", "first token", "why"]]
    for plan in plans:
        rows.append(
            [
                plan.engine,
                plan.version,
                "yes" if plan.fits else "no",
                f"{plan.max_concurrency:.2f}",
                f"{plan.capacity_tokens:,}",
                format_bytes(plan.available_kv_bytes),
                format_seconds(plan.time.ttft_expected_s) if plan.time else "-",
                plan.reason,
            ]
        )
    rows.extend([engine, "-", "no", "-", "-", "-", "-", why] for engine, why in refusals.items())
    return table(rows, right=(3, 4, 5, 6))


def ledger_lines(plan: EnginePlan, *, explain: bool) -> list[str]:
    """The ledger; with `explain` each line's formula and source under it."""
    rows = [["GiB", "when", "basis", "what", "grows with"]]
    for line in plan.ledger:
        name = f"{line.name} (host)" if line.on_host else line.name
        rows.append(
            [f"{line.bytes / GIB:.3f}", line.when.value, line.basis.value, name, line.grows_with or "-"]
        )
    rows.append([f"{plan.ledger.free_bytes / GIB:.3f}", "", "", "left free", ""])
    lines = table(rows, right=(0,))
    if not explain:
        return lines
    explained = [lines[0]]
    for text, line in zip(lines[1:], plan.ledger, strict=False):
        explained.append(text)
        explained.append(f"        = {line.formula}")
        explained.append(f"        {line.source}")
    explained.append(lines[-1])
    return explained


def lever_lines(levers: Iterable[Lever]) -> list[str]:
    """The levers, cheapest first."""
    rows = [["change", "frees", "then fits", "longest request", "costs"]]
    for lever in levers:
        rows.append(
            [
                lever.change,
                format_bytes(lever.bytes_freed),
                "yes" if lever.fits else "no",
                f"{lever.capacity_tokens:,}",
                lever.costs,
            ]
        )
    return table(rows, right=(1, 3)) if len(rows) > 1 else ["nothing farspan knows makes it fit"]


def _times(plan: EnginePlan, *, explain: bool) -> Iterator[str]:
    if plan.time is None:
        return
    yield time_line(plan)
    if explain:
        rows = [["term", "floor", "expected", "formula"]]
        rows.extend(
            [term.name, format_seconds(term.floor_s), format_seconds(term.expected_s), term.formula]
            for term in plan.time.terms
        )
        yield from (f"  {line}" for line in table(rows, right=(1, 2)))


def _fix_lines(fix: Fix, model: str) -> Iterator[str]:
    """What to pull so that it fits, as a command, and every lever there is."""
    if fix.pull:
        after = fix.pull[-1].plan
        changes = ", ".join(lever.change for lever in fix.pull)
        yield f"It fits with {changes} ({after.max_concurrency:.2f}x):"
        yield from command_lines(after, model)
        yield ""
    yield "What helps, cheapest first, each alone:"
    yield from (f"  {line}" for line in lever_lines(fix.levers))
    if not fix.pull and fix.levers:
        yield "  all of these together do not make it fit"


def engine_lines(plan: EnginePlan, model: str, fix: Fix | None, *, explain: bool) -> Iterator[str]:
    """Everything about one engine, below the answer."""
    if plan.fits:
        yield from command_lines(plan, model)
        yield ""
    elif fix is not None:
        yield from _fix_lines(fix, model)
        yield ""
    for warning in plan.warnings:
        yield f"! {warning}"
    yield from _times(plan, explain=explain)
    if plan.printed:
        printed = ", ".join(f"{name}: {_figure(value)}" for name, value in plan.printed.items())
        yield f"{plan.engine} {plan.version} will print {printed}"
    yield ""
    yield "Memory on each GPU:"
    yield from (f"  {line}" for line in ledger_lines(plan, explain=explain))


def _figure(value: float | str) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def answer_lines(
    request: PlanRequest,
    model: str,
    plans: Sequence[EnginePlan],
    refusals: Mapping[str, str],
    fixes: Mapping[str, Fix],
    *,
    explain: bool,
) -> Iterator[str]:
    """The whole answer."""
    yield answer_line(request, plans, refusals)
    yield kv_line(request)
    yield from (f"Note: {note}." for note in request.model.notes)
    yield ""
    if len(plans) + len(refusals) == 1:
        plan = plans[0]
        yield from engine_lines(plan, model, fixes.get(plan.engine), explain=explain)
        return
    yield from side_by_side(plans, refusals)
    for plan in plans:
        if explain:
            yield ""
            yield f"-- {plan.engine} {plan.version}"
            yield from engine_lines(plan, model, fixes.get(plan.engine), explain=True)
        elif plan.fits:
            yield ""
            yield from command_lines(plan, model)
            yield from (f"! {warning}" for warning in plan.warnings)


def sweep_lines(points: Iterable[SweepPoint]) -> list[str]:
    """A sweep as a table."""
    rows = [["context", "engine", "fits", "at once", "first token", "rate", "why not"]]
    for point in points:
        plan = point.plan
        time = plan.time if plan else None
        why = point.refusal if plan is None else ("" if plan.fits else plan.reason)
        rows.append(
            [
                format_tokens(point.context),
                f"{point.engine} {plan.version}" if plan else point.engine,
                "yes" if point.fits else "no",
                f"{plan.max_concurrency:.2f}" if plan else "-",
                format_seconds(time.ttft_expected_s) if time else "-",
                f"{time.prefill_rate:,.0f}/s" if time else "-",
                why,
            ]
        )
    return table(rows, right=(0, 3, 4, 5))


def search_lines(request: PlanRequest, question: Question, found: Sequence[SearchResult]) -> Iterator[str]:
    """The answers to a search, one row an engine."""
    from farspan.planner.questions import MOST_GPUS

    wanted = format_tokens(request.context)
    name, count = request.model.name, request.concurrency
    gpus = f"{request.gpus}x {request.gpu.name}, TP {request.tp}"
    titles = {
        "context": f"longest context of {name}, {count} at once, on {gpus}",
        "concurrency": f"most requests of {wanted} at once of {name} on {gpus}",
        "gpus": f"fewest {request.gpu.name} for {name}, {count} x {wanted}",
    }
    why_not = f"{MOST_GPUS} are not enough" if question.value == "gpus" else "nothing fits"
    yield titles[question.value]
    rows = [["engine", "answer", "first token", "flags or why not"]]
    for answer in found:
        plan = answer.plan
        value = f"{answer.value:,}" if answer.value else "none"
        rows.append(
            [
                f"{answer.engine} {plan.version}" if plan else answer.engine,
                f"{value} ({answer.servers} x TP {answer.tp})" if answer.servers > 1 else value,
                format_seconds(plan.time.ttft_expected_s) if plan and plan.time else "-",
                " ".join(plan.flags) if plan else answer.refusal or why_not,
            ]
        )
    yield from table(rows, right=(1, 2))
