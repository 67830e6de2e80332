"""What a report says of one plan."""

from __future__ import annotations

from dataclasses import dataclass

from farspan.reports.claim import KeyFigure
from farspan.reports.plan_series import PlannedRow, PlanSeries
from farspan.reports.trust_statement import Trust, TrustLevel
from farspan.sizes import format_bytes, format_seconds, format_tokens


@dataclass(frozen=True, slots=True)
class PlanSection:
    """What the page says of one series.

    Args:
        claim: The answer in one sentence.
        note: What stands below it.
        figures: For the top of the page; those of the longest context that fits, else of the longest.
    """

    series: PlanSeries
    claim: str
    note: str
    figures: tuple[KeyFigure, ...]
    trust: tuple[Trust, ...]

    @property
    def key(self) -> str:
        """The series' name in drawings and anchors."""
        return self.series.key

    @property
    def name(self) -> str:
        """What tells the series from the others."""
        return self.series.name

    @property
    def is_refused(self) -> bool:
        """Whether the engine cannot plan any of it."""
        return all(row.refused for row in self.series.rows)

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What was asked, and the flags that the plan answers with."""
        flags = self.series.command
        if not flags:
            flags = "not in a plan of several contexts" if len(self.series.rows) > 1 else "none"
        return (*self.series.facts, ("Flags", flags))


@dataclass(frozen=True, slots=True)
class PlanTableRow:
    """One context of one series, with a stable name for links."""

    anchor: str
    label: str
    series: PlanSeries
    row: PlannedRow


def build_plan_section(series: PlanSeries) -> PlanSection:
    """Work out what a report says of one plan."""
    return PlanSection(
        series, write_plan_claim(series), _write_note(series), _choose_figures(series), _judge(series)
    )


def list_plan_rows(series: PlanSeries) -> list[PlanTableRow]:
    """List the contexts of one plan."""
    return [
        PlanTableRow(
            anchor=f"plan-{series.key}-{row.context or 0}",
            label=format_tokens(row.context) if row.context else "",
            series=series,
            row=row,
        )
        for row in series.rows
    ]


def write_plan_claim(series: PlanSeries) -> str:
    """Say in one sentence what a plan says: what would run where, what fits, and how fast."""
    lead = ", ".join(part for part in (series.model, series.hardware, series.engine) if part)
    fitting = [row for row in series.rows if row.fits]
    if not fitting:
        row = series.rows[-1]
        return f"{lead}: {_write_asked(row)} {_write_refusal(row)}: {row.reason}."
    best = fitting[-1]
    text = f"{lead}: {_write_asked(best)} fit"
    if series.find:
        text += {
            "gpus": f", on no fewer than {series.found} GPUs",
            "concurrency": ", and no more",
            "context": ", and no longer context does",
        }[series.find]
    if best.expected_s is not None:
        text += f"; one alone waits about {format_seconds(best.expected_s)} for its first token"
        text += f", then {format_seconds(best.itl_s)} a token" if best.itl_s is not None else ""
    longer = next((row for row in series.rows if (row.context or 0) > (best.context or 0)), None)
    if longer is None:
        return f"{text}."
    return f"{text}. {_write_asked(longer)} {_write_refusal(longer)}: {longer.reason}."


def _write_asked(row: PlannedRow) -> str:
    length = f"{format_tokens(row.context)} tokens" if row.context else "requests"
    return f"{row.concurrency} x {length}" if row.concurrency and row.concurrency > 1 else length


def _write_refusal(row: PlannedRow) -> str:
    return "are not planned" if row.refused else "do not fit"


def _write_note(series: PlanSeries) -> str:
    text = "Planned; nothing was measured."
    if series.added:
        text += f" With {' '.join(series.added)}, which the engine's defaults do not have."
    return text


def _choose_figures(series: PlanSeries) -> tuple[KeyFigure, ...]:
    row = next((row for row in reversed(series.rows) if row.fits), series.rows[-1])
    times = TrustLevel(series.plan.trust) if series.plan else TrustLevel.ASSUMED
    memory = _judge_memory(series)
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
        figures.append(KeyFigure("Prefill", f"{row.rate:,.0f} tokens/s", f"at {_length(row)}", times))
    if row.itl_s is not None:
        figures.append(KeyFigure("ITL", format_seconds(row.itl_s), f"at {_length(row)}", times))
    return tuple(figures)


def _length(row: PlannedRow) -> str:
    return format_tokens(row.context) if row.context else "this length"


def _judge_memory(series: PlanSeries) -> TrustLevel:
    """A ledger with any assumed line is assumed as a whole, and so is one that the plan does not show."""
    exact = series.bases and set(series.bases) <= {"mirrored", "fitted"}
    return TrustLevel.FITTED if exact else TrustLevel.ASSUMED


def _judge(series: PlanSeries) -> tuple[Trust, ...]:
    if series.plan is None:
        return (Trust("Everything", TrustLevel.UNKNOWN, series.rows[-1].reason or "nothing was planned"),)
    trust = []
    if series.bases:
        lines = ", ".join(
            f"{count} {basis} ({format_bytes(size)})" for basis, (count, size) in series.bases.items()
        )
        evidence = f"lines of one GPU's ledger: {lines}; its memory is {series.gpu_basis or 'not explained'}"
    else:
        evidence = "the plan of several contexts does not carry its ledger; plan one with --context to see it"
    trust.append(Trust("Planned memory", _judge_memory(series), evidence))
    evidence = series.plan.basis or "the plan does not say where its times come from"
    trust.append(Trust("Planned times", TrustLevel(series.plan.trust), evidence))
    return tuple(trust)
