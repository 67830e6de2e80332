"""How far each kind of figure can be trusted, with the evidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from farspan.measurement.analysis.summary import list_points
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.result import Result
from farspan.reports.report_run import ReportRun

# What an observer saw that makes times unlike those of a request alone on the server, and how to say it.
_DISTURBANCES = {
    "concurrent": "other requests of this run were under way meanwhile: TTFT may hold queueing",
    "preempted": "the engine preempted requests meanwhile",
    "hung": "the engine had stopped working on them",
    "co-running": "others used the server or this machine meanwhile",
    "clock-jump": "the wall clock moved meanwhile; times are the steady clock's",
    "client-lag": "the client took tokens later than they were apart: gaps are smeared",
    "not-streamed": "the server answered in one piece: TTFT and ITL are unknown",
    "itl-per-event": "several tokens came in one event: gaps are per event",
    "itl-unknown": "the tool that measured keeps no gaps between tokens",
    "at-once": "all tokens came at once: TTFT is the client's",
    "truncated": "fewer output tokens came than were asked for",
}


class TrustLevel(StrEnum):
    """How far a figure can be trusted."""

    PROVEN = "proven"
    UNKNOWN = "unproven"
    DOUBTFUL = "doubtful"
    FITTED = "fitted"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Trust:
    """How far one kind of figure can be trusted, and the evidence."""

    figure: str
    verdict: TrustLevel
    evidence: str


def is_right(result: Result) -> bool:
    """Tell whether an answer was compared with something planted, and was right."""
    return result.status is Status.OK and result.recall is not None


def judge(run: ReportRun) -> tuple[Trust, ...]:
    """Judge every kind of figure of a run."""
    answered = [result for result in run.results if result.status.answered]
    if not answered:
        return (Trust("Everything", TrustLevel.UNKNOWN, "no request was answered"), *_judge_plan(run))
    return (
        *_judge_origin(run),
        judge_length(answered),
        judge_cold(answered),
        *_judge_shared(answered),
        judge_times(answered),
        *_judge_disturbances(answered),
        judge_recall(answered),
        *_judge_plan(run),
    )


def judge_length(answered: Sequence[Result]) -> Trust:
    """Judge whether prompts had as many tokens as asked for."""
    counted = [result for result in answered if result.prompt_tokens is not None]
    exact = sum(result.prompt_tokens == result.context for result in counted)
    if not counted:
        return Trust("Prompt length", TrustLevel.UNKNOWN, "the server reports no prompt_tokens")
    evidence = f"the server counted exactly the tokens asked for in {exact:,} of {len(answered):,} answers"
    if exact == len(answered):
        return Trust("Prompt length", TrustLevel.PROVEN, evidence)
    if exact == len(counted):
        return Trust("Prompt length", TrustLevel.UNKNOWN, f"{evidence} and no tokens in the others")
    return Trust("Prompt length", TrustLevel.DOUBTFUL, evidence)


def judge_cold(answered: Sequence[Result]) -> Trust:
    """Judge whether prompts that share nothing by design were computed in full."""
    answered = [result for result in answered if not result.expected_cached_tokens] or answered
    warm = sum(bool(result.cached_tokens) for result in answered)
    unknown = sum(result.cached_tokens is None for result in answered)
    if warm:
        evidence = f"{warm:,} of {len(answered):,} prompts were partly in the prefix cache"
        return Trust(
            "Cold prefill", TrustLevel.DOUBTFUL, f"{evidence}; their times are left out where others exist"
        )
    if unknown:
        evidence = f"the server does not report cached tokens for {unknown:,} of {len(answered):,} answers"
        hint = "vLLM does with --enable-prompt-tokens-details, SGLang with --enable-cache-report"
        return Trust("Cold prefill", TrustLevel.UNKNOWN, f"{evidence} ({hint})")
    return Trust("Cold prefill", TrustLevel.PROVEN, f"cached_tokens is 0 in all {len(answered):,} answers")


def _judge_shared(answered: Sequence[Result]) -> Iterator[Trust]:
    """Judge whether prompts found cached what they share with earlier ones; nothing where none shares."""
    sharing = [result for result in answered if result.expected_cached_tokens]
    if not sharing:
        return
    known = [result for result in sharing if result.cached_tokens is not None]
    if not known:
        yield Trust("Shared prefixes", TrustLevel.UNKNOWN, "the server does not report cached tokens")
        return
    right = sum(not {"warm", "cache-missed"}.intersection(result.labels) for result in known)
    evidence = f"{right:,} of {len(known):,} prompts had the prefix cached that they share with earlier ones"
    yield Trust(
        "Shared prefixes", TrustLevel.PROVEN if right == len(sharing) else TrustLevel.DOUBTFUL, evidence
    )


def judge_times(answered: Sequence[Result]) -> Trust:
    """Judge TTFT and ITL by where they come from and how often they were measured."""
    if all("not-streamed" in result.labels for result in answered):
        return Trust("TTFT and ITL", TrustLevel.UNKNOWN, "the server did not stream its answers")
    points = list_points(answered)
    fewest = min((point.requests for point in points), default=0)
    base = "taken from the client's stream, from before the body is sent"
    if "imported" in answered[0].labels:
        base = "taken from another tool's file"
    if fewest < 3:
        times = "once" if fewest == 1 else "twice"
        evidence = f"{base}; some points were measured only {times}, so their spread is unknown"
        return Trust("TTFT and ITL", TrustLevel.UNKNOWN, evidence)
    return Trust(
        "TTFT and ITL", TrustLevel.PROVEN, f"{base}; medians of at least {fewest:,} requests a point"
    )


def judge_recall(answered: Sequence[Result]) -> Trust:
    """Judge whether answers were checked at all."""
    checked = sum(result.recall is not None for result in answered)
    if not checked:
        return Trust(
            "Recall", TrustLevel.UNKNOWN, "no reply was compared with anything planted in its prompt"
        )
    verdict = TrustLevel.PROVEN if checked == len(answered) else TrustLevel.UNKNOWN
    evidence = (
        f"{checked:,} of {len(answered):,} replies were compared with what was planted in their prompts"
    )
    return Trust("Recall", verdict, evidence)


def _judge_origin(run: ReportRun) -> Iterator[Trust]:
    if run.tool:
        evidence = f"measured by {run.tool} and imported: its client's lag is in the times"
        yield Trust("Origin", TrustLevel.UNKNOWN, evidence)


def _judge_disturbances(answered: Sequence[Result]) -> Iterator[Trust]:
    for label, meaning in _DISTURBANCES.items():
        count = sum(label in result.labels for result in answered)
        if count:
            yield Trust(
                f"Label {label}", TrustLevel.DOUBTFUL, f"{count:,} of {len(answered):,} answers: {meaning}"
            )


def _judge_plan(run: ReportRun) -> Iterator[Trust]:
    plan = run.plan
    if plan is None:
        return
    evidence = plan.basis or "the plan does not say where its times come from"
    running = run.recorded.info.starts[-1].server.version
    if plan.version and running and plan.version != running:
        evidence += f"; the plan is of version {plan.version}, the server is {running}"
    yield Trust("Planned times", TrustLevel(plan.trust), evidence)
