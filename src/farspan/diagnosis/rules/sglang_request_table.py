"""A request-to-token table of many GiB that nobody asked for."""

from __future__ import annotations

from farspan.diagnosis.findings import Confidence, Evidence, Severity
from farspan.diagnosis.rule import Diagnosis, StateRule
from farspan.diagnosis.server_state import ServerState
from farspan.sizes import GIB

_LARGE_GIB = 4.0
_FEW_ROWS = 8


def _look(situation: ServerState) -> Diagnosis | None:
    rows, context = situation.figures.get("max_running_requests"), situation.figures.get("context_len")
    if situation.engine != "sglang" or rows is None or context is None or rows <= _FEW_ROWS:
        return None
    table, few = (count * (context + 4) * 4 / GIB for count in (rows, _FEW_ROWS))
    if table < _LARGE_GIB:
        return None
    line = situation.figure_lines.get("max_running_requests", situation.last.line)
    return Diagnosis(
        f"The request-to-token table takes {table:.1f} GiB of every GPU: {rows:,.0f} rows of "
        f"{context:,.0f} tokens. So many "
        "long requests never run at once.",
        (
            f"--max-running-requests {_FEW_ROWS}: the table takes {few:.2f} GiB; the {table - few:.1f} "
            f"GiB can go to "
            "--mem-fraction-static",
        ),
        Confidence.CERTAIN,
        evidence=Evidence(line, f"max_running_requests={rows:.0f}, context_len={context:.0f}"),
    )


RULE = StateRule(
    id="sglang-request-table",
    severity=Severity.WARNING,
    look=_look,
    sources=("sglang srt/mem_cache/memory_pool.py: ReqToTokenPool",),
)
