"""A run under the names that `vllm bench serve --save-result` uses, for what already reads those."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import pstdev
from typing import Any

from farspan.measurement.analysis.measures import MEASURES, list_values
from farspan.measurement.analysis.spread import measure_throughput
from farspan.measurement.analysis.statistics import statistic
from farspan.measurement.runs.job import LoadPhase
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import Run


def export_vllm(
    run: Run, *, percentiles: Sequence[float] = (99.0,), detailed: bool = False
) -> dict[str, Any]:
    """Return a run as vLLM's result file has it (0.33.0 `benchmarks/serve.py: benchmark` and `main`).

    Like vLLM's, the figures are over every answered request. What of them to trust is under the key `farspan`, which
    vLLM does not have. What a run does not know is null.

    Args:
        run: The run.
        percentiles: Which to give, 0 to 100 (`--metric-percentiles`).
        detailed: Add the lists with one value a request (`--save-detailed`).
    """
    identity, start = run.info.identity, run.info.starts[-1]
    measured = [result for result in run.results if result.phase is LoadPhase.MEASURED]
    done = [result for result in measured if result.status.answered and result.ttft_s is not None]
    dated = all(result.started_at for result in done)
    resumed = len(run.info.starts) > 1
    rates = (
        measure_throughput(measured, resumed=resumed)
        if dated
        else dict.fromkeys(("seconds", "requests_per_s", "output_tokens_per_s", "tokens_per_s"))
    )
    document: dict[str, Any] = {
        "date": start.time,
        "backend": (start.server.owned_by or "openai").lower(),
        "endpoint_type": identity.api,
        "model_id": identity.model,
        "tokenizer_id": start.arguments.get("tokenizer"),
        "num_prompts": len(measured),
        "request_rate": start.arguments.get("rate") or "inf",
        "max_concurrency": start.arguments.get("concurrency"),
        "duration": rates["seconds"],
        "completed": len(done),
        "failed": len(measured) - len(done),
        "total_input_tokens": _total([result.prompt_tokens for result in done]),
        "total_output_tokens": _total([result.output_tokens for result in done]),
        "request_throughput": rates["requests_per_s"],
        "output_throughput": rates["output_tokens_per_s"],
        "total_token_throughput": rates["tokens_per_s"],
    }
    if detailed:
        document |= _list_details(measured)
    # itl is over all gaps of all requests together, as in vLLM.
    for measure in MEASURES.values():
        if measure.vllm_name:
            document |= _spread(measure.vllm_name, list_values(measure, done), percentiles)
    labels = sorted({label for result in measured for label in result.labels})
    trusted = sum(result.is_trusted for result in measured)
    return document | {"farspan": {"trusted": trusted, "labels": labels, "run": str(run.folder)}}


def _spread(name: str, values: Sequence[float], percentiles: Sequence[float]) -> dict[str, float | None]:
    names = ["mean", "median", "std", *(f"p{share:g}" for share in percentiles)]
    found = {stat: statistic(values, stat) for stat in names}
    if values:  # vLLM's is numpy's default, the population's
        found["std"] = pstdev(values)
    return {f"{stat}_{name}_ms": None if v is None else v * 1000 for stat, v in found.items()}


def _list_details(results: Sequence[Result]) -> dict[str, list[Any]]:
    """List one value a request; a failed one has zeros and its error, as in vLLM."""
    return {
        "input_lens": [result.prompt_tokens or 0 for result in results],
        "output_lens": [result.output_tokens or 0 for result in results],
        "ttfts": [result.ttft_s or 0.0 for result in results],
        "itls": [list(result.gaps_s) for result in results],
        "latencies": [result.e2e_s for result in results],
        "generated_texts": [result.reply for result in results],
        "errors": [result.error if not result.status.answered else "" for result in results],
    }


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
