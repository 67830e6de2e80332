"""What limits the trust in a result: a short name, and the evidence in one sentence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from farspan.measurement.http.client import Exchange
from farspan.measurement.http.wire import Usage
from farspan.measurement.runs.engine_ttft import EngineTimes
from farspan.measurement.runs.job import Job
from farspan.measurement.runs.result import is_missed, is_warm
from farspan.sizes import format_seconds

# A wall clock that is kept right by slewing moves by at most 500 parts in a million (adjtimex(2)).
_SLEW = 0.0005
_CLOCK_JUMP_S = 0.1
# Others may take this share of the client's processors before a result is labelled.
_BUSY_SHARE = 0.5
# Below this the client's own lag changes nothing anybody would look at.
_LAG_S = 0.01
_BURST_S = 0.001
# A first token held back by less is no matter, or is lost in what times vary by.
_HELD_S = 0.02
_HELD_PART = 0.01


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What happened around a request.

    Args:
        most_at_once: The most requests that we had under way at a time meanwhile, this one included.
        others_cpu: Processors of this machine that other programs used meanwhile; None when that is unknown or the
            server is one of them.
        late_s: How much later than scheduled it left.
        observed: Labels that observers of the server found, with their evidence.
        engine: The engine's own times of the request; None where they are not known.
        cacheable_tokens: Prompt tokens that the server can have, where that is known only now; else None.
        encoded_again: Whether the answer before, which the prompt goes on from, had to be encoded from its text.
    """

    most_at_once: int = 1
    others_cpu: float | None = None
    late_s: float = 0.0
    observed: Mapping[str, str] = field(default_factory=dict)
    engine: EngineTimes | None = None
    cacheable_tokens: int | None = None
    encoded_again: bool = False


def find_labels(job: Job, exchange: Exchange, around: Surroundings) -> dict[str, str]:
    """Find what limits the trust in a complete answer: label to the evidence for it."""
    return _find_in_answer(job, exchange, find_expected(job, around)) | find_around(exchange, around)


def find_expected(job: Job, around: Surroundings) -> int | None:
    """Return the prompt tokens that are cached by design; None where none is shared."""
    return job.expected_cached_tokens if around.cacheable_tokens is None else around.cacheable_tokens


def find_around(exchange: Exchange, around: Surroundings) -> dict[str, str]:
    """Find what limits the trust in any exchange, complete or not."""
    labels: dict[str, str] = {}
    if around.most_at_once > 1:
        labels["concurrent"] = (
            f"{around.most_at_once} requests of ours were under way at a time: TTFT may hold queueing"
        )
    if around.others_cpu is not None and around.others_cpu > _BUSY_SHARE * (os.cpu_count() or 1):
        labels["co-running"] = (
            f"other programs used {around.others_cpu:.1f} of the client's {os.cpu_count()} processors"
        )
    if abs(exchange.clock_jump_s) > _CLOCK_JUMP_S + _SLEW * exchange.ended_s:
        labels["clock-jump"] = (
            f"the wall clock moved {exchange.clock_jump_s:+.3f} s against the steady one meanwhile;"
            " times are the steady clock's"
        )
    if exchange.oversized:
        labels["oversized"] = "the server sent far more than was asked for, and was left"
    if around.encoded_again:
        labels["answer-encoded"] = (
            "the server tells no token ids of its answers: the one before was encoded again from its text, and may"
            " not be the tokens that are cached"
        )
    lag = exchange.lag
    if lag is not None and lag.p99 > _LAG_S and _smears(exchange, lag.p99):
        labels["client-lag"] = (
            f"this client took arrivals up to {format_seconds(lag.max)} late (p99 {format_seconds(lag.p99)}):"
            " tokens that came meanwhile share a time"
        )
    held = find_held(exchange.token_times_s, around.engine)
    if held is not None and held > _HELD_S and held > _HELD_PART * exchange.token_times_s[0]:
        labels["first-token-held"] = (
            f"the engine took {format_seconds(around.engine.decode_s or 0.0) if around.engine else ''} from its first"
            f" token to its last, and they came within"
            f" {format_seconds(exchange.token_times_s[-1] - exchange.token_times_s[0])}:"
            f" TTFT is about {format_seconds(held)} too long"
        )
    return labels | dict(around.observed)


def find_held(token_times_s: Sequence[float], engine: EngineTimes | None) -> float | None:
    """Return for how long a server held back the first token, at least, in seconds: its tokens came closer together
    than the engine made them. None where the engine's own time between them is not known.
    """
    if engine is None or engine.decode_s is None or not token_times_s:
        return None
    return max(0.0, engine.decode_s - (token_times_s[-1] - token_times_s[0]))


def _smears(exchange: Exchange, lag_s: float) -> bool:
    """Tell whether arrivals came closer together than the client looked; not for tokens sent all at once."""
    times = exchange.token_times_s
    return len(times) > 1 and _BURST_S < (times[-1] - times[0]) / (len(times) - 1) < lag_s


def _find_in_answer(job: Job, exchange: Exchange, expected: int | None) -> dict[str, str]:
    usage = exchange.usage or Usage()
    events = len(exchange.token_times_s)
    labels: dict[str, str] = {}
    if not exchange.streamed:
        labels["not-streamed"] = "the server answered in one piece: TTFT and ITL are unknown"
    if is_warm(usage.cached_tokens, usage.prompt_tokens or job.context, expected):
        meant = "" if not expected else f", {expected} are shared"
        labels["warm"] = (
            f"{usage.cached_tokens} of {usage.prompt_tokens or job.context} prompt tokens were cached{meant}"
        )
    elif usage.cached_tokens is None:
        labels["cached-unknown"] = "the server does not report prompt_tokens_details.cached_tokens"
    elif expected and is_missed(usage.cached_tokens, expected):
        labels["cache-missed"] = f"{usage.cached_tokens} of the {expected} shared prompt tokens were cached"
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
    return labels
