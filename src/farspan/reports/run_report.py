"""The report of runs: everything its page shows, worked out of the run folders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from farspan.errors import InputError
from farspan.reports.claim import KeyFigure, align_figures
from farspan.reports.curves import CURVES, draw_curve
from farspan.reports.drawing import Chart
from farspan.reports.engine_rows import EngineRow
from farspan.reports.load_chart import LOAD_MEASURES, draw_load
from farspan.reports.memory_chart import draw_ledger
from farspan.reports.report_page import ReportPage
from farspan.reports.report_run import ReportRun
from farspan.reports.report_tables import PointRow, compare_with_first, group_contexts, list_rows
from farspan.reports.run_data_files import (
    REQUEST_COLUMNS,
    export_comparison,
    export_point,
    export_section,
    list_request_rows,
)
from farspan.reports.run_section import ComparedRun, RunSection, build_comparison, build_section
from farspan.reports.start_chart import draw_startup
from farspan.reports.timelines import draw_kv, draw_requests


@dataclass(frozen=True, slots=True)
class RunReport(ReportPage):
    """All that a report of runs shows.

    Args:
        title: Its heading.
        good: Whether every answer of every run was checked and right.
        comparison_first: Whether the comparison is what it was asked for.
        sections: What it says of every run.
        figures: Names of key figures, and the figure of every run, None where it has none.
        comparisons: The other runs beside the first.
        rows: Every context and depth of every run.
        engines: The engines of a proof, those that have no run among them; empty for other reports.
    """

    template: ClassVar[str] = "report"
    title: str
    good: bool
    comparison_first: bool
    sections: tuple[RunSection, ...]
    figures: tuple[tuple[str, tuple[KeyFigure | None, ...]], ...]
    comparisons: tuple[ComparedRun, ...]
    rows: tuple[PointRow, ...]
    engines: tuple[EngineRow, ...] = ()

    @property
    def runs(self) -> tuple[ReportRun, ...]:
        """The runs."""
        return tuple(section.run for section in self.sections)

    @property
    def has_ratios(self) -> bool:
        """Whether any point has a ratio to the first run."""
        return any(row.ratio for row in self.rows)

    @property
    def has_plan(self) -> bool:
        """Whether any point has a planned time."""
        return any(row.expected_s is not None for row in self.rows)

    @property
    def has_kv(self) -> bool:
        """Whether any point has the KV held meanwhile."""
        return any(row.kv for row in self.rows)

    @property
    def has_engine_ttft(self) -> bool:
        """Whether the engine's metrics tell any point's time to first token."""
        return any(row.point.engine_ttft_s is not None for row in self.rows)

    def draw_charts(self) -> list[Chart]:
        """Draw every chart there is data for.

        Raises:
            MissingPackageError: The package that draws is not installed.
        """
        drawn = [
            *(draw_curve(curve, self.runs) for curve in CURVES),
            *(draw_load(measure, self.runs) for measure in LOAD_MEASURES),
            *(draw_kv(run) for run in self.runs),
            draw_ledger(self.runs),
            *(draw_requests(run) for run in self.runs),
            *(draw_startup(run) for run in self.runs),
        ]
        return [chart for chart in drawn if chart is not None]

    def csv_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """Return the columns, and every measured request of every run as a row, times in seconds."""
        return REQUEST_COLUMNS, (row for section in self.sections for row in list_request_rows(section))

    def json_parts(self) -> dict[str, list[dict[str, Any]]]:
        """Return what the page says: `runs`, `points`, `comparisons`."""
        return {
            "runs": [export_section(section) for section in self.sections],
            "points": [export_point(row) for row in self.rows],
            **({"engines": [asdict(engine) for engine in self.engines]} if self.engines else {}),
            "comparisons": [export_comparison(comparison) for comparison in self.comparisons],
        }


def build_report(
    runs: Sequence[ReportRun], *, title: str = "", compare: bool = False, engines: Sequence[EngineRow] = ()
) -> RunReport:
    """Work out a report; runs without any success, or any request, have one too.

    Args:
        runs: One run or several.
        title: The heading; by default the model's name.
        compare: Put the comparison first; needs two runs.
        engines: The engines of the proof that the runs are of.

    Raises:
        InputError: A comparison is asked for, and there are not two runs or they have nothing in common.
    """
    if compare and len(runs) != 2:
        raise InputError(f"--compare takes two runs, not {len(runs)}", "name two run folders: --compare A B")
    compared = compare_with_first(runs)
    if compare and not compared:
        raise InputError(
            "the two runs have no context and depth in common",
            "compare runs of the same --contexts and --depths",
        )
    groups = group_contexts(runs)
    sections = tuple(build_section(run, groups) for run in runs)
    return RunReport(
        title=title or ", ".join(dict.fromkeys(run.model for run in runs)),
        good=all(section.good for section in sections) and all(engine.good for engine in engines),
        comparison_first=compare,
        sections=sections,
        figures=align_figures([section.figures for section in sections]),
        comparisons=tuple(
            build_comparison(runs[0], run, compared[run.key]) for run in runs if run.key in compared
        ),
        rows=list_rows(runs, compared),
        engines=tuple(engines),
    )
