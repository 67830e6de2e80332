"""From what the client saw to a result: times, rates, and labels that say how far to trust them.

Definitions, all from the client's stream: TTFT is request start to the first event with a token; ITL is
the gap between two such events; end-to-end is request start to the last of them. The prefill rate is
prompt tokens over TTFT: queueing and sending are in it, so it is a lower bound of the engine's own rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from farspan.bench.client import Exchange
from farspan.bench.schedule import Job
from farspan.bench.status import Status
from farspan.bench.wire import Usage

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

    @property
    def job(self) -> Job:
        """The job this is the result of; its key tells repeats of one request from different requests."""
        return Job(self.context, self.depth, self.repeat, self.seed, self.output_asked)


def measure(job: Job, exchange: Exchange, *, answer: str, score: float, company: int = 1) -> Result:
    """Turn an exchange into a result.

    Args:
        job: What was asked.
        exchange: What the client saw.
        answer: What was planted.
        score: How much of it the reply brings back, 0 to 1; ignored when the request failed.
        company: The most requests that we had under way at a time meanwhile, this one included.
    """
    usage = exchange.usage or Usage()
    finished = exchange.status is Status.OK
    times = exchange.token_times_s if exchange.streamed else ()
    ttft = times[0] if times else None
    evidence = find_labels(job, exchange, company) if finished else {}
    warm = bool(usage.cached_tokens)
    status, error = exchange.status, exchange.error
    if finished and usage.prompt_tokens is not None and usage.prompt_tokens != job.context:
        status = Status.WRONG_LENGTH
        error = f"the server counted {usage.prompt_tokens} prompt tokens, {job.context} were asked for"
    elif finished and score < 1.0:
        status = Status.WRONG_ANSWER
        error = f"the reply holds {score:.0%} of what was planted"
    rate = usage.prompt_tokens / ttft if usage.prompt_tokens and ttft and not warm else None
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
    )


def summarise_gaps(times_s: tuple[float, ...]) -> Gaps | None:
    """Summarise the gaps between arrival times; None when there are fewer than two."""
    if len(times_s) < 2:
        return None
    gaps = np.diff(np.asarray(times_s))
    p50, p99 = np.percentile(gaps, (50, 99))
    return Gaps(mean=float(gaps.mean()), p50=float(p50), p99=float(p99))


def find_labels(job: Job, exchange: Exchange, company: int = 1) -> dict[str, str]:
    """Find what limits the trust in a complete answer: label to the evidence for it."""
    usage = exchange.usage or Usage()
    events = len(exchange.token_times_s)
    labels: dict[str, str] = {}
    if not exchange.streamed:
        labels["not-streamed"] = "the server answered in one piece: TTFT and ITL are unknown"
    if usage.cached_tokens:
        labels["warm"] = (
            f"{usage.cached_tokens} of {usage.prompt_tokens or job.context} prompt tokens were cached"
        )
    elif usage.cached_tokens is None:
        labels["cached-unknown"] = "the server does not report prompt_tokens_details.cached_tokens"
    if usage.prompt_tokens is None:
        labels["count-unknown"] = "the server reports no prompt_tokens"
    elif usage.prompt_tokens != job.context:
        name = "short" if usage.prompt_tokens < job.context else "long"
        labels[name] = f"{usage.prompt_tokens} prompt tokens counted, {job.context} asked for"
    produced = events if usage.output_tokens is None else usage.output_tokens
    if produced < job.output_tokens and (
        usage.output_tokens is not None or exchange.finish_reason != "length"
    ):
        why = exchange.finish_reason or "no reason given"
        labels["truncated"] = f"{produced} of {job.output_tokens} output tokens ({why})"
    if exchange.streamed and usage.output_tokens is not None and events != usage.output_tokens:
        labels["itl-per-event"] = f"{usage.output_tokens} tokens came in {events} events: gaps are per event"
    if company > 1:
        labels["co-running"] = f"{company} requests were under way at a time: TTFT may hold queueing"
    return labels
