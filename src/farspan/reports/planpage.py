"""Everything a report of plans shows, worked out of them: no drawing of a page, no file written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from farspan.reports.claim import KeyFigure, align_figures
from farspan.reports.curves import CURVES, draw_curve
from farspan.reports.drawing import Chart
from farspan.reports.memory_chart import draw_ledger
from farspan.reports.plan_rows import PlannedRow, PlanSeries
from farspan.reports.trust_statement import Trust, TrustLevel
from farspan.sizes import format_bytes, format_seconds, format_tokens


@dataclass(frozen=True, slots=True)
class PlanPage:
    """What the page says of one series.

    Args:
        claim: The answer in one sentence.
        note: What stands below it.
        figures: For the top of the page; those of the longest context that fits, else of the longest.
    """

    planned: PlanSeries
    claim: str
    note: str
    figures: tuple[KeyFigure, ...]
    trust: tuple[Trust, ...]

    @property
    def key(self) -> str:
        """The series' name in drawings and anchors."""
        return self.planned.key

    @property
    def name(self) -> str:
        """What tells the series from the others."""
        return self.planned.name

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What was asked, and the flags that the plan answers with."""
        flags = self.planned.command
        if not flags:
            flags = "not in a plan of several contexts" if len(self.planned.rows) > 1 else "none"
        return (*self.planned.facts, ("Flags", flags))


@dataclass(frozen=True, slots=True)
class PlanTableRow:
    """One context of one series, with a stable name for links."""

    anchor: str
    label: str
    planned: PlanSeries
    row: PlannedRow


@dataclass(frozen=True, slots=True)
class PlanReportData:
    """All that a report of plans shows.

    Args:
        title: Its heading.
        good: Whether all that was asked fits somewhere.
        figures: Names of key figures, and the figure of every series, None where it has none.
    """

    title: str
    good: bool
    plans: tuple[PlanPage, ...]
    figures: tuple[tuple[str, tuple[KeyFigure | None, ...]], ...]
    rows: tuple[PlanTableRow, ...]


def build_plan_report(series: Sequence[PlanSeries], *, title: str = "") -> PlanReportData:
    """Work out a report of plans.

    Args:
        series: One engine of one plan, or several.
        title: The heading; by default the model's name.
    """
    pages = tuple(
        PlanPage(one, write_plan_claim(one), _write_note(one), _choose_figures(one), _judge(one))
        for one in series
    )
    rows = [
        PlanTableRow(
            f"plan-{one.key}-{row.context or 0}", format_tokens(row.context) if row.context else "", one, row
        )
        for one in series
        for row in one.rows
    ]
    return PlanReportData(
        title=title or ", ".join(dict.fromkeys(one.model for one in series)),
        good=any(one.fits for one in series),
        plans=pages,
        figures=align_figures([page.figures for page in pages]),
        rows=tuple(sorted(rows, key=lambda row: (row.row.context or 0, row.planned.key))),
    )


def draw_plan_charts(data: PlanReportData) -> list[Chart]:
    """Draw every chart there is data for.

    Raises:
        InputError: The package that draws is not installed.
    """
    series = [page.planned for page in data.plans]
    drawn = [*(draw_curve(curve, series) for curve in CURVES), draw_ledger(series)]
    return [chart for chart in drawn if chart is not None]


def write_plan_claim(planned: PlanSeries) -> str:
    """Say in one sentence what a plan says: what would run where, what fits, and how fast."""
    lead = ", ".join(part for part in (planned.model, planned.hardware, planned.engine) if part)
    fitting = [row for row in planned.rows if row.fits]
    if not fitting:
        row = planned.rows[-1]
        return f"{lead}: {_write_asked(row)} {_write_refusal(row)}: {row.reason}."
    best = fitting[-1]
    text = f"{lead}: {_write_asked(best)} fit"
    if planned.find:
        text += {
            "gpus": f", on no fewer than {planned.found} GPUs",
            "concurrency": ", and no more",
            "context": ", and no longer context does",
        }[planned.find]
    if best.expected_s is not None:
        text += f"; one alone waits about {format_seconds(best.expected_s)} for its first token"
        text += f", then {format_seconds(best.itl_s)} a token" if best.itl_s is not None else ""
    longer = next((row for row in planned.rows if (row.context or 0) > (best.context or 0)), None)
    if longer is None:
        return f"{text}."
    return f"{text}. {_write_asked(longer)} {_write_refusal(longer)}: {longer.reason}."


def _write_asked(row: PlannedRow) -> str:
    length = f"{format_tokens(row.context)} tokens" if row.context else "requests"
    return f"{row.concurrency} x {length}" if row.concurrency and row.concurrency > 1 else length


def _write_refusal(row: PlannedRow) -> str:
    return "are not planned" if row.refused else "do not fit"


def _write_note(planned: PlanSeries) -> str:
    text = "Planned; nothing was measured."
    if planned.added:
        text += f" With {' '.join(planned.added)}, which the engine's defaults do not have."
    return text


def _choose_figures(planned: PlanSeries) -> tuple[KeyFigure, ...]:
    row = next((row for row in reversed(planned.rows) if row.fits), planned.rows[-1])
    times = TrustLevel(planned.plan.trust) if planned.plan else TrustLevel.ASSUMED
    memory = _judge_memory(planned)
    figures = []
    if row.capacity is not None:
        value = format_tokens(row.capacity)
        figures.append(KeyFigure("Longest request", value, "tokens that the KV room holds", memory))
    if row.most is not None:
        value = f"{row.most:.2f}"
        figures.append(KeyFigure("At once", value, f"requests of {_length(row)} that fit", memory))
    if row.kv_bytes is not None:
        figures.append(KeyFigure("KV room", format_bytes(row.kv_bytes), "on one GPU", memory))
    if row.expected_s is not None:
        floor = f"no such hardware can beat {format_seconds(row.floor_s)}" if row.floor_s else "one alone"
        figures.append(
            KeyFigure("TTFT", format_seconds(row.expected_s), f"at {_length(row)}; {floor}", times)
        )
    if row.rate is not None:
        figures.append(KeyFigure("Prefill", f"{row.rate:,.0f}", f"tokens/s at {_length(row)}", times))
    if row.itl_s is not None:
        figures.append(KeyFigure("ITL", format_seconds(row.itl_s), f"at {_length(row)}", times))
    return tuple(figures)


def _length(row: PlannedRow) -> str:
    return format_tokens(row.context) if row.context else "this length"


def _judge_memory(planned: PlanSeries) -> TrustLevel:
    """A ledger with any assumed line is assumed as a whole, and so is one that the plan does not show."""
    exact = planned.bases and set(planned.bases) <= {"mirrored", "fitted"}
    return TrustLevel.FITTED if exact else TrustLevel.ASSUMED


def _judge(planned: PlanSeries) -> tuple[Trust, ...]:
    if planned.plan is None:
        return (Trust("Everything", TrustLevel.UNKNOWN, planned.rows[-1].reason or "nothing was planned"),)
    trust = []
    if planned.bases:
        lines = ", ".join(
            f"{count} {basis} ({format_bytes(size)})" for basis, (count, size) in planned.bases.items()
        )
        evidence = f"lines of one GPU's ledger: {lines}; its memory is {planned.gpu_basis or 'not explained'}"
    else:
        evidence = "the plan of several contexts does not carry its ledger; plan one with --context to see it"
    trust.append(Trust("Planned memory", _judge_memory(planned), evidence))
    evidence = planned.plan.basis or "the plan does not say where its times come from"
    trust.append(Trust("Planned times", TrustLevel(planned.plan.trust), evidence))
    return tuple(trust)
