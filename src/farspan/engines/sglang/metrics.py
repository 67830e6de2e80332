"""What SGLang exports, as measures.

Read in 0.5.6.post2 `srt/metrics/collector.py`, 0.5.16 and 0.5.23 `srt/observability/metrics_collector.py`.
"""

from __future__ import annotations

from farspan.engines.metric_source import Measure, MetricSource

METRIC_SOURCES: dict[Measure, tuple[MetricSource, ...]] = {
    Measure.RUNNING: (MetricSource("sglang:num_running_reqs"),),
    Measure.WAITING: (MetricSource("sglang:num_queue_reqs"),),
    # From 0.5.16 token_usage is the fullest of all pools; of a hybrid model the full-attention pool tells more.
    Measure.KV_USAGE: (MetricSource("sglang:full_token_usage", max), MetricSource("sglang:token_usage", max)),
    Measure.KV_TOKENS: (MetricSource("sglang:kv_used_tokens"), MetricSource("sglang:num_used_tokens")),
    Measure.KV_CAPACITY: (MetricSource("sglang:max_total_num_tokens"),),
    # The plug-in's, where it is (`farspan.integrations.sglang.memory_gauges`); tables are counted with the pools.
    Measure.KV_MAPPED_BYTES: (MetricSource("sglang:farspan_memory_held_bytes"),),
    Measure.KV_CAPACITY_BYTES: (MetricSource("sglang:farspan_memory_allowed_bytes"),),
    Measure.KV_LACKING_BYTES: (MetricSource("sglang:farspan_memory_lacking_bytes"),),
    Measure.KV_NEIGHBOURS_BYTES: (MetricSource("sglang:farspan_memory_neighbours_bytes"),),
    Measure.PREFIX_QUERIES: (MetricSource("sglang:prompt_tokens_total"),),
    # One series a cache_source from 0.5.16 on, without that label before: the sum is the same thing.
    Measure.PREFIX_HITS: (MetricSource("sglang:cached_tokens_total"),),
    # 0.5.6 has no counter of retractions; its histogram of them by finished request adds up to one.
    Measure.PREEMPTIONS: (
        MetricSource("sglang:num_retracted_requests_total"),
        MetricSource("sglang:num_retractions_sum"),
    ),
    Measure.PROMPT_TOKENS: (MetricSource("sglang:prompt_tokens_total"),),
    Measure.PREFILLED_TOKENS: (
        MetricSource("sglang:realtime_tokens_total", labels={"mode": "prefill_compute"}),
    ),
    Measure.GENERATION_TOKENS: (MetricSource("sglang:generation_tokens_total"),),
    Measure.FIRST_TOKENS: (MetricSource("sglang:time_to_first_token_seconds_count"),),
    Measure.FIRST_TOKEN_SECONDS: (MetricSource("sglang:time_to_first_token_seconds_sum"),),
}
