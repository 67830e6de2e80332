from __future__ import annotations

from pathlib import Path

import pytest

from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.result import Result
from farspan.reports.report_run import load_report_runs
from farspan.reports.trust_statement import (
    TrustLevel,
    is_right,
    judge,
    judge_cold,
    judge_length,
    judge_recall,
    judge_times,
)
from report_runs import make_plan, write_engine_run
from samples import make_result


def grid() -> list[Result]:
    return [
        make_result(context=c, prompt_tokens=c, depth=d, repeat=r)
        for c in (1000, 10_000)
        for d in (0.1, 0.9)
        for r in range(3)
    ]


def test_an_answer_nobody_checked_is_never_right() -> None:
    imported = make_result(score=None, answer="", labels=("imported",))
    summary = make_result(score=1.0, answer="")  # a task that plants nothing scores any words as 1
    assert imported.recall is None
    assert not is_right(imported)
    assert summary.recall is None
    assert not is_right(summary)
    assert is_right(make_result())
    assert make_result().recall == 1.0
    assert judge_recall([imported, summary]).verdict is TrustLevel.UNKNOWN
    assert judge_recall([imported, make_result()]).verdict is TrustLevel.UNKNOWN
    assert judge_recall([make_result()]).verdict is TrustLevel.PROVEN


def test_cold_is_proven_only_when_the_server_says_zero_every_time() -> None:
    results = grid()
    assert judge_cold(results).verdict is TrustLevel.PROVEN
    results[0] = make_result(cached_tokens=None, labels=("cached-unknown",))
    assert judge_cold(results).verdict is TrustLevel.UNKNOWN
    results[1] = make_result(cached_tokens=64, labels=("warm",))
    assert judge_cold(results).verdict is TrustLevel.DOUBTFUL


def test_length_is_proven_only_when_every_count_is_exact() -> None:
    results = grid()
    assert judge_length(results).verdict is TrustLevel.PROVEN
    results[0] = make_result(prompt_tokens=None)
    assert judge_length(results).verdict is TrustLevel.UNKNOWN
    results[0] = make_result(prompt_tokens=999, status=Status.WRONG_LENGTH)
    assert judge_length(results).verdict is TrustLevel.DOUBTFUL
    assert judge_length([make_result(prompt_tokens=None)]).verdict is TrustLevel.UNKNOWN


@pytest.mark.parametrize(
    ("repeats", "verdict"), [(1, TrustLevel.UNKNOWN), (2, TrustLevel.UNKNOWN), (3, TrustLevel.PROVEN)]
)
def test_times_need_three_repeats(repeats: int, verdict: TrustLevel) -> None:
    assert judge_times([make_result(repeat=r) for r in range(repeats)]).verdict is verdict


def test_what_disturbed_the_times_is_named_and_counted(tmp_path: Path) -> None:
    results = [
        *grid(),
        make_result(context=2000, prompt_tokens=2000, labels=("preempted",)),
        make_result(context=2000, prompt_tokens=2000, repeat=1, labels=("preempted", "client-lag")),
    ]
    write_engine_run(tmp_path, results)
    found = {trust.figure: trust for trust in judge(load_report_runs([tmp_path])[0])}
    assert found["Label preempted"].verdict is TrustLevel.DOUBTFUL
    assert found["Label preempted"].evidence.startswith("2 of 14 answers")
    assert found["Label client-lag"].evidence.startswith("1 of 14 answers")
    assert "Label hung" not in found


def test_a_plan_says_where_its_times_come_from_and_that_it_is_of_another_version(tmp_path: Path) -> None:
    write_engine_run(tmp_path, grid(), plan=make_plan("10M"))
    planned = judge(load_report_runs([tmp_path])[0])[-1]
    assert planned.figure == "Planned times"
    assert planned.verdict is TrustLevel.ASSUMED
    assert "fitted to prompts of" in planned.evidence
    assert planned.evidence.endswith("the plan is of version 0.33.0, the server is 0.24.0")
