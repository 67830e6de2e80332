"""The plug-in's figures under /metrics, and that farspan's own reader finds them there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from prometheus_client import CollectorRegistry, generate_latest

from farspan.engines.metric_source import Measure
from farspan.engines.metrics import find_engine, read_metrics
from farspan.integrations.sglang.memory_gauges import MemoryGauges, memory_gauges
from farspan.kv.memory.budget.member import BudgetMember
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.segments import SegmentPool

SEGMENT = 2**20


def test_a_bench_reads_what_the_plugin_exports(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path, driver, registry = tmp_path / "shared@host.budget", HostDriver(), CollectorRegistry()
    member, other = (BudgetMember(path, name, 2**40, limit=20 * SEGMENT) for name in ("one", "other"))
    assert other.part().claim(4 * SEGMENT, 2**40)
    pool = SegmentPool(driver, SEGMENT, quiet_s=100, reread_s=0, budget=member)
    gauges = MemoryGauges(pool, registry)
    pool.give(pool.take(6))
    pool.tick()
    gauges.set()
    exposition = generate_latest(registry)
    engine = find_engine(exposition)
    assert engine is not None
    assert engine.name == "sglang"
    measured = read_metrics(engine, exposition)
    assert measured[Measure.KV_MAPPED_BYTES] == 6 * SEGMENT
    assert measured[Measure.KV_CAPACITY_BYTES] == 16 * SEGMENT
    assert measured[Measure.KV_NEIGHBOURS_BYTES] == 4 * SEGMENT
    assert measured[Measure.KV_LACKING_BYTES] == 0
    assert b"sglang:farspan_memory_idle_bytes 6.291456e+06" in exposition
    pool.close()
    for each in (member, other):
        each.close()
    driver.close()


def test_a_server_without_metrics_has_no_gauges() -> None:
    assert memory_gauges(SimpleNamespace(enable_metrics=False), None) is None  # type: ignore[arg-type]
    assert memory_gauges(None, None) is None  # type: ignore[arg-type]
