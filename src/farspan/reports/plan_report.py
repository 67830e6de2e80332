"""The report of plans that no run belongs to: everything its page shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from farspan.reports.claim import KeyFigure, align_figures
from farspan.reports.curves import CURVES, draw_curve
from farspan.reports.drawing import Chart
from farspan.reports.memory_chart import draw_ledger
from farspan.reports.plan_data_files import (
    CONTEXT_COLUMNS,
    export_context,
    export_plan_section,
    list_context_row,
)
from farspan.reports.plan_section import PlanSection, PlanTableRow, build_plan_section, list_plan_rows
from farspan.reports.plan_series import PlanSeries
from farspan.reports.report_page import ReportPage


@dataclass(frozen=True, slots=True)
class PlanReport(ReportPage):
    """All that a report of plans shows.

    Args:
        title: Its heading.
        good: Whether all that was asked fits somewhere.
        sections: What it says of every plan.
        figures: Names of key figures, and the figure of every one of `planned`, None where it has none.
        rows: Every context of every plan.
    """

    template: ClassVar[str] = "plan"
    title: str
    good: bool
    sections: tuple[PlanSection, ...]
    figures: tuple[tuple[str, tuple[KeyFigure | None, ...]], ...]
    rows: tuple[PlanTableRow, ...]

    @property
    def planned(self) -> tuple[PlanSection, ...]:
        """What it says of the plans that are plans: of all, when every one was refused."""
        return tuple(one for one in self.sections if not one.is_refused) or self.sections

    @property
    def refused(self) -> tuple[PlanSection, ...]:
        """What it says of engines that cannot plan what others can."""
        return tuple(one for one in self.sections if one not in self.planned)

    def draw_charts(self) -> list[Chart]:
        """Draw every chart there is data for.

        Raises:
            MissingPackageError: The package that draws is not installed.
        """
        series = [section.series for section in self.sections]
        drawn = [*(draw_curve(curve, series) for curve in CURVES), draw_ledger(series)]
        return [chart for chart in drawn if chart is not None]

    def csv_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """Return the columns, and every context of every plan as a row, times in seconds."""
        return CONTEXT_COLUMNS, (list_context_row(row) for row in self.rows)

    def json_parts(self) -> dict[str, list[dict[str, Any]]]:
        """Return what the page says: `plans`, `points`."""
        return {
            "plans": [export_plan_section(section) for section in self.sections],
            "points": [export_context(row) for row in self.rows],
        }


def build_plan_report(plans: Sequence[PlanSeries], *, title: str = "") -> PlanReport:
    """Work out a report of plans.

    Args:
        plans: One engine of one plan, or several.
        title: The heading; by default the model's name.
    """
    sections = tuple(build_plan_section(series) for series in plans)
    rows = [row for series in plans for row in list_plan_rows(series)]
    planned = [one for one in sections if not one.is_refused] or sections
    return PlanReport(
        title=title or ", ".join(dict.fromkeys(series.model for series in plans)),
        good=any(series.fits for series in plans),
        sections=sections,
        figures=align_figures([section.figures for section in planned]),
        rows=tuple(sorted(rows, key=lambda row: (row.row.context or 0, row.series.key))),
    )
