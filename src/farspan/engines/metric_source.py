"""What an engine says of itself under /metrics: the measures, and where each is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Combine = Callable[[Iterable[float]], float]


class Measure(StrEnum):
    """What an engine measures of itself. Counters run from the server's start."""

    RUNNING = "running"  # requests in execution
    WAITING = "waiting"  # requests queued in the engine
    KV_USAGE = "kv_usage"  # share of the KV pool in use, 0 to 1
    KV_TOKENS = "kv_tokens"  # tokens whose KV is held for requests
    KV_CAPACITY = "kv_capacity_tokens"  # tokens the KV pool holds
    KV_MAPPED_BYTES = "kv_mapped_bytes"  # memory an elastic KV cache has taken from the device
    KV_USED_BYTES = "kv_used_bytes"  # of it, memory of pages in use, cached prefixes included
    KV_CAPACITY_BYTES = "kv_capacity_bytes"  # the most it may take
    KV_LACKING_BYTES = "kv_lacking_bytes"  # what requests wait for, of an elastic KV cache on a shared budget
    KV_NEIGHBOURS_BYTES = "kv_neighbours_bytes"  # what other members of that budget hold
    PREFIX_QUERIES = "prefix_queries"  # counter: prompt tokens looked up in the prefix cache
    PREFIX_HITS = "prefix_hits"  # counter: of those, tokens found
    PREEMPTIONS = "preemptions"  # counter: requests thrown out of execution to make room
    PROMPT_TOKENS = (
        "prompt_tokens"  # counter: prompt tokens of requests whose prefill (SGLang: whole run) is over
    )
    PREFILLED_TOKENS = "prefilled_tokens"  # counter: prompt tokens computed so far, chunk by chunk
    GENERATION_TOKENS = "generation_tokens"  # counter: tokens generated
    FIRST_TOKENS = "first_tokens"  # counter: requests that have their first token
    FIRST_TOKEN_SECONDS = "first_token_seconds"  # counter: their times from arrival to it, added up
    DECODE_SECONDS = (
        "decode_seconds"  # counter: times from first to last token of finished requests, added up
    )


@dataclass(frozen=True, slots=True)
class MetricSource:
    """Where a measure comes from.

    Args:
        name: The sample's name in the exposition, `_total` and `_sum` included.
        combine: What to make of several series, such as those of data-parallel engines.
        labels: Only series with these label values.
        product: Labels whose values multiplied are the value, for what vLLM exports as an info metric.
    """

    name: str
    combine: Combine = sum
    labels: Mapping[str, str] = field(default_factory=dict)
    product: tuple[str, ...] = ()
