from __future__ import annotations

from pathlib import Path

import pytest

from farspan.bench.measure import Result
from farspan.bench.status import Status
from farspan.report.tables import (
    RecallCell,
    Verdict,
    build_report,
    choose_figures,
    find_proven,
    judge,
    tabulate_recall,
    write_headline,
)
from run_folders import write_run
from samples import make_result


def grid() -> list[Result]:
    return [
        make_result(context=c, prompt_tokens=c, depth=d, repeat=r)
        for c in (1000, 10_000)
        for d in (0.1, 0.9)
        for r in range(3)
    ]


def test_a_context_is_proven_when_all_of_it_is_right() -> None:
    results = grid()
    assert find_proven(results) == 10_000
    results[-1] = make_result(context=10_000, depth=0.9, repeat=2, status=Status.WRONG_ANSWER, score=0.5)
    assert find_proven(results) == 1000
    assert write_headline(results) == (
        "11 of 12 requests were answered correctly; contexts are proven up to 1k tokens."
    )
    assert find_proven([make_result(status=Status.CUT)]) is None
    assert find_proven([]) is None


def test_recall_is_laid_out_by_depth_and_context() -> None:
    results = [
        make_result(context=1000, depth=0.9, score=1.0),
        make_result(context=1000, depth=0.9, repeat=1, score=0.0, status=Status.WRONG_ANSWER),
        make_result(context=1000, depth=0.1, score=None, status=Status.CUT),
        make_result(context=2000, depth=0.1, score=1.0),
    ]
    table = tabulate_recall(results)
    assert table.contexts == (1000, 2000)
    assert table.depths == (0.1, 0.9)
    assert table.rows == (
        (RecallCell(None, 0, 1), RecallCell(1.0, 1, 1)),
        (RecallCell(0.5, 2, 2), None),
    )


def verdicts(results: list[Result]) -> dict[str, Verdict]:
    return {trust.figure: trust.verdict for trust in judge(results)}


def test_cold_is_proven_only_when_the_server_says_zero_every_time() -> None:
    results = grid()
    assert verdicts(results)["Cold prefill"] is Verdict.PROVEN
    results[0] = make_result(context=1000, depth=0.1, cached_tokens=None, labels=("cached-unknown",))
    assert verdicts(results)["Cold prefill"] is Verdict.UNKNOWN
    results[1] = make_result(context=1000, depth=0.1, repeat=1, cached_tokens=64, labels=("warm",))
    assert verdicts(results)["Cold prefill"] is Verdict.DOUBTFUL


def test_length_is_proven_only_when_every_count_is_exact() -> None:
    results = grid()
    assert verdicts(results)["Prompt length"] is Verdict.PROVEN
    results[0] = make_result(context=1000, depth=0.1, prompt_tokens=None)
    assert verdicts(results)["Prompt length"] is Verdict.UNKNOWN
    results[0] = make_result(context=1000, depth=0.1, prompt_tokens=999, status=Status.WRONG_LENGTH)
    assert verdicts(results)["Prompt length"] is Verdict.DOUBTFUL
    assert verdicts([make_result(prompt_tokens=None)])["Prompt length"] is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("repeats", "verdict"), [(1, Verdict.UNKNOWN), (2, Verdict.UNKNOWN), (3, Verdict.PROVEN)]
)
def test_times_need_three_repeats(repeats: int, verdict: Verdict) -> None:
    assert verdicts([make_result(repeat=r) for r in range(repeats)])["TTFT and ITL"] is verdict


def test_key_figures_are_those_of_the_longest_proven_context() -> None:
    results = grid()
    results[-1] = make_result(context=10_000, depth=0.9, repeat=2, ttft_s=2.4)
    figures = {figure.name: figure.value for figure in choose_figures(results)}
    assert figures == {
        "Right answers": "12 of 12",
        "Longest proven context": "10k",
        "TTFT there": "2.00 s",
        "Prefill there": "5,000",
    }


@pytest.mark.parametrize("status", [s for s in Status if not s.answered])
def test_a_run_without_any_answer_has_a_report(tmp_path: Path, status: Status) -> None:
    failed = make_result(
        status=status, score=None, ttft_s=None, itl_s=None, prefill_tokens_per_s=None, prompt_tokens=None,
        cached_tokens=None, output_tokens=None, token_times_s=(),
    )  # fmt: skip
    data = build_report(write_run(tmp_path, [failed]))
    assert not data.good
    assert data.trust[0].verdict is Verdict.UNKNOWN
    assert data.failures[0].status is status
    assert data.failures[0].fix


def test_an_empty_run_has_a_report(tmp_path: Path) -> None:
    data = build_report(write_run(tmp_path, []))
    assert data.headline == "No request has finished."
    assert not data.good
