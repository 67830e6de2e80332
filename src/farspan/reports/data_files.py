"""A report as CSV (one line a request) and as JSON (everything the page shows)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import orjson

from farspan import __version__
from farspan.escape_terminal import printable
from farspan.measurement.analysis.measure import Result
from farspan.reports.build_report import ReportData, RunReport
from farspan.reports.report_tables import FailureRow, PointRow
from farspan.reports.trust_statement import was_checked

_COLUMNS = (
    "run", "engine", "model", "context", "depth", "repeat", "seed", "started_at", "status", "error", "prompt_tokens",
    "cached_tokens", "output_tokens", "ttft_s", "queue_s", "itl_mean_s", "itl_p50_s", "itl_p99_s", "tpot_s", "e2e_s",
    "prefill_tokens_per_s", "decode_tokens_per_s", "score", "company", "planned_ttft_s", "floor_ttft_s", "labels",
)  # fmt: skip
# A spreadsheet takes a cell that begins like this for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def render_csv(data: ReportData) -> str:
    """Render every measured request of every run as one line, times in seconds; unknown values are empty."""
    rows = (_values(run, result) for run in data.runs for result in run.subject.results)
    return write_csv(_COLUMNS, rows)


def write_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table of which no cell is taken for a formula; None is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _values(run: RunReport, result: Result) -> tuple[object, ...]:
    subject, gaps = run.subject, result.itl_s
    planned = subject.plan.times.at(result.context) if subject.plan else None
    return (
        subject.name, subject.engine, subject.run.info.identity.model, result.context, result.depth, result.repeat,
        result.seed, result.started_at, result.status.value, result.error, result.prompt_tokens, result.cached_tokens,
        result.output_tokens, result.ttft_s, result.queue_s, gaps.mean if gaps else None, gaps.p50 if gaps else None,
        gaps.p99 if gaps else None, result.tpot_s, result.e2e_s, result.prefill_tokens_per_s,
        result.decode_tokens_per_s, result.score if was_checked(result) else None, result.company,
        planned.expected_s if planned else None, planned.floor_s if planned else None, " ".join(result.labels),
    )  # fmt: skip


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return "" if value is None else value
    text = " ".join(printable(value).split())
    return f"'{text}" if text.startswith(_FORMULA) else text


def render_json(data: ReportData) -> str:
    """Render what the page says as one JSON object: `title`, `good`, `runs`, `points`, `comparisons`."""
    return write_json(
        data.title,
        data.good,
        runs=[_run_object(run) for run in data.runs],
        points=[_point_object(row) for row in data.rows],
        comparisons=[
            {
                "first": beside.first.name,
                "second": beside.second.name,
                "claim": beside.claim,
                "notes": list(beside.comparison.notes),
                "rows": [asdict(row) | {"verdict": row.verdict.value} for row in beside.comparison.rows],
            }
            for beside in data.beside
        ],
    )


def write_json(title: str, good: bool, **parts: list[dict[str, Any]]) -> str:
    """Write the JSON object of a report: who wrote it, `title`, `good`, and its parts."""
    document = {"farspan": __version__, "title": title, "good": good, **parts}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def _run_object(run: RunReport) -> dict[str, Any]:
    log = run.subject.log
    return {
        "name": run.subject.name,
        "folder": str(run.subject.run.folder),
        "claim": run.claim,
        "verdict": run.verdict,
        "good": run.good,
        "facts": {name.lower(): value for name, value in run.facts},
        "figures": [asdict(figure) for figure in run.figures],
        "trust": [asdict(trust) for trust in run.trust],
        "failures": [_failure_object(failure) for failure in run.failures],
        "findings": [
            {
                "id": f.id,
                "severity": f.severity.value,
                "cause": f.cause,
                "line": f.evidence.line,
                "fix": list(f.fix),
            }
            for f in (log.findings if log else ())
        ],
        "requests": run.total,
    }


def _point_object(row: PointRow) -> dict[str, Any]:
    return {
        "run": row.subject.name,
        "label": row.label,
        **asdict(row.point),
        "output_tokens": row.output_tokens,
        "kv": row.kv or None,
        "planned_ttft_s": row.expected_s,
        "floor_ttft_s": row.floor_s,
        "ttft_ratio": row.ratio or None,
        "failures": [_failure_object(failure) for failure in row.failures],
    }


def _failure_object(failure: FailureRow) -> dict[str, Any]:
    return {
        "status": failure.status.value,
        "count": failure.count,
        "error": failure.error,
        "fix": failure.fix,
        "finding": failure.finding.id if failure.finding else None,
    }
