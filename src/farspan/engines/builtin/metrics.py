"""What the built-in engine exports, as measures (`farspan.builtin.engine_metrics`)."""

from __future__ import annotations

from farspan.engines.metric_source import Measure, MetricSource

METRIC_SOURCES: dict[Measure, tuple[MetricSource, ...]] = {
    Measure.RUNNING: (MetricSource("farspan:num_requests_running"),),
    Measure.WAITING: (MetricSource("farspan:num_requests_waiting"),),
    Measure.KV_USAGE: (MetricSource("farspan:kv_cache_usage_perc"),),
    Measure.KV_TOKENS: (MetricSource("farspan:kv_cache_tokens"),),
    Measure.KV_MAPPED_BYTES: (MetricSource("farspan:kv_cache_mapped_bytes"),),
    Measure.KV_USED_BYTES: (MetricSource("farspan:kv_cache_used_bytes"),),
    Measure.KV_CAPACITY_BYTES: (MetricSource("farspan:kv_cache_capacity_bytes"),),
    Measure.KV_LACKING_BYTES: (MetricSource("farspan:kv_cache_lacking_bytes"),),
    Measure.KV_NEIGHBOURS_BYTES: (MetricSource("farspan:kv_cache_neighbours_bytes"),),
    Measure.PREFIX_QUERIES: (MetricSource("farspan:prefix_cache_queries_total"),),
    Measure.PREFIX_HITS: (MetricSource("farspan:prefix_cache_hits_total"),),
    Measure.PREEMPTIONS: (MetricSource("farspan:num_preemptions_total"),),
    Measure.PROMPT_TOKENS: (MetricSource("farspan:prompt_tokens_total"),),
    Measure.GENERATION_TOKENS: (MetricSource("farspan:generation_tokens_total"),),
    Measure.FIRST_TOKENS: (MetricSource("farspan:time_to_first_token_seconds_count"),),
    Measure.FIRST_TOKEN_SECONDS: (MetricSource("farspan:time_to_first_token_seconds_sum"),),
}
