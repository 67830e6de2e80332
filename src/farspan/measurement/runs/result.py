"""One finished request: what was asked, what came back, how long it took, and how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from farspan.measurement.http.client import Lag
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.job import Job, LoadPhase

REPLY_CHARACTERS = 2000
_SHARED_TOKENS = 16
_SHARED_PART = 0.01
_OTHERWISE_CACHED = frozenset(("warm", "cache-missed"))
# Prefixes are cached in whole pages; of hybrid models they are large.
_PAGE_TOKENS = 256
_MISSED_PART = 0.1


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
        score: 0 to 1, how much of what was planted came back; None when the request failed, or nothing was planted.
        token_times_s: Arrival of every event with tokens, seconds since the request's start.
        phase: Only measured requests count in statistics.
        prompt_id: The hash of the prompt's bytes, its name in the prompt store.
        queue_s: How long the request waited, as the server tells; None where it does not.
        tpot_s, decode_tokens_per_s: Over the tokens after the first; None for fewer than two.
        connected_s: When the connection stood.
        late_s: How much later than scheduled the request left (open loop).
        most_at_once: The most requests of ours under way at a time meanwhile, this one included.
        client_lag_s: The client's own; None where arrivals are timed by the client itself.
        concurrency: How many requests this one was sent among, in a run that goes through several; else None.
        shared_tokens, member, conversation: As of its `Job`.
        expected_cached_tokens: Prompt tokens that are cached by design: none for the first of a group that shares a
            prefix, the prefix for the others; None in a run in which nothing is shared.
        engine_ttft_s: From the request's arrival in the engine to its first token, by the engine's own metrics; None
            where they do not tell, or tell it of several requests together.
        first_token_held_s: For how long the server held back the first token, at least: the tokens came closer together
            than the engine made them. None where the engine does not tell.
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
    most_at_once: int = 1
    client_lag_s: Lag | None = None
    concurrency: int | None = None
    shared_tokens: int = 0
    member: int = 0
    expected_cached_tokens: int | None = None
    engine_ttft_s: float | None = None
    first_token_held_s: float | None = None
    conversation: int = 0

    @property
    def recall(self) -> float | None:
        """How much of what was planted came back, 0 to 1; None where the reply was compared with nothing."""
        return self.score if self.answer else None

    @property
    def stream_late_s(self) -> float | None:
        """By how much the client's TTFT is longer than the engine's own: sending the prompt is in it, and reading it
        before the engine counts it as arrived. None where the engine's is not known.
        """
        if self.ttft_s is None or self.engine_ttft_s is None:
            return None
        return self.ttft_s - self.engine_ttft_s

    @property
    def job(self) -> Job:
        """The job this is the result of; its key tells repeats of one request from different requests."""
        return Job(
            self.context,
            self.depth,
            self.repeat,
            self.seed,
            self.output_asked,
            self.phase,
            self.concurrency,
            self.shared_tokens,
            self.member,
            self.conversation,
        )

    @property
    def is_trusted(self) -> bool:
        """Whether the times are those of a prompt as asked for, and as much of it cached as is meant to be."""
        answered = self.status in (Status.OK, Status.WRONG_ANSWER)
        return answered and not _OTHERWISE_CACHED.intersection(self.labels) and self.ttft_s is not None

    @property
    def gaps_s(self) -> tuple[float, ...]:
        """Every gap between two events with tokens, in seconds."""
        return tuple(later - earlier for earlier, later in pairwise(self.token_times_s))


def is_warm(cached_tokens: int | None, prompt_tokens: int, expected: int | None = None) -> bool:
    """Tell whether more of a prompt came from a prefix cache than is meant to: not for the first tokens that all
    prompts share (a BOS, a template's opening), under 16 of them and under 1 %.
    """
    cached = (cached_tokens or 0) - (expected or 0)
    return cached >= _SHARED_TOKENS or (cached > 0 and cached >= _SHARED_PART * prompt_tokens)


def is_missed(cached_tokens: int, expected: int) -> bool:
    """Tell whether far less was cached than is meant to: nothing, or over 10 % and a page of 256 tokens less."""
    missing = expected - cached_tokens
    if cached_tokens == 0:
        return expected >= _SHARED_TOKENS
    return missing > _PAGE_TOKENS and missing > _MISSED_PART * expected


def summarise_gaps(times_s: tuple[float, ...]) -> Gaps | None:
    """Summarise the gaps between arrival times; None when there are fewer than two."""
    if len(times_s) < 2:
        return None
    gaps = np.diff(np.asarray(times_s))
    p50, p99 = np.percentile(gaps, (50, 99))
    return Gaps(mean=float(gaps.mean()), p50=float(p50), p99=float(p99))
