"""Results as a bench would have made them."""

from __future__ import annotations

from typing import Any

from farspan.measurement.http.client import Exchange
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.wire import Usage
from farspan.measurement.runs.result import Gaps, Result


def make_result(**changes: Any) -> Result:
    """Return a good, cold result of 10,000 tokens, changed as told."""
    values: dict[str, Any] = {
        "context": 10_000,
        "depth": 0.5,
        "repeat": 0,
        "seed": 7,
        "output_asked": 4,
        "started_at": "2026-01-01T00:00:00.000+00:00",
        "status": Status.OK,
        "error": "",
        "http_status": 200,
        "prompt_tokens": 10_000,
        "cached_tokens": 0,
        "output_tokens": 4,
        "ttft_s": 2.0,
        "itl_s": Gaps(0.1, 0.1, 0.12),
        "e2e_s": 2.3,
        "bytes_sent_s": 0.01,
        "body_bytes": 50_000,
        "prefill_tokens_per_s": 5000.0,
        "finish_reason": "length",
        "score": 1.0,
        "answer": "Zuri Bado",
        "reply": "Zuri Bado",
        "labels": (),
        "evidence": {},
        "token_times_s": (2.0, 2.1, 2.2, 2.3),
    }
    return Result(**(values | changes))


def make_exchange(**changes: Any) -> Exchange:
    """Return a good exchange of 1,000 tokens with an answer of four, changed as told."""
    values: dict[str, Any] = {
        "status": Status.OK,
        "error": "",
        "http_status": 200,
        "started_at": 1_700_000_000.0,
        "body_bytes": 5000,
        "bytes_sent_s": 0.01,
        "token_times_s": (2.0, 2.1, 2.2, 2.5),
        "ended_s": 3.0,
        "text": "a b c d",
        "finish_reason": "length",
        "usage": Usage(1000, 0, 4),
        "streamed": True,
    }
    return Exchange(**(values | changes))
