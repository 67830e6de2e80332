"""What the built-in server exports on /metrics; names follow vLLM's, with `farspan:` for `vllm:`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from farspan.errors import KVError
from farspan.kv.interface import KVStatistics

# vLLM's buckets stop at 2,560 s and SGLang's at 400 s; a prompt of 10M tokens takes longer than either.
_LONG = (
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    25,
    50,
    100,
    250,
    500,
    1000,
    2500,
    5000,
    10000,
    25000,
)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_KV_GAUGES = {
    "capacity_bytes": "The most the KV cache may take as things stand.",
    "mapped_bytes": "Memory the KV cache has taken from the device.",
    "used_bytes": "Memory of pages in use, cached prefixes included.",
    "promised_bytes": "Memory that requests in progress may still need.",
    "tokens": "Positions of requests in progress.",
    "cached_tokens": "Tokens of prefixes on the device that a later request may reuse.",
    "lacking_bytes": "Memory that requests wait for, of a budget that servers share.",
    "neighbours_bytes": "What other servers of that budget hold.",
    "host_bytes": "Host memory of prefixes that were evicted from the device.",
    "host_tokens": "Tokens of these prefixes.",
}
_KV_COUNTERS = {
    "evicted_tokens": "Tokens of prefixes that left the device.",
    "restored_tokens": "Tokens of prefixes that came back from host memory.",
    "segments_created": "Segments of memory taken from the device.",
    "segments_destroyed": "Segments of memory given back to the device.",
}


class EngineMetrics:
    """The counters, gauges and histograms of one server, in a registry of their own."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        label = ("model_name",)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"farspan:{name}", text, label, registry=self.registry).labels(model_name)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"farspan:{name}", text, label, registry=self.registry).labels(model_name)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"farspan:{name}", text, label, registry=self.registry, buckets=buckets).labels(
                model_name
            )

        self._running = gauge("num_requests_running", "Requests in progress.")
        self._waiting = gauge("num_requests_waiting", "Requests that wait for room.")
        self._kv_usage = gauge(
            "kv_cache_usage_perc", "Share of the KV cache held by or promised to requests."
        )
        self._kv: dict[str, Gauge] = {
            field: gauge(f"kv_cache_{field}", text) for field, text in _KV_GAUGES.items()
        }
        self._kv_counters = {
            field: counter(f"kv_cache_{field}", text) for field, text in _KV_COUNTERS.items()
        }
        self._preemptions = counter("num_preemptions", "Requests that lost their room and were queued again.")
        self._counted: dict[str, int] = dict.fromkeys((*_KV_COUNTERS, "preemptions"), 0)
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of requests whose prefill is over.")
        self.generation_tokens = counter("generation_tokens", "Tokens generated.")
        self.prefix_queries = counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self.prefix_hits = counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self.time_to_first_token = histogram("time_to_first_token_seconds", "Arrival to first token.", _LONG)
        self.inter_token_latency = histogram("inter_token_latency_seconds", "Between tokens.", _SHORT)
        self.e2e_latency = histogram("e2e_request_latency_seconds", "Arrival to last token.", _LONG)
        self.queue_time = histogram("request_queue_time_seconds", "Arrival to first step.", _LONG)
        self._success = Counter(
            "farspan:request_success",
            "Requests that ended, by reason.",
            ("model_name", "finished_reason"),
            registry=self.registry,
        )
        self._model_name = model_name
        self._kv_statistics: Callable[[], KVStatistics] | None = None
        self._lock = threading.Lock()

    def watch_kv(self, statistics: Callable[[], KVStatistics]) -> None:
        """Ask the KV cache itself at every scrape: it gives memory back also while the engine does nothing."""
        self._kv_statistics = statistics

    def set_state(self, running: int, waiting: int, preemptions: int, kv: KVStatistics) -> None:
        """Set the gauges, and bring the counters up to what the engine has counted."""
        with self._lock:
            self._running.set(running)
            self._waiting.set(waiting)
            self._catch_up("preemptions", self._preemptions, preemptions)
            self._set_kv(kv)

    def _set_kv(self, kv: KVStatistics) -> None:
        self._kv_usage.set(kv.needed_bytes / kv.capacity_bytes if kv.capacity_bytes else 0.0)
        for field, gauge in self._kv.items():
            gauge.set(getattr(kv, field))
        for field, counter in self._kv_counters.items():
            self._catch_up(field, counter, getattr(kv, field))

    def _catch_up(self, name: str, counter: Counter, count: int) -> None:
        # Two threads count: one may be later with what it saw earlier.
        counter.inc(max(0, count - self._counted[name]))
        self._counted[name] = max(count, self._counted[name])

    def finished(self, reason: str) -> None:
        """Count a request that ended."""
        self._success.labels(self._model_name, reason).inc()

    def exposition(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        if self._kv_statistics is not None:
            with suppress(KVError), self._lock:  # a cache that is just being closed keeps its last figures
                self._set_kv(self._kv_statistics())
        return generate_latest(self.registry)
