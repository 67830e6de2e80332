"""Plans as plain text: the answer first, then flags to paste, then the ledger."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from farspan.planner.kvcost import kv_cost
from farspan.planner.load_time import BASIS, NO_GOALS, TimeGoals, estimate_load
from farspan.planner.remarks import Remarks
from farspan.planner.text_layout import table, wrap
from farspan.sizes import GIB, format_bytes, format_seconds, format_tokens

if TYPE_CHECKING:
    from farspan.planner.levers import Fix, Lever
    from farspan.planner.request import EnginePlan, PlanRequest
    from farspan.planner.sweep import SweepPoint


ALONE = "Times are of one request alone on the server."


def where(request: PlanRequest) -> str:
    """The model and the GPUs in words."""
    gpus = f"{request.gpus}x {request.gpu.name}"
    return f"{request.model.name} on {gpus}, TP {request.tp}"


def gpu_note(request: PlanRequest, width: int | None = None) -> Iterator[str]:
    """What is assumed of a GPU that the user did not name, if anything."""
    if request.gpu.assumed:
        yield from wrap(f"note: {request.gpu.assumed}.", width)


def answer_line(request: PlanRequest, plans: Sequence[EnginePlan], refusals: Mapping[str, str]) -> str:
    """The answer in one line: whether it fits, what must be set, how many at once, and when the first token comes."""
    what = format_tokens(request.context)
    if request.concurrency > 1:
        what = f"{request.concurrency} x {what}"
    good = [plan for plan in plans if plan.fits]
    if good and len(plans) + len(refusals) > 1:
        names = ", ".join(
            f"{_name_with_flags(plan)} ({_at_once(plan)}; {_first_token(plan)})" for plan in good
        )
        rest = [plan.engine for plan in plans if not plan.fits]
        but = f"; not on {', '.join(rest)}" if rest else ""
        return f"{what} fits {where(request)} with {names}{but}."
    if good:
        plan = good[0]
        named = f"{_name_with_flags(plan)} ({_at_once(plan)}; {_first_token(plan)})"
        return f"{what} fits {where(request)} with {named}: {plan.reason}."
    if len(plans) == 1 and not refusals:
        return f"{what} does not fit {where(request)} with {plans[0].engine} {plans[0].version}: {plans[0].reason}."
    return f"{what} does not fit {where(request)} on any of {', '.join(plan.engine for plan in plans)}."


def _name_with_flags(plan: EnginePlan) -> str:
    """The engine, its version, and what must be set beside its defaults."""
    added = f" and {' '.join(plan.added)}" if plan.added else ""
    return f"{plan.engine} {plan.version}{added}"


def _at_once(plan: EnginePlan) -> str:
    return f"{plan.max_concurrency:.2f} at once"


def _first_token(plan: EnginePlan) -> str:
    """When the first token of one request alone comes: what to expect, and what no hardware beats."""
    time = plan.time
    if time is None:
        return "no time is known"
    expected, floor = format_seconds(time.ttft_expected_s), format_seconds(time.ttft_floor_s)
    return f"one alone has its first token in {expected}, floor {floor}, {time.trust}"


def load_line(request: PlanRequest, plan: EnginePlan, goals: TimeGoals) -> str:
    """What several requests sent at once see; empty for one alone that has no goal to keep."""
    load = estimate_load(request, plan) if request.concurrency > 1 or goals != NO_GOALS else None
    if load is None:
        return ""
    waiting = (
        f", {load.concurrency - load.running} of them waiting for room"
        if load.running < load.concurrency
        else ""
    )
    said = (
        f"{load.concurrency} sent at once{waiting}: first tokens after {format_seconds(load.ttft_first_s)} to "
        f"{format_seconds(load.ttft_last_s)}, {format_seconds(load.ttft_mean_s)} on average, then "
        f"{format_seconds(load.itl_s)} a token with {load.running} decoding ({BASIS})"
    )
    return said if goals.met_by(request, plan) else f"TOO SLOW for the times asked for: {said}"


def command_lines(plan: EnginePlan, model: str) -> list[str]:
    """The engine's command, environment first, ready to paste."""
    words = [shlex.quote(word.format(model=model)) for word in plan.program]
    environment = [f"{name}={shlex.quote(value)}" for name, value in plan.env.items()]
    lines, current = [], " ".join(environment)
    for word in (*words, *map(shlex.quote, plan.flags)):
        if word.startswith("--"):
            lines.append(current)
            current = f"    {word}"
        else:
            current += f" {word}" if current else word
    lines.append(current)
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def kv_line(request: PlanRequest, plan: EnginePlan | None = None) -> str:
    """What one request keeps, in one line; of one engine's plan, what it keeps on that server."""
    cost = kv_cost(request)
    kinds = ", ".join(
        f"{kind.layers} layers keep {kind.keeps} ({format_bytes(kind.bytes)})" for kind in cost.kinds
    )
    length = format_tokens(request.context)
    if plan is not None and plan.request_kv_bytes is not None and plan.request_kv_reason:
        return (
            f"One request of {length} keeps {format_bytes(plan.request_kv_bytes)} of {cost.dtype} KV on each GPU of "
            f"this server: {plan.request_kv_reason}. Its layers need {format_bytes(cost.bytes)}: {kinds}."
        )
    return (
        f"One request of {length} keeps {format_bytes(cost.bytes)} of {cost.dtype} KV on each GPU: {kinds}."
    )


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


def side_by_side(plans: Sequence[EnginePlan], *, width: int | None = None) -> list[str]:
    """One row an engine that plans the request."""
    rows = [["engine", "version", "fits", "at once", "longest", "KV room", "first token", "a token", "why"]]
    rows.extend(
        [
            plan.engine,
            plan.version,
            "yes" if plan.fits else "no",
            f"{plan.max_concurrency:.2f}",
            f"{plan.capacity_tokens:,}",
            format_bytes(plan.available_kv_bytes),
            format_seconds(plan.time.ttft_expected_s) if plan.time else "-",
            format_seconds(plan.time.itl_expected_s) if plan.time else "-",
            plan.reason,
        ]
        for plan in plans
    )
    return table(rows, right=(3, 4, 5, 6, 7), width=width)


def refusal_lines(refusals: Mapping[str, str]) -> list[str]:
    """The engines that cannot plan the request at all, and why."""
    return [f"Not planned for {engine}: {why}." for engine, why in refusals.items()]


def cure_line(engine: str, fix: Fix) -> str:
    """The cheapest changes after which it fits, in one line."""
    if not fix.pull:
        return f"{engine}: nothing farspan knows makes it fit."
    changes = ", ".join(lever.change for lever in fix.pull)
    return f"{engine} fits with {changes}: {_at_once(fix.pull[-1].plan)}."


def ledger_lines(plan: EnginePlan, *, explain: bool, width: int | None = None) -> list[str]:
    """The ledger; with `explain` each line's formula and source under it."""
    rows = [["GiB", "when", "basis", "what", "grows with"]]
    for line in plan.ledger:
        name = f"{line.name} (host)" if line.on_host else line.name
        rows.append(
            [f"{line.bytes / GIB:.3f}", line.when.value, line.basis.value, name, line.grows_with or "-"]
        )
    rows.append([f"{plan.ledger.free_bytes / GIB:.3f}", "", "", "left free", ""])
    if not explain:
        return table(rows, right=(0,), width=width)
    lines = table(rows, right=(0,))
    explained = [lines[0]]
    for text, line in zip(lines[1:], plan.ledger, strict=False):
        explained.append(text)
        explained.append(f"        = {line.formula}")
        explained.append(f"        {line.source}")
    explained.append(lines[-1])
    return explained


def lever_lines(levers: Iterable[Lever], *, width: int | None = None) -> list[str]:
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
    return table(rows, right=(1, 3), width=width) if len(rows) > 1 else ["nothing farspan knows makes it fit"]


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


def _fix_lines(fix: Fix, model: str, width: int | None) -> Iterator[str]:
    """What to pull so that it fits, as a command, and every lever there is."""
    if fix.pull:
        after = fix.pull[-1].plan
        changes = ", ".join(lever.change for lever in fix.pull)
        yield from wrap(f"It fits with {changes} ({_at_once(after)}):", width)
        yield from command_lines(after, model)
        yield ""
    yield "What helps, cheapest first, each alone:"
    yield from (f"  {line}" for line in lever_lines(fix.levers, width=_inside(width)))
    if not fix.pull and fix.levers:
        yield "  all of these together do not make it fit"


def engine_lines(
    plan: EnginePlan, model: str, fix: Fix | None, *, explain: bool, width: int | None = None
) -> Iterator[str]:
    """Everything about one engine, below the answer."""
    if plan.fits:
        yield from command_lines(plan, model)
        yield ""
    elif fix is not None:
        yield from _fix_lines(fix, model, width)
        yield ""
    for line in Remarks(plan.warnings, plan.notes).lines():
        yield from wrap(line, width)
    for line in _times(plan, explain=explain):
        yield from wrap(line, width)
    if plan.printed:
        printed = ", ".join(f"{name}: {_figure(value)}" for name, value in plan.printed.items())
        yield from wrap(f"{plan.engine} {plan.version} will print {printed}", width)
    yield ""
    yield "Memory on each GPU:"
    yield from (f"  {line}" for line in ledger_lines(plan, explain=explain, width=_inside(width)))


def _inside(width: int | None) -> int | None:
    """The width of what is indented by two."""
    return None if width is None else width - 2


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
    width: int | None = None,
    goals: TimeGoals = NO_GOALS,
) -> Iterator[str]:
    """The whole answer.

    Args:
        request: What was asked.
        model: The model's name in the commands.
        plans: The engines that planned it.
        refusals: Those that cannot, and why.
        fixes: By engine: what helps where it does not fit.
        explain: Whether to show formulas and sources.
        width: Columns of the terminal; None for lines as long as they are.
        goals: Times to stay within.
    """
    yield from wrap(answer_line(request, plans, refusals), width)
    yield from wrap(kv_line(request, plans[0] if len(plans) + len(refusals) == 1 else None), width)
    for note in request.notes:
        yield from wrap(f"note: {note}.", width)
    for plan in plans:
        if plan.fits and (line := load_line(request, plan, goals)):
            yield from wrap(f"{plan.engine}: {line}.", width)
    yield ""
    if len(plans) + len(refusals) == 1:
        plan = plans[0]
        yield from engine_lines(plan, model, fixes.get(plan.engine), explain=explain, width=width)
        return
    yield from side_by_side(plans, width=width)
    yield ALONE
    for line in refusal_lines(refusals):
        yield from wrap(line, width)
    for plan in plans:
        fix = fixes.get(plan.engine)
        if explain:
            yield ""
            yield f"-- {plan.engine} {plan.version}"
            yield from engine_lines(plan, model, fix, explain=True, width=width)
        elif plan.fits:
            yield ""
            yield from command_lines(plan, model)
            for line in Remarks(plan.warnings, plan.notes).lines():
                yield from wrap(line, width)
        elif fix is not None:
            yield ""
            yield from wrap(cure_line(f"{plan.engine} {plan.version}", fix), width)
            if fix.pull:
                yield from command_lines(fix.pull[-1].plan, model)


def sweep_lines(
    points: Iterable[SweepPoint], fixes: Mapping[str, Fix] | None = None, *, width: int | None = None
) -> Iterator[str]:
    """A sweep as a table, and below it what helps where it does not fit.

    Args:
        points: The rows. An engine that cannot plan any of them gets a line of its own instead.
        fixes: By engine: what makes its shortest context fit that does not.
        width: Columns of the terminal; None for lines as long as they are.
    """
    rows = list(points)
    planned = {point.engine for point in rows if point.plan is not None}
    shown = [point for point in rows if point.engine in planned] or rows
    cells = [["context", "engine", "fits", "at once", "first token", "rate", "a token", "needs, or why not"]]
    for point in shown:
        plan = point.plan
        time = plan.time if plan else None
        cells.append(
            [
                format_tokens(point.context),
                f"{point.engine} {plan.version}" if plan else point.engine,
                "yes" if point.fits else "no",
                f"{plan.max_concurrency:.2f}" if plan else "-",
                format_seconds(time.ttft_expected_s) if time else "-",
                f"{time.prefill_rate:,.0f}/s" if time else "-",
                format_seconds(time.itl_expected_s) if time else "-",
                point.refusal if plan is None else (" ".join(plan.added) if plan.fits else plan.reason),
            ]
        )
    yield from table(cells, right=(0, 3, 4, 5, 6), width=width)
    if planned:
        yield ALONE
    used = dict.fromkeys(point.plan.calibration for point in shown if point.plan and point.plan.calibration)
    for calibration in used:
        yield from wrap(f"note: {calibration.engine}: {calibration.note}", width)
    left_out: dict[str, str] = {}
    for point in rows:
        if planned and point.engine not in planned:
            left_out.setdefault(point.engine, point.refusal)
    for line in refusal_lines(left_out):
        yield from wrap(line, width)
    for engine, fix in (fixes or {}).items():
        failing = min(p.context for p in shown if p.engine == engine and p.plan is not None and not p.fits)
        yield from wrap(f"{format_tokens(failing)}: {cure_line(engine, fix)}", width)
