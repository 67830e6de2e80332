"""What a report says, as plain data: the answer first, then how far to trust it, then everything measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from farspan.bench.advice import Failure, list_failures
from farspan.bench.measure import Result
from farspan.bench.runs import Run
from farspan.bench.status import Status
from farspan.bench.summary import Point, list_points
from farspan.sizes import format_seconds, format_tokens


class Verdict(StrEnum):
    """How far a figure can be trusted."""

    PROVEN = "proven"
    UNKNOWN = "unknown"
    DOUBTFUL = "doubtful"


@dataclass(frozen=True, slots=True)
class Trust:
    """How far one kind of figure can be trusted, and the evidence."""

    figure: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """A figure for the top of the page."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class RecallCell:
    """Recall at one depth and context: the mean score of those `answered`; None when none was."""

    recall: float | None
    answered: int
    requests: int


@dataclass(frozen=True, slots=True)
class RecallTable:
    """Recall by depth and context: `rows[i][j]` is of `depths[i]` and `contexts[j]`, None where unasked."""

    contexts: tuple[int, ...]
    depths: tuple[float, ...]
    rows: tuple[tuple[RecallCell | None, ...], ...]


@dataclass(frozen=True, slots=True)
class ReportData:
    """All that a report shows."""

    title: str
    headline: str
    good: bool
    figures: tuple[KeyFigure, ...]
    trust: tuple[Trust, ...]
    failures: tuple[Failure, ...]
    recall: RecallTable
    points: tuple[Point, ...]
    results: tuple[Result, ...]
    environment: tuple[tuple[str, str], ...]


def build_report(run: Run) -> ReportData:
    """Work out a run's report; a run without any success has one too."""
    results = tuple(sorted(run.results, key=lambda r: (r.context, r.depth, r.repeat, r.seed)))
    return ReportData(
        title=run.info.identity.model,
        headline=write_headline(results),
        good=bool(results) and all(result.status is Status.OK for result in results),
        figures=choose_figures(results),
        trust=judge(results),
        failures=list_failures(results),
        recall=tabulate_recall(results),
        points=list_points(results),
        results=results,
        environment=_list_environment(run),
    )


def find_proven(results: Sequence[Result]) -> int | None:
    """Return the longest context at which every request was answered and right; None when there is none."""
    failed = {result.context for result in results if result.status is not Status.OK}
    return max((result.context for result in results if result.context not in failed), default=None)


def write_headline(results: Sequence[Result]) -> str:
    """Say the run's answer in one sentence."""
    if not results:
        return "No request has finished."
    good = sum(result.status is Status.OK for result in results)
    proven = find_proven(results)
    if proven is None:
        return f"No context length was proven: {good} of {len(results)} requests were answered correctly."
    whole = "Every request was" if good == len(results) else f"{good} of {len(results)} requests were"
    return f"{whole} answered correctly; contexts are proven up to {format_tokens(proven)} tokens."


def choose_figures(results: Sequence[Result]) -> tuple[KeyFigure, ...]:
    """Choose the figures for the top of the page: those of the longest proven context."""
    good = sum(result.status is Status.OK for result in results)
    figures = [KeyFigure("Right answers", f"{good} of {len(results)}", "complete, of exact length")]
    proven = find_proven(results)
    if proven is None:
        return tuple(figures)
    figures.append(
        KeyFigure("Longest proven context", f"{format_tokens(proven)}", "tokens, as the server counts")
    )
    points = [point for point in list_points(results) if point.context == proven]
    slowest = max((point for point in points if point.ttft_s is not None), key=_ttft, default=None)
    if slowest is not None and slowest.ttft_s is not None:
        figures.append(
            KeyFigure("TTFT there", format_seconds(slowest.ttft_s), f"slowest depth, {_spread(slowest)}")
        )
    if slowest is not None and slowest.prefill_tokens_per_s is not None:
        figures.append(
            KeyFigure("Prefill there", f"{slowest.prefill_tokens_per_s:,.0f}", "tokens/s, prompt over TTFT")
        )
    return tuple(figures)


def judge(results: Sequence[Result]) -> tuple[Trust, ...]:
    """Say how far each kind of figure can be trusted, with the evidence."""
    answered = [result for result in results if result.status.answered]
    if not answered:
        return (Trust("Everything", Verdict.UNKNOWN, "no request was answered"),)
    return (
        _judge_length(answered),
        _judge_cold(answered),
        _judge_times(answered),
        Trust(
            "Recall",
            Verdict.PROVEN,
            f"{len(answered)} replies were compared with what was planted in their prompts",
        ),
    )


def tabulate_recall(results: Sequence[Result]) -> RecallTable:
    """Lay out recall by depth and context."""
    contexts = tuple(sorted({result.context for result in results}))
    depths = tuple(sorted({result.depth for result in results}))
    points = {(point.context, point.depth): point for point in list_points(results)}
    scored: dict[tuple[int, float], int] = {}
    for result in results:
        key = (result.context, result.depth)
        scored[key] = scored.get(key, 0) + (result.score is not None)

    def cell(context: int, depth: float) -> RecallCell | None:
        point = points.get((context, depth))
        return None if point is None else RecallCell(point.recall, scored[context, depth], point.requests)

    rows = tuple(tuple(cell(context, depth) for context in contexts) for depth in depths)
    return RecallTable(contexts, depths, rows)


def _judge_length(answered: Sequence[Result]) -> Trust:
    counted = [result for result in answered if result.prompt_tokens is not None]
    exact = sum(result.prompt_tokens == result.context for result in counted)
    if not counted:
        return Trust("Prompt length", Verdict.UNKNOWN, "the server reports no prompt_tokens")
    evidence = f"the server counted exactly the tokens asked for in {exact} of {len(answered)} answers"
    verdict = Verdict.PROVEN if exact == len(answered) else Verdict.DOUBTFUL
    if exact == len(counted) < len(answered):
        verdict, evidence = Verdict.UNKNOWN, f"{evidence} and no tokens in the others"
    return Trust("Prompt length", verdict, evidence)


def _judge_cold(answered: Sequence[Result]) -> Trust:
    warm = sum(bool(result.cached_tokens) for result in answered)
    unknown = sum(result.cached_tokens is None for result in answered)
    if warm:
        evidence = (
            f"{warm} of {len(answered)} prompts were partly in the prefix cache; their times are left out"
        )
        return Trust("Cold prefill", Verdict.DOUBTFUL, f"{evidence} where others exist")
    if unknown:
        evidence = f"the server does not report cached tokens for {unknown} of {len(answered)} answers"
        hint = "vLLM does with --enable-prompt-tokens-details, SGLang with --enable-cache-report"
        return Trust(
            "Cold prefill", Verdict.UNKNOWN, f"{evidence} ({hint}); every prompt starts like no other"
        )
    return Trust("Cold prefill", Verdict.PROVEN, f"cached_tokens is 0 in all {len(answered)} answers")


def _judge_times(answered: Sequence[Result]) -> Trust:
    if any("not-streamed" in result.labels for result in answered):
        return Trust("TTFT and ITL", Verdict.UNKNOWN, "the server did not stream its answers")
    fewest = min(point.requests for point in list_points(answered))
    base = "taken from the client's stream, from before the body is sent"
    if fewest < 3:
        times = "once" if fewest == 1 else "twice"
        evidence = f"{base}; some points were measured only {times}, so their spread is unknown"
        return Trust("TTFT and ITL", Verdict.UNKNOWN, evidence)
    return Trust("TTFT and ITL", Verdict.PROVEN, f"{base}; medians of at least {fewest} requests a point")


def _list_environment(run: Run) -> tuple[tuple[str, str], ...]:
    identity, latest = run.info.identity, run.info.starts[-1]
    server = latest.server
    limit = "not reported" if server.max_model_len is None else f"{server.max_model_len:,} tokens"
    rows = [
        ("Run", str(run.folder)),
        ("Started", ", ".join(start.time for start in run.info.starts)),
        ("Server", server.url),
        ("Engine", " ".join(part for part in (server.owned_by, server.version) if part) or "not reported"),
        ("Model", identity.model),
        ("Model loaded from", server.root or "not reported"),
        ("Longest context", limit),
        ("API", f"{identity.api}, prompts as {identity.prompt_as}"),
        ("Task", identity.task),
        ("Seed", str(identity.seed)),
        ("Requests at a time", str(latest.arguments.get("concurrency", "unknown"))),
    ]
    return (*rows, *((name.capitalize(), value) for name, value in latest.environment.items()))


def _ttft(point: Point) -> float:
    return point.ttft_s or 0.0


def _spread(point: Point) -> str:
    return "one request" if point.requests == 1 else f"median of {point.trusted or point.requests}"
