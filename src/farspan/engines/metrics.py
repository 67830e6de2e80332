"""What the engines' /metrics say, under one set of names.

Which metric of an engine is which measure stands in `engines/*/metrics.py`. Where versions differ, a measure lists a
name for each, the newest first: the first that a server exports is taken, so an unknown version is read as the nearest
known one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from farspan.engines.engine import Engine
from farspan.engines.metric_source import Measure, MetricSource
from farspan.engines.registry import all_engines

# With --enable-metrics-for-all-schedulers SGLang exports every rank's view of the same requests: one is enough
# for each data-parallel replica.
_RANK_LABELS = ("tp_rank", "pp_rank", "moe_ep_rank")


def find_engine(exposition: bytes) -> Engine | None:
    """Tell whose /metrics this is by the prefix of its names; None when it is no engine farspan knows."""
    for engine in all_engines():
        prefix = engine.metric_prefix
        if exposition.startswith(prefix) or b"\n" + prefix in exposition:
            return engine
    return None


def read_metrics(engine: Engine, exposition: bytes) -> dict[Measure, float]:
    """Read what an engine says of itself; measures it does not export are left out.

    Only the lines that are wanted are parsed: a server with long histograms exports thousands.

    Args:
        engine: The engine whose metrics they are.
        exposition: The body of GET /metrics.

    Raises:
        ValueError: A wanted line is not in the Prometheus text format.
    """
    measured = engine.metric_sources()
    wanted = b"\n".join(_wanted_lines(measured).findall(exposition)) + b"\n"
    samples: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(wanted.decode("utf-8", "replace")):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample)
    values: dict[Measure, float] = {}
    for measure, sources in measured.items():
        for source in sources:
            value = _value(source, samples.get(source.name, []))
            if value is not None:
                values[measure] = value
                break
    if Measure.KV_TOKENS not in values and {Measure.KV_USAGE, Measure.KV_CAPACITY} <= values.keys():
        values[Measure.KV_TOKENS] = values[Measure.KV_USAGE] * values[Measure.KV_CAPACITY]
    return values


def _wanted_lines(measured: Mapping[Measure, tuple[MetricSource, ...]]) -> re.Pattern[bytes]:
    names = {source.name for sources in measured.values() for source in sources}
    pattern = "|".join(re.escape(name) for name in sorted(names))
    return re.compile(rb"^(?:" + pattern.encode() + rb")[{ ].*$", re.MULTILINE)


def _value(source: MetricSource, samples: list[Sample]) -> float | None:
    chosen = [
        sample
        for sample in _first_ranks(samples)
        if all(sample.labels.get(name) == value for name, value in source.labels.items())
    ]
    if not source.product:
        numbers = [sample.value for sample in chosen]
    else:
        numbers = [n for n in (_multiply(sample, source.product) for sample in chosen) if n is not None]
    finite = [number for number in numbers if number == number and abs(number) != float("inf")]
    return float(source.combine(finite)) if finite else None


def _first_ranks(samples: list[Sample]) -> list[Sample]:
    """Keep the series of the lowest rank of every data-parallel replica."""

    def rank(sample: Sample) -> tuple[int, ...]:
        texts = [sample.labels.get(name, "") for name in _RANK_LABELS]
        return tuple(int(text) if text.isdecimal() else 0 for text in texts)

    lowest: dict[str, tuple[int, ...]] = {}
    for sample in samples:
        replica = sample.labels.get("dp_rank", "")
        lowest[replica] = min(lowest.get(replica, rank(sample)), rank(sample))
    return [sample for sample in samples if rank(sample) == lowest[sample.labels.get("dp_rank", "")]]


def _multiply(sample: Sample, labels: tuple[str, ...]) -> float | None:
    product = 1.0
    for label in labels:
        text = sample.labels.get(label, "")
        if not text.isdecimal():
            return None
        product *= int(text)
    return product
