"""The rows of a proof: what came of every engine, in words."""

from __future__ import annotations

from pathlib import Path

from farspan.errors import InputError
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import load_run
from farspan.proof.campaign import EngineProgress
from farspan.reports.claim import find_proven
from farspan.reports.engine_rows import EngineRow
from farspan.reports.report_run import name_engine
from farspan.sizes import format_seconds, format_tokens


def describe_engine(progress: EngineProgress, folder: Path) -> EngineRow:
    """Put an engine's progress and its run into a row of the report."""
    results = _read_results(folder)
    findings = [f"{found['severity']}: {found['cause']}" for found in progress.findings]
    fixes = [step for found in progress.findings for step in found["fix"]]
    if progress.failed and progress.fix and not fixes:
        fixes = [progress.fix]
    return EngineRow(
        name=progress.name,
        engine=" ".join(part for part in (name_engine(progress.engine), progress.version) if part),
        outcome=_describe_outcome(progress, results),
        good=progress.good,
        start=_describe_start(progress),
        memory=tuple(
            f"{row['what']} {_figure(row['got'])}, planned {_figure(row['planned'])}"
            for row in progress.compared
        ),
        findings=tuple(findings),
        fixes=tuple(dict.fromkeys(fixes)),
        flags=progress.flags,
    )


def _read_results(folder: Path) -> tuple[Result, ...]:
    try:
        return load_run(folder).results
    except InputError:
        return ()


def _describe_outcome(progress: EngineProgress, results: tuple[Result, ...]) -> str:
    proven = find_proven(results) if results else None
    upto = f"right up to {format_tokens(proven)}" if proven else ""
    if progress.failed:
        what = "not measured to the end" if progress.ready_s is not None else "did not start"
        return "; ".join(part for part in (f"{what}: {progress.failed}", upto) if part)
    wrong = sum(result.status is not Status.OK for result in results)
    if wrong:
        return "; ".join(
            part for part in (f"{wrong} of {len(results)} requests failed or were wrong", upto) if part
        )
    return upto or "nothing was measured"


def _describe_start(progress: EngineProgress) -> str:
    if progress.ready_s is None:
        return ""
    planned = progress.planned_start_s
    beside = f", planned {format_seconds(planned)}" if planned is not None else ""
    return f"{format_seconds(progress.ready_s)}{beside}"


def _figure(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.2f}"
