"""Answers to searches as plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from farspan.planner.plan_text import ALONE, gpu_note, refusal_lines
from farspan.planner.questions import MOST_GPUS, Question, SearchResult
from farspan.planner.text_layout import table, wrap
from farspan.sizes import format_seconds, format_tokens

if TYPE_CHECKING:
    from farspan.planner.request import PlanRequest


def search_lines(
    request: PlanRequest, question: Question, found: Sequence[SearchResult], *, width: int | None = None
) -> Iterator[str]:
    """The answers to a search, one row an engine; one that cannot plan it gets a line of its own."""
    wanted = format_tokens(request.context)
    name, count = request.model.name, request.concurrency
    gpus = f"{request.gpus}x {request.gpu.name}, TP {request.tp}"
    titles = {
        "context": f"longest context of {name}, {count} at once, on {gpus}",
        "concurrency": f"most requests of {wanted} at once of {name} on {gpus}",
        "gpus": f"fewest {request.gpu.name} for {name}, {count} x {wanted}",
    }
    why_not = f"{MOST_GPUS} are not enough" if question.value == "gpus" else "nothing fits"
    yield from wrap(titles[question.value], width)
    yield from gpu_note(request, width)
    rows = [["engine", "answer", "first token", "flags or why not"]]
    refusals = {answer.engine: answer.refusal for answer in found if answer.refusal}
    for answer in found:
        if answer.refusal:
            continue
        plan = answer.plan
        value = f"{answer.value:,}" if answer.value else "none"
        rows.append(
            [
                f"{answer.engine} {plan.version}" if plan else answer.engine,
                f"{value} ({answer.servers} x TP {answer.tp})" if answer.servers > 1 else value,
                format_seconds(plan.time.ttft_expected_s) if plan and plan.time else "-",
                " ".join((*(f"{key}={value}" for key, value in plan.env.items()), *plan.flags))
                if plan
                else answer.missed.words or why_not,
            ]
        )
    if len(rows) > 1:
        yield from table(rows, right=(1, 2), width=width)
        yield ALONE
    for line in refusal_lines(refusals):
        yield from wrap(line, width)
