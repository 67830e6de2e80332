"""What a report of plans writes as CSV, one line a context, and as JSON, everything the page shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from farspan.reports.plan_section import PlanSection, PlanTableRow

CONTEXT_COLUMNS = (
    "plan", "model", "engine", "hardware", "context", "concurrency", "fits", "refused", "reason", "planned_ttft_s",
    "floor_ttft_s", "planned_itl_s", "planned_prefill_tokens_per_s", "longest_tokens", "max_concurrency",
    "kv_room_bytes", "times", "flags",
)  # fmt: skip


def list_context_row(entry: PlanTableRow) -> tuple[object, ...]:
    """Return one context of one plan as a row of `CONTEXT_COLUMNS`."""
    series, row = entry.series, entry.row
    return (
        series.name, series.model, series.engine, series.hardware, row.context, row.concurrency, row.fits, row.refused,
        row.reason, row.expected_s, row.floor_s, row.itl_s, row.rate, row.capacity, row.most, row.kv_bytes,
        series.plan.trust if series.plan else None, series.command,
    )  # fmt: skip


def export_context(entry: PlanTableRow) -> dict[str, Any]:
    """Return one context of one plan."""
    return {"plan": entry.series.name, **asdict(entry.row)}


def export_plan_section(section: PlanSection) -> dict[str, Any]:
    """Return what the page says of one plan."""
    series = section.series
    return {
        "name": series.name,
        "claim": section.claim,
        "note": section.note,
        "fits": series.fits,
        "find": series.find or None,
        "found": series.found,
        "facts": {name.lower(): value for name, value in section.facts},
        "figures": [asdict(figure) for figure in section.figures],
        "changes": [
            {
                "change": change.change,
                "costs": change.costs,
                "bytes_freed": change.bytes_freed,
                "capacity": change.capacity_tokens or None,
                "fits": change.fits,
            }
            for change in series.changes
        ],
        "remedy": {"changes": series.remedy[0], "flags": series.remedy[1]} if series.remedy[1] else None,
        "warnings": list(series.warnings),
        "notes": list(series.notes),
        "trust": [asdict(trust) for trust in section.trust],
    }
