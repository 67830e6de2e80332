"""Turn run folders and plans into a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from farspan.reports.write_report import (
    DEFAULT_FORMATS,
    Format,
    ReportFiles,
    ReportOptions,
    write_charts,
    write_report,
)


def report(
    *runs: str | Path,
    output: str | Path | None = None,
    formats: Sequence[str | Format] = (),
    compare: bool = False,
    title: str = "",
    template: str | Path | None = None,
    logs: Sequence[str | Path] = (),
    plan: str | Path | None = None,
    charts: str | Path | None = None,
) -> ReportFiles:
    """Write a report of run folders, or of plans.

    Args:
        runs: Run folders and files of `farspan plan --json`; several are put side by side.
        output: A file (.html, .md, .csv or .json) or a folder; the first run's folder when None.
        formats: What to write into a folder: "html", "md", "csv", "json"; HTML and Markdown when empty.
        compare: Whether the second run is put beside the first, with ratios, on top.
        title: The heading; the model's name when empty.
        template: A Jinja template for the page or for Markdown.
        logs: The servers' logs, one for each run in the same order.
        plan: A plan for runs that keep none.
        charts: A folder for each chart as an SVG file; nothing else is written then.

    Raises:
        InputError: Something is neither a run nor a plan, or the output cannot be written.
    """
    chosen = ReportOptions(
        title,
        compare,
        None if template is None else Path(template),
        tuple(Path(log) for log in logs),
        None if plan is None else Path(plan),
    )
    paths = [Path(run) for run in runs]
    if charts is not None:
        return ReportFiles(charts=tuple(write_charts(paths, Path(charts), chosen)))
    return write_report(
        paths,
        None if output is None else Path(output),
        formats=tuple(Format(form) for form in formats) or DEFAULT_FORMATS,
        options=chosen,
    )
