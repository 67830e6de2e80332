"""Runs compared with each other and with a plan, and thresholds on both."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from farspan.cli.compare import command
from farspan.errors import InputError
from farspan.measurement.analysis.breaches import find_breaches
from farspan.measurement.analysis.comparison import (
    Difference,
    compare_runs,
    find_comparison_breaches,
    parse_comparison_condition,
)
from farspan.measurement.analysis.plan_beside_run import compare_with_plan, find_plan, read_ttft_plan
from farspan.measurement.analysis.point_values import parse_point_condition
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.job import LoadPhase
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import ENVIRONMENT_FILE, Run
from run_folders import write_run
from samples import make_result


def results(*ttfts: float, context: int = 10_000, **changes: Any) -> list[Result]:
    return [
        make_result(
            context=context,
            prompt_tokens=context,
            repeat=i,
            ttft_s=ttft,
            e2e_s=ttft + 0.3,
            tpot_s=0.1,
            **changes,
        )
        for i, ttft in enumerate(ttfts)
    ]


def both(tmp_path: Path, a: Sequence[Result], b: Sequence[Result]) -> tuple[Run, Run]:
    return write_run(tmp_path / "a", a), write_run(tmp_path / "b", b)


def test_the_same_prompts_are_compared_one_by_one(tmp_path: Path) -> None:
    a, b = both(tmp_path, results(1.0, 2.0, 4.0), results(1.21, 2.39, 4.81))
    row = compare_runs(a, b).rows[0]
    assert (row.measure, row.a, row.b) == ("ttft", 2.0, 2.39)
    assert row.ratio is not None
    assert row.ratio.paired
    assert row.ratio.count == 3
    assert row.ratio.ratio == pytest.approx(1.202, abs=0.001)
    assert row.verdict is Difference.HIGHER


def test_prompts_are_recognised_by_their_hash(tmp_path: Path) -> None:
    a = [*results(1.0, prompt_id="x", seed=1), *results(2.0, prompt_id="y", seed=2)]
    b = [*results(2.2, prompt_id="y", seed=3), *results(1.1, prompt_id="x", seed=4)]
    ratio = compare_runs(*both(tmp_path, a, b)).rows[0].ratio
    assert ratio is not None
    assert (ratio.paired, ratio.ratio) == (True, pytest.approx(1.1))


def test_other_prompts_are_compared_as_groups_and_that_is_said(tmp_path: Path) -> None:
    a, b = both(tmp_path, results(1.0, 1.1, 0.9, seed=1), results(1.0, 1.2, 0.9, seed=2))
    comparison = compare_runs(a, b)
    ratio = comparison.rows[0].ratio
    assert ratio is not None
    assert not ratio.paired
    assert comparison.rows[0].verdict is Difference.OPEN
    assert any("two groups" in note for note in comparison.notes)


def test_warm_failed_and_warm_up_requests_are_left_out(tmp_path: Path) -> None:
    a = results(1.0, 1.0)
    b = [
        *results(1.0, 1.0),
        make_result(repeat=2, ttft_s=0.01, labels=("warm",)),
        make_result(repeat=3, ttft_s=9.0, status=Status.CUT, error="cut"),
        make_result(repeat=0, ttft_s=9.0, phase=LoadPhase.WARMUP),
    ]
    comparison = compare_runs(*both(tmp_path, a, b))
    assert comparison.rows[0].b == 1.0
    assert any("1 of 5 requests of B were warm" in note for note in comparison.notes)


def test_a_run_that_is_all_warm_says_how_to_get_a_cold_one(tmp_path: Path) -> None:
    warm = [make_result(repeat=repeat, ttft_s=0.01, labels=("warm",)) for repeat in range(2)]
    comparison = compare_runs(*both(tmp_path, results(1.0, 1.0), warm))
    (note,) = [note for note in comparison.notes if "were warm" in note]
    assert note.startswith("2 of 2 requests of B were warm and are left out: restart its server")
    assert "--seed" in note


def test_runs_without_a_common_point_are_refused(tmp_path: Path) -> None:
    a, b = both(tmp_path, results(1.0), results(1.0, context=20_000))
    with pytest.raises(InputError, match=r"A has 10k, depth 0\.5, B has 20k, depth 0\.5"):
        compare_runs(a, b)


def test_another_tools_run_has_no_depth_and_is_compared_all_the_same(tmp_path: Path) -> None:
    ours = [*results(1.0, 1.1, depth=0.1), *results(1.2, 1.3, depth=0.9)]
    foreign = results(2.0, 2.2, 2.4, 2.6, depth=0.0, labels=("imported",))
    a, b = both(tmp_path, ours, foreign)
    b = replace(b, info=replace(b.info, identity=replace(b.info.identity, task="imported")))
    comparison = compare_runs(a, b)
    row = comparison.rows[0]
    assert (row.context, row.depth, row.ratio and row.ratio.count) == (10_000, None, 4)
    assert row.verdict is Difference.HIGHER
    assert any(note.startswith("B was measured by another tool: all depths") for note in comparison.notes)
    (breach,) = find_comparison_breaches([parse_comparison_condition("ratio.ttft.low > 1")], a, b, comparison)
    assert breach.where == "10k"


def test_one_value_a_side_proves_nothing(tmp_path: Path) -> None:
    comparison = compare_runs(*both(tmp_path, results(1.0), results(2.0)))
    assert comparison.rows[0].verdict is Difference.UNKNOWN
    assert any("--repeats" in note for note in comparison.notes)


def invoke(tmp_path: Path, *conditions: str) -> tuple[int, str]:
    arguments = [
        str(tmp_path / "a"),
        str(tmp_path / "b"),
        *(part for c in conditions for part in ("--fail-if", c)),
    ]
    said = CliRunner().invoke(command, arguments, standalone_mode=False)
    if said.exception is not None:
        raise said.exception
    return int(said.return_value), said.output


def test_thresholds_decide_the_exit_code(tmp_path: Path) -> None:
    both(tmp_path, results(1.0, 2.0, 4.0), results(1.21, 2.39, 4.81))
    assert invoke(tmp_path)[0] == 0
    assert invoke(tmp_path, "ratio.ttft.low > 1.05", "failed > 0")[0] == 1
    assert invoke(tmp_path, "ratio.ttft > 1.3")[0] == 0
    assert invoke(tmp_path, "ttft.p50 > 1.1 * a.ttft.p50")[0] == 1
    code, output = invoke(tmp_path, "ratio.queue > 2")
    assert code == 1
    assert "cannot be judged: ratio.queue is not known" in output
    with pytest.raises(InputError, match="asks for the plan"):
        invoke(tmp_path, "ttft > plan")


def test_the_table_is_markdown(tmp_path: Path) -> None:
    both(tmp_path, results(1.0, 2.0), results(1.1, 2.2))
    lines = [line for line in invoke(tmp_path)[1].splitlines() if line.startswith("|")]
    assert re.fullmatch(r"\|(-+\|)+", lines[1])
    assert len({line.count("|") for line in lines}) == 1
    said = CliRunner().invoke(
        command, [str(tmp_path / "a"), str(tmp_path / "b"), "--json"], standalone_mode=False
    )
    assert json.loads(said.output)["rows"][0]["ratio"]["ratio"] == pytest.approx(1.1)


@pytest.mark.parametrize(
    "name", ["ratio.nothing > 1", "ratio.ttft.middle > 1", "a.ttft.p500 > 1", "speed > 1", "ratio > 1"]
)
def test_a_name_that_is_none_shows_before_anything_is_read(name: str) -> None:
    with pytest.raises(InputError):
        parse_comparison_condition(name)


PLAN = {
    "points": [
        {"context": 10_000, "engine": "vllm", "ttft_s": {"expected": 2.0, "floor": 0.5}},
        {"context": 10_000, "engine": "builtin", "ttft_s": {"expected": 1.5, "floor": 0.2}},
        {"context": 50_000, "engine": "vllm", "ttft_s": None},
    ]
}


def write_plan(path: Path, plan: object) -> Path:
    path.write_bytes(orjson.dumps(plan))
    return path


def test_a_plan_stands_beside_every_point(tmp_path: Path) -> None:
    plan = read_ttft_plan(write_plan(tmp_path / "plan.json", PLAN), "vllm")
    measured = [*results(2.4, 2.2, 2.6), *results(0.4, context=20_000)]
    near, far = compare_with_plan(measured, plan)
    assert (near.expected, near.floor, near.measured, near.ratio, near.note) == (2.0, 0.5, 2.4, 1.2, "")
    assert (far.expected, far.ratio) == (None, None)
    assert far.note == "the plan has no time for 20k"
    (fast,) = compare_with_plan(results(0.4), plan)
    assert fast.note.startswith("below the floor")
    (lost,) = compare_with_plan(results(0.4, labels=("warm",)), plan)
    assert lost.note == "no request whose time can be trusted"


def test_the_plan_of_the_engine_measured_is_taken(tmp_path: Path) -> None:
    path = write_plan(tmp_path / "plan.json", PLAN)
    for owner, expected in (("farspan", 1.5), ("vllm", 2.0)):
        planned = read_ttft_plan(path, owner).at(10_000)
        assert planned is not None
        assert planned.expected_s == expected
    with pytest.raises(InputError, match="plans builtin, vllm, and the server is sglang"):
        read_ttft_plan(path, "sglang")
    one = {"context": 10_000, "engines": {"vllm": {"ttft_s": {"expected": 3.0, "floor": 1.0}}}}
    only = read_ttft_plan(write_plan(path, one), None).at(10_000)
    assert only is not None
    assert only.expected_s == 3.0
    for broken in ([], {"points": [1, {}]}, {"engines": 3}, "x"):
        with pytest.raises(InputError):
            read_ttft_plan(write_plan(path, broken), "vllm")


def test_a_run_keeps_its_plan(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", results(2.0))
    assert find_plan(run.folder, "vllm") is None
    write_plan(run.folder / ENVIRONMENT_FILE, {"starts": [{"plan": None}, {"plan": PLAN}, {"plan": None}]})
    plan = find_plan(run.folder, "vllm")
    assert plan is not None
    assert plan.at(10_000) is not None


def test_thresholds_are_judged_at_every_point(tmp_path: Path) -> None:
    plan = read_ttft_plan(write_plan(tmp_path / "plan.json", PLAN), "vllm")
    measured = [*results(2.4, 2.2, 2.6), *results(9.0, context=20_000)]

    def fired(text: str) -> list[str]:
        return [str(breach) for breach in find_breaches([parse_point_condition(text)], measured, plan)]

    assert fired("ttft.p50 > 10 s") == []
    assert len(fired("ttft.p50 > 1 s")) == 2
    late = fired("ttft.p50 > 1.1 * plan")
    assert "at 10k, depth 0.5: it is true: ttft.p50 = 2.4, plan = 2" in late[0]
    assert "at 20k, depth 0.5: it cannot be judged: plan is not known" in late[1]
    assert fired("labels.co_running > 0 or failed > 0 or score < 100%") == []
    assert len(find_breaches([parse_point_condition("failed > 0")], [])) == 1, "an empty run never passes"
    for text in ("ttft.p101 > 1", "latency > 1", "ttft.p50 > plan.middle"):
        with pytest.raises(InputError):
            parse_point_condition(text)
