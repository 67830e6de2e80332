"""What a report of runs writes as CSV, one line a request, and as JSON, everything the page shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from farspan.reports.report_tables import FailureRow, PointRow
from farspan.reports.run_section import ComparedRun, RunSection

REQUEST_COLUMNS = (
    "run", "engine", "model", "context", "depth", "repeat", "seed", "started_at", "status", "error", "prompt_tokens",
    "cached_tokens", "output_tokens", "ttft_s", "queue_s", "itl_mean_s", "itl_p50_s", "itl_p99_s", "tpot_s", "e2e_s",
    "prefill_tokens_per_s", "decode_tokens_per_s", "score", "most_at_once", "planned_ttft_s", "floor_ttft_s", "labels",
    "expected_cached_tokens", "engine_ttft_s", "stream_late_s", "first_token_held_s",
)  # fmt: skip


def list_request_rows(section: RunSection) -> Iterator[tuple[object, ...]]:
    """List every measured request of a run as a row of `REQUEST_COLUMNS`."""
    run = section.run
    for result in run.results:
        gaps = result.itl_s
        planned = run.plan.times.at(result.context) if run.plan else None
        yield (
            run.name, run.engine, run.recorded.info.identity.model, result.context, result.depth, result.repeat,
            result.seed, result.started_at, result.status.value, result.error, result.prompt_tokens,
            result.cached_tokens, result.output_tokens, result.ttft_s, result.queue_s, gaps.mean if gaps else None,
            gaps.p50 if gaps else None, gaps.p99 if gaps else None, result.tpot_s, result.e2e_s,
            result.prefill_tokens_per_s, result.decode_tokens_per_s, result.recall,
            result.most_at_once, planned.expected_s if planned else None, planned.floor_s if planned else None,
            " ".join(result.labels), result.expected_cached_tokens, result.engine_ttft_s, result.stream_late_s,
            result.first_token_held_s,
        )  # fmt: skip


def export_section(section: RunSection) -> dict[str, Any]:
    """Return what the page says of one run."""
    log = section.run.log
    return {
        "name": section.name,
        "folder": str(section.run.recorded.folder),
        "claim": section.claim,
        "verdict": section.verdict,
        "good": section.good,
        "facts": {name.lower(): value for name, value in section.facts},
        "figures": [asdict(figure) for figure in section.figures],
        "trust": [asdict(trust) for trust in section.trust],
        "failures": [_export_failure(failure) for failure in section.failures],
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
        "shared_prefixes": [asdict(point) | {"ratio": point.ratio} for point in section.shared],
        "turns": [point.to_json() for point in section.turns],
        "curve": [point.to_json() for point in section.load],
        "requests": section.total,
    }


def export_point(row: PointRow) -> dict[str, Any]:
    """Return one context and depth of one run."""
    return {
        "run": row.run.name,
        "label": row.label,
        **asdict(row.point),
        "output_tokens": row.output_tokens,
        "kv": row.kv or None,
        "planned_ttft_s": row.expected_s,
        "floor_ttft_s": row.floor_s,
        "ttft_ratio": row.ratio or None,
        "failures": [_export_failure(failure) for failure in row.failures],
    }


def export_comparison(compared: ComparedRun) -> dict[str, Any]:
    """Return one run beside the first one."""
    return {
        "first": compared.first.name,
        "second": compared.second.name,
        "claim": compared.claim,
        "notes": list(compared.comparison.notes),
        "rows": [asdict(row) | {"verdict": row.verdict.value} for row in compared.comparison.rows],
    }


def _export_failure(failure: FailureRow) -> dict[str, Any]:
    return {
        "status": failure.status.value,
        "count": failure.count,
        "error": failure.error,
        "fix": failure.fix,
        "finding": failure.finding.id if failure.finding else None,
    }
