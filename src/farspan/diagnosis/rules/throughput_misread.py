"""vLLM's "Avg prompt throughput" is not how fast a long prompt was read."""

from __future__ import annotations

from farspan.diagnosis.findings import Confidence, Evidence, Severity
from farspan.diagnosis.rates import LOG_INTERVAL_S
from farspan.diagnosis.rule import Diagnosis, StateRule
from farspan.diagnosis.server_state import ServerState

_LEAST_TOKENS = 50_000
_LEAST_SECONDS = 2 * LOG_INTERVAL_S


def _look(situation: ServerState) -> Diagnosis | None:
    longest = situation.rates.longest
    logged, line = situation.rates.highest
    if situation.engine == "sglang" or logged * LOG_INTERVAL_S < _LEAST_TOKENS:
        return None
    cause = (
        f"'Avg prompt throughput: {logged:,.1f} tokens/s' is a whole prompt divided by the 10 s since "
        f"the last line: vLLM "
        "counts a prompt's tokens when its first answer token appears."
    )
    if longest is None or longest.seconds < _LEAST_SECONDS or longest.tokens < _LEAST_TOKENS:
        return Diagnosis(
            cause + " The log's timestamps do not show when the work began.",
            ("measure instead: `farspan bench --url URL --contexts 1M`",),
            Confidence.STRONG,
            evidence=Evidence(line, f"Avg prompt throughput: {logged} tokens/s"),
        )
    low, high = longest.range_tps
    cause += (
        f" By the timestamps about {longest.tokens:,.0f} prompt tokens took {longest.seconds:,.0f} s: "
        f"{longest.tps:,.0f} "
        f"tokens/s ({low:,.0f} to {high:,.0f})."
    )
    return Diagnosis(
        cause,
        (
            "`farspan bench` measures it from the stream; tokens of a prefix cache count in the log up "
            "to 0.15, so warm runs look faster",
        ),
        Confidence.STRONG,
        evidence=Evidence(longest.line, f"Avg prompt throughput: {longest.logged_tps} tokens/s"),
    )


RULE = StateRule(
    id="throughput-misread",
    severity=Severity.INFO,
    look=_look,
    sources=("vllm v1/metrics/loggers.py: LoggingStatLogger", "observed on vllm 0.12.0"),
)
