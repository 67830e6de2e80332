"""From what the client saw to a result: times, rates, and labels that say how far to trust them.

Definitions, all from the client's stream: TTFT is request start to the first event with a token; ITL is the gap
between two such events; end-to-end is request start to the last of them; TPOT is (end-to-end - TTFT) / (output tokens
- 1), and the decode rate its inverse. The prefill rate is prompt tokens over TTFT less the queue time where the server
tells that: sending, and queueing where it does not, are in it, so it is a lower bound of the engine's own rate.
"""

from __future__ import annotations

from datetime import UTC, datetime

from farspan.measurement.analysis.labels import (
    Surroundings,
    find_around,
    find_expected,
    find_held,
    find_labels,
)
from farspan.measurement.http.client import Exchange
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.wire import Usage
from farspan.measurement.runs.job import Job
from farspan.measurement.runs.result import REPLY_CHARACTERS, Result, is_warm, summarise_gaps


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
        answer: What was planted; empty for nothing, which any words answer.
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
    expected = find_expected(job, around)
    warm = bool(expected) or is_warm(usage.cached_tokens, usage.prompt_tokens or job.context)
    status, error = exchange.status, exchange.error
    if finished and usage.prompt_tokens is not None and usage.prompt_tokens != job.context:
        status = Status.WRONG_LENGTH
        error = f"the server counted {usage.prompt_tokens} prompt tokens, {job.context} were asked for"
    elif finished and score < 1.0:
        status = Status.WRONG_ANSWER
        error = f"the reply holds {score:.0%} of what was planted" if answer else "the reply has no words"
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
        score=score if finished and answer else None,
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
        most_at_once=around.most_at_once,
        client_lag_s=exchange.lag,
        concurrency=job.concurrency,
        shared_tokens=job.shared_tokens,
        member=job.member,
        expected_cached_tokens=expected,
        conversation=job.conversation,
        engine_ttft_s=None if around.engine is None else around.engine.ttft_s,
        first_token_held_s=find_held(times, around.engine),
    )
