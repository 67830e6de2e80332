from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from farspan.errors import InputError
from farspan.measurement.analysis.plan_times import PlanTimes, read_plan_times
from farspan.measurement.http.client import Limits
from farspan.measurement.runs.job import Job


def job(context: int) -> Job:
    return Job(context, 0.5, 0, 1, 16)


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_a_limit_is_some_times_the_planned_time_for_all_that_may_be_ahead() -> None:
    times = PlanTimes({1_000_000: 40.0, 2_000_000: 120.0})
    assert times.predict_ttft(1_000_000) == 40.0
    assert times.predict_ttft(500_000) == 20.0
    assert times.predict_ttft(4_000_000) == 480.0
    assert times.limit(job(1_000_000), Limits(), concurrency=2).first_token_s == 400.0
    assert times.limit(job(1000), Limits(), concurrency=1).first_token_s == 60.0
    given = Limits(first_token_s=7.0)
    assert times.limit(job(1_000_000), given, concurrency=2) == given
    assert PlanTimes({}).limit(job(10), Limits(), concurrency=1) == Limits()


def test_times_are_read_from_a_plan_or_a_sweep(tmp_path: Path) -> None:
    one = {
        "context": 1_000_000,
        "engines": {"vllm": {"ttft_s": {"expected": 40.0}}, "sglang": {"ttft_s": {"expected": 50.0}}},
    }
    assert read_plan_times(write(tmp_path / "a", one)).ttft_s == {1_000_000: 50.0}
    assert read_plan_times(write(tmp_path / "a", one), engine="vllm").ttft_s == {1_000_000: 40.0}
    sweep = {
        "points": [
            {"context": 10, "engine": "vllm", "ttft_s": {"expected": 1.0}},
            {"context": 20, "engine": "vllm", "ttft_s": None},
            {"context": 30, "engine": "vllm", "refused": True},
        ]
    }
    assert read_plan_times(write(tmp_path / "b", sweep)).ttft_s == {10: 1.0}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "is no plan: it names no engine"),
        ([], "is no plan: it is not a JSON object"),
        (7, "is no plan: it is not a JSON object"),
        ({"context": 10, "engines": {"vllm": {"ttft_s": None}}}, "holds no planned time"),
    ],
)
def test_a_plan_without_times_is_refused(tmp_path: Path, document: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_plan_times(write(tmp_path / "a", document))
    with pytest.raises(InputError, match="cannot be read"):
        read_plan_times(tmp_path / "missing")


def test_a_plan_as_farspan_writes_it_has_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from farspan.cli.plan import command

    command.main(["llama-4-scout", "--gpus", "8xH200", "--context", "1M", "--json"], standalone_mode=False)
    path = tmp_path / "plan.json"
    path.write_text(capsys.readouterr().out)
    assert read_plan_times(path).ttft_s[1_000_000] > 1.0
