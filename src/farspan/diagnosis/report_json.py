"""A report as one JSON object."""

from __future__ import annotations

from typing import Any

from farspan.diagnosis.diagnose import Report
from farspan.diagnosis.timeline import Entry, clock
from farspan.engines.logs.findings import Evidence
from farspan.escape_terminal import printable


def report_object(report: Report) -> dict[str, Any]:
    """The keys are `engine`, `version`, `timeline`, `capacity`, `findings` and `noise`, always all of them."""
    first = report.server_state.first_at
    return {
        "engine": report.engine,
        "version": report.version,
        "timeline": [_entry(entry, first) for entry in report.timeline],
        "capacity": {**report.capacity, "in_plain_terms": list(report.in_plain_terms)},
        "findings": [
            {
                "id": finding.id,
                "severity": finding.severity.value,
                "cause": printable(finding.cause),
                "evidence": _evidence(finding.evidence),
                "fix": [printable(step) for step in finding.fix],
                "confidence": finding.confidence.value,
                "sources": list(finding.sources),
            }
            for finding in report.findings
        ],
        "noise": [
            {
                "id": noise.id,
                "harmless": noise.harmless,
                "why": noise.why,
                "evidence": _evidence(noise.evidence),
            }
            for noise in report.noise
        ],
    }


def _evidence(evidence: Evidence) -> dict[str, Any]:
    return {"line": evidence.line, "text": printable(evidence.text), "count": evidence.count}


def _entry(entry: Entry, first: float | None) -> dict[str, Any]:
    return {
        "phase": entry.phase.value,
        "at": clock(entry.at) or None,
        "since_start_s": None if entry.at is None or first is None else round(entry.at - first, 3),
        "took_s": entry.seconds,
        "gib": entry.gib,
        "percent": entry.percent,
        "done": entry.done,
        "line": entry.line,
        "process": entry.process,
        "text": printable(entry.text),
    }
