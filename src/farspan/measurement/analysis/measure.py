"""From what the client saw to a result: times, rates, and labels that say how far to trust them.

Definitions, all from the client's stream: TTFT is request start to the first event with a token; ITL is the gap
between two such events; end-to-end is request start to the last of them; TPOT is (end-to-end - TTFT) / (output tokens
- 1), and the decode rate its inverse. The prefill rate is prompt tokens over TTFT less the queue time where the server
tells that: sending, and queueing where it does not, are in it, so it is a lower bound of the engine's own rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from farspan.measurement.analysis.labels import Surroundings, find_around, find_labels
from farspan.measurement.http.client import Exchange, Lag
from farspan.measurement.http.wire import Usage
from farspan.measurement.request_status import Status
from farspan.measurement.schedule import Job, LoadPhase

REPLY_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Gaps:
    """The gaps between events with tokens, in seconds."""

    mean: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Result:
    """One finished request: what was asked, what came back, and how far it can be trusted.

    Args:
        context: Prompt tokens asked for.
        prompt_tokens, cached_tokens, output_tokens: As the server counts them; None where it does not say.
        ttft_s, e2e_s, bytes_sent_s: Seconds since the request's start; None where it never came to that.
        prefill_tokens_per_s: Prompt tokens over TTFT; None unless both are known and the prompt was not
            cached.
        labels: Short names of what limits the trust in this result; `evidence` has a sentence for each.
        score: 0 to 1, how much of what was planted came back; None when the request failed.
        token_times_s: Arrival of every event with tokens, seconds since the request's start.
        phase: Only measured requests count in statistics.
        prompt_id: The hash of the prompt's bytes, its name in the prompt store.
        queue_s: How long the request waited, as the server tells; None where it does not.
        tpot_s, decode_tokens_per_s: Over the tokens after the first; None for fewer than two.
        connected_s: When the connection stood.
        late_s: How much later than scheduled the request left (open loop).
        company: The most requests of ours under way at a time meanwhile, this one included.
        client_lag_s: The client's own; None where arrivals are timed by the client itself.
    """

    context: int
    depth: float
    repeat: int
    seed: int
    output_asked: int
    started_at: str
    status: Status
    error: str
    http_status: int | None
    prompt_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    ttft_s: float | None
    itl_s: Gaps | None
    e2e_s: float
    bytes_sent_s: float | None
    body_bytes: int
    prefill_tokens_per_s: float | None
    finish_reason: str | None
    score: float | None
    answer: str
    reply: str
    labels: tuple[str, ...] = ()
    evidence: dict[str, str] = field(default_factory=dict)
    token_times_s: tuple[float, ...] = ()
    phase: LoadPhase = LoadPhase.MEASURED
    prompt_id: str = ""
    queue_s: float | None = None
    tpot_s: float | None = None
    decode_tokens_per_s: float | None = None
    connected_s: float | None = None
    late_s: float = 0.0
    company: int = 1
    client_lag_s: Lag | None = None

    @property
    def job(self) -> Job:
        """The job this is the result of; its key tells repeats of one request from different requests."""
        return Job(self.context, self.depth, self.repeat, self.seed, self.output_asked, self.phase)


def measure(
    job: Job,
    exchange: Exchange,
    *,
    answer: str,
    score: float,
    around: Surroundings | None = None,
    prompt_id: str = "",
) -> Result:
    """Turn an exchange into a result.

    Args:
        job: What was asked.
        exchange: What the client saw.
        answer: What was planted.
        score: How much of it the reply brings back, 0 to 1; ignored when the request failed.
        around: What happened around it.
        prompt_id: The prompt's name in the prompt store.
    """
    around = around or Surroundings()
    usage = exchange.usage or Usage()
    finished = exchange.status is Status.OK
    times = exchange.token_times_s if exchange.streamed else ()
    ttft = times[0] if times else None
    evidence = find_labels(job, exchange, around) if finished else find_around(exchange, around)
    warm = bool(usage.cached_tokens)
    status, error = exchange.status, exchange.error
    if finished and usage.prompt_tokens is not None and usage.prompt_tokens != job.context:
        status = Status.WRONG_LENGTH
        error = f"the server counted {usage.prompt_tokens} prompt tokens, {job.context} were asked for"
    elif finished and score < 1.0:
        status = Status.WRONG_ANSWER
        error = f"the reply holds {score:.0%} of what was planted"
    computing = None if ttft is None else ttft - min(usage.queue_s or 0.0, 0.999 * ttft)
    rate = usage.prompt_tokens / computing if usage.prompt_tokens and computing and not warm else None
    tokens = usage.output_tokens or len(times)
    tpot = (times[-1] - times[0]) / (tokens - 1) if finished and times and tokens > 1 else None
    return Result(
        context=job.context,
        depth=job.depth,
        repeat=job.repeat,
        seed=job.seed,
        output_asked=job.output_tokens,
        started_at=datetime.fromtimestamp(exchange.started_at, UTC).isoformat(timespec="milliseconds"),
        status=status,
        error=error,
        http_status=exchange.http_status,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        ttft_s=ttft,
        itl_s=summarise_gaps(times),
        e2e_s=times[-1] if finished and times else exchange.ended_s,
        bytes_sent_s=exchange.bytes_sent_s,
        body_bytes=exchange.body_bytes,
        prefill_tokens_per_s=rate,
        finish_reason=exchange.finish_reason,
        score=score if finished else None,
        answer=answer,
        reply=exchange.text[:REPLY_CHARACTERS],
        labels=tuple(evidence),
        evidence=evidence,
        token_times_s=tuple(round(t, 6) for t in times),
        phase=job.phase,
        prompt_id=prompt_id,
        queue_s=usage.queue_s,
        tpot_s=tpot,
        decode_tokens_per_s=1 / tpot if tpot else None,
        connected_s=exchange.connected_s,
        late_s=around.late_s,
        company=around.company,
        client_lag_s=exchange.lag,
    )


def summarise_gaps(times_s: tuple[float, ...]) -> Gaps | None:
    """Summarise the gaps between arrival times; None when there are fewer than two."""
    if len(times_s) < 2:
        return None
    gaps = np.diff(np.asarray(times_s))
    p50, p99 = np.percentile(gaps, (50, 99))
    return Gaps(mean=float(gaps.mean()), p50=float(p50), p99=float(p99))
