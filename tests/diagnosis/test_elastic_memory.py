"""What the doctor makes of elastic memory's lines: what was held, what was in the way, in either engine's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from failing_logs import SGLANG, served
from farspan.diagnosis.examine import examine
from farspan.diagnosis.report_json import report_object
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.memory_log import MemoryLog
from farspan.kv.memory.segments import SegmentPool

EVIDENCE = Path(__file__).parents[1] / "evidence"
WAITS = (
    "[2026-05-01 10:02:00] farspan memory: waits for 10.0 GiB: held=4294967296 idle=0 lacking=10737418240 "
    "allowed=10737418240 exchanged=0 by={by} budget=shared limit={limit} neighbours={count} neighbours_held=21474836480"
)


def test_the_last_figures_are_told() -> None:
    report = examine([(EVIDENCE / "elastic-memory-waits.log").read_bytes()])
    figures = report_object(report)["capacity"]
    said = " ".join(figures["plain"]) if isinstance(figures, dict) and "plain" in figures else str(figures)
    assert "The elastic KV cache held 14.0 MiB when the log last said, and could hold 14.0 MiB" in said
    assert "other servers of its budget held 18.0 MiB" in said


@pytest.mark.parametrize(
    ("by", "limit", "count", "words", "fix"),
    [
        (
            "neighbours",
            "96636764160",
            "2",
            "other servers of this GPU hold",
            "farspan kv limit SIZE --server NAME",
        ),
        (
            "limit",
            "26843545600",
            "1",
            "The budget is what makes requests wait",
            "kv limit SIZE --budget shared",
        ),
        ("device", "none", "1", "the GPU has not that much free", "nvidia-smi"),
    ],
)
def test_what_is_in_the_way_is_named(by: str, limit: str, count: str, words: str, fix: str) -> None:
    report = examine([served(SGLANG, WAITS.format(by=by, limit=limit, count=count))])
    (finding,) = [one for one in report.findings if one.id == "elastic-memory-waits"]
    assert words in finding.cause
    assert fix in " ".join(finding.fix)
    assert "1 others" not in finding.cause


def test_the_lines_that_are_written_are_the_lines_that_are_read() -> None:
    """The writer and the reader are held together: a line of a pool without a budget."""
    lines: list[str] = []
    driver = HostDriver()
    pool = SegmentPool(driver, 2**20, quiet_s=0)
    lent = pool.take(3)
    MemoryLog(pool, lines.append).note()
    report = examine([served(SGLANG, f"[2026-05-01 10:02:00] {lines[0]}")])
    assert "The elastic KV cache held 3.0 MiB when the log last said" in str(report_object(report))
    pool.give(lent)
    pool.close()
    driver.close()
