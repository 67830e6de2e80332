"""What vLLM exports, as measures. Read in 0.12.0 to 0.33.0 `v1/metrics/loggers.py: PrometheusStatLogger`."""

from __future__ import annotations

from farspan.engines.metric_source import Measure, MetricSource

METRIC_SOURCES: dict[Measure, tuple[MetricSource, ...]] = {
    Measure.RUNNING: (MetricSource("vllm:num_requests_running"),),
    Measure.WAITING: (MetricSource("vllm:num_requests_waiting"),),
    Measure.KV_USAGE: (MetricSource("vllm:kv_cache_usage_perc", max),),
    # Slots of one layer group: what a hybrid model's groups share, not tokens of a request.
    Measure.KV_CAPACITY: (MetricSource("vllm:cache_config_info", product=("num_gpu_blocks", "block_size")),),
    Measure.PREFIX_QUERIES: (MetricSource("vllm:prefix_cache_queries_total"),),
    Measure.PREFIX_HITS: (MetricSource("vllm:prefix_cache_hits_total"),),
    Measure.PREEMPTIONS: (MetricSource("vllm:num_preemptions_total"),),
    Measure.PROMPT_TOKENS: (MetricSource("vllm:prompt_tokens_total"),),
    Measure.GENERATION_TOKENS: (MetricSource("vllm:generation_tokens_total"),),
    Measure.FIRST_TOKENS: (MetricSource("vllm:time_to_first_token_seconds_count"),),
    Measure.FIRST_TOKEN_SECONDS: (MetricSource("vllm:time_to_first_token_seconds_sum"),),
    # By the clock of the process that computes, whereas the first token's time is that of the process that answers.
    Measure.DECODE_SECONDS: (MetricSource("vllm:request_decode_time_seconds_sum"),),
}
