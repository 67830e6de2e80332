"""A report of plans as CSV (one line a context of an engine) and as JSON (everything the page shows)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from farspan.reports.data_files import write_csv, write_json
from farspan.reports.planpage import PlanPage, PlanReportData

_COLUMNS = (
    "plan", "model", "engine", "hardware", "context", "concurrency", "fits", "refused", "reason", "planned_ttft_s",
    "floor_ttft_s", "planned_itl_s", "planned_prefill_tokens_per_s", "longest_tokens", "max_concurrency",
    "kv_room_bytes", "times", "flags",
)  # fmt: skip


def render_plan_csv(data: PlanReportData) -> str:
    """Render every context of every plan as one line, times in seconds; unknown values are empty."""
    return write_csv(
        _COLUMNS,
        (
            (
                one.name, one.model, one.engine, one.hardware, row.context, row.concurrency, row.fits, row.refused,
                row.reason, row.expected_s, row.floor_s, row.itl_s, row.rate, row.capacity, row.most, row.kv_bytes,
                one.plan.trust if one.plan else None, one.command,
            )
            for one, row in ((entry.planned, entry.row) for entry in data.rows)
        ),
    )  # fmt: skip


def render_plan_json(data: PlanReportData) -> str:
    """Render what the page says as one JSON object: `title`, `good`, `plans`, `points`."""
    return write_json(
        data.title,
        data.good,
        plans=[_plan_object(page) for page in data.plans],
        points=[{"plan": entry.planned.name, **asdict(entry.row)} for entry in data.rows],
    )


def _plan_object(page: PlanPage) -> dict[str, Any]:
    planned = page.planned
    return {
        "name": planned.name,
        "claim": page.claim,
        "note": page.note,
        "fits": planned.fits,
        "find": planned.find or None,
        "found": planned.found,
        "facts": {name.lower(): value for name, value in page.facts},
        "figures": [asdict(figure) for figure in page.figures],
        "changes": [
            {
                "change": change.change,
                "costs": change.costs,
                "bytes_freed": change.bytes_freed,
                "capacity": change.capacity_tokens or None,
                "fits": change.fits,
            }
            for change in planned.changes
        ],
        "remedy": {"changes": planned.remedy[0], "flags": planned.remedy[1]} if planned.remedy[1] else None,
        "warnings": list(planned.warnings),
        "trust": [asdict(trust) for trust in page.trust],
    }
