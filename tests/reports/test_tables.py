from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from farspan.errors import InputError
from farspan.measurement.http.request_status import Status
from farspan.reports.kvmemory import find_kv, find_peak
from farspan.reports.memory_chart import stack_measured, stack_plan
from farspan.reports.report_run import ReportRun, load_report_runs
from farspan.reports.report_tables import (
    RecallCell,
    choose_requests,
    group_contexts,
    list_rows,
    tabulate_recall,
)
from farspan.reports.run_report import build_report
from farspan.sizes import GIB
from report_runs import (
    BEGAN,
    FAILED_LOG,
    SGLANG_LOG,
    VLLM_LOG,
    iso,
    make_plan,
    scout_results,
    usage_series,
    write_engine_run,
)
from samples import make_result


def test_recall_is_laid_out_by_depth_and_context(tmp_path: Path) -> None:
    results = [
        make_result(context=1000, depth=0.9, score=1.0),
        make_result(context=1000, depth=0.9, repeat=1, score=0.0, status=Status.WRONG_ANSWER),
        make_result(context=1000, depth=0.1, score=None, status=Status.CUT),
        make_result(context=2000, depth=0.1, score=1.0),
    ]
    write_engine_run(tmp_path, results)
    run = load_report_runs([tmp_path])[0]
    table = tabulate_recall(run, group_contexts([run]))
    assert table is not None
    assert table.labels == ("1k", "2k")
    assert table.depths == (0.1, 0.9)
    assert table.rows == (
        (RecallCell(None, 0, 1), RecallCell(1.0, 1, 1)),
        (RecallCell(0.5, 2, 2), None),
    )


def test_very_many_contexts_are_put_together_by_size(tmp_path: Path) -> None:
    write_engine_run(tmp_path, [make_result(context=c, prompt_tokens=c) for c in range(150, 20_000, 150)])
    run = load_report_runs([tmp_path])[0]
    rows = list_rows([run], {})
    assert [row.label for row in rows] == [
        "100 to 200", "200 to 500", "500 to 1k", "1k to 2k", "2k to 5k", "5k to 10k", "10k to 20k",
    ]  # fmt: skip
    assert sum(row.point.requests for row in rows) == len(run.results)
    assert {row.point.recall for row in rows} == {1.0}


def test_a_failed_point_shows_what_the_server_said_and_what_its_log_shows(tmp_path: Path) -> None:
    said = "the server answered HTTP 500: boom"
    results = [
        make_result(),
        make_result(
            context=20_000, status=Status.SERVER_ERROR, error=said, http_status=500, ttft_s=None, score=None
        ),
        make_result(context=20_000, depth=0.9, status=Status.WRONG_ANSWER, score=0.0),
    ]
    write_engine_run(tmp_path, results, owner="sglang", log=FAILED_LOG)
    rows = list_rows(load_report_runs([tmp_path]), {})
    assert [len(row.failures) for row in rows] == [0, 1, 1]
    failure = rows[1].failures[0]
    assert failure.error == said
    assert failure.finding is not None
    assert failure.finding.id == "sglang-pool-oom"
    assert failure.finding.evidence.line == 78
    assert rows[2].failures[0].finding is None  # the server's log does not explain a wrong answer


def test_kv_is_read_of_the_time_in_which_requests_were_under_way(tmp_path: Path) -> None:
    results = scout_results()
    write_engine_run(tmp_path, results, log=VLLM_LOG, series=usage_series(results, capacity=20_000_000))
    run = load_report_runs([tmp_path])[0]
    kv = find_kv(run)
    assert kv is not None
    assert not kv.elastic
    assert kv.capacity == pytest.approx(94.88 * GIB)
    assert kv.basis == "the server's log, of one GPU"
    small = [result for result in run.results if result.context == 100_000]
    assert find_peak(kv.held, small) == pytest.approx(94.88 * GIB * 100_000 / 20_000_000)
    assert kv.peak == pytest.approx(94.88 * GIB / 2)
    assert find_peak(kv.held, [replace(small[0], started_at="")]) is None
    assert kv.held[0].time == BEGAN
    rows = list_rows([run], {})
    assert [row.kv for row in rows][::2] == ["486 MiB", "4.7 GiB", "47.4 GiB"]


def test_an_elastic_cache_has_its_own_bytes(engine_run: Path) -> None:
    run = load_report_runs([engine_run])[0]
    kv = find_kv(run)
    assert run.readings("kv_mapped_bytes")
    assert kv is not None
    assert kv.elastic
    values = [reading.value for reading in kv.held]
    assert min(values) < max(values) < (kv.capacity or 0)
    assert max(reading.value for reading in kv.used) > 0
    assert len(values) > 15
    assert all(row.kv for row in list_rows([run], {}))


def test_the_ledger_has_the_plan_and_what_the_log_and_the_driver_said(tmp_path: Path) -> None:
    results = scout_results()
    write_engine_run(tmp_path, results, plan=make_plan("10M"), log=VLLM_LOG, series=usage_series(results))
    run = load_report_runs([tmp_path])[0]
    plan, measured = stack_plan(run), stack_measured(run)
    assert plan is not None
    assert measured is not None
    assert run.plan is not None
    assert plan.bytes["KV cache"] == pytest.approx(95.6747 * GIB, rel=1e-4)
    assert sum(plan.bytes.values()) == sum(line.bytes for line in run.plan.ledger)
    assert measured.bytes["weights"] == pytest.approx(27.6 * GIB)
    assert measured.bytes["KV cache"] == pytest.approx(94.88 * GIB)
    assert sum(measured.bytes.values()) == pytest.approx(132 * GIB)


def test_every_chart_has_its_words_and_its_data(tmp_path: Path) -> None:
    results = scout_results()
    write_engine_run(
        tmp_path / "v", results, plan=make_plan("10M"), log=VLLM_LOG, series=usage_series(results)
    )
    sweep = make_plan("100k", "1M", "10M")
    write_engine_run(tmp_path / "s", results, owner="sglang", version="0.5.16", plan=sweep, log=SGLANG_LOG)
    charts = build_report(load_report_runs([tmp_path / "v", tmp_path / "s"])).draw_charts()
    assert [chart.anchor for chart in charts] == [
        "ttft", "prefill", "itl", "kv-a", "memory", "requests-a", "requests-b", "startup-a", "startup-b",
    ]  # fmt: skip
    for chart in charts:
        assert chart.svg.startswith("<svg")
        assert len(chart.alt) > 30
        assert chart.rows
        assert {len(row) for row in chart.rows} == {len(chart.columns)}
    ttft = charts[0]
    assert "vLLM 0.24.0: 2.25 s at 100k, 40 min 30 s at 10M" in ttft.alt
    assert [key.shape for key in ttft.keys] == ["dot", "dot", "dashes", "dots"]
    planned = [row for row in ttft.rows if row[0].startswith("SGLang") and row[1] == "10M"]
    assert planned[0][5:7] == ("1 h 40 min", "26 min 35 s")
    startup = {row[0]: row[1:] for row in charts[7].rows}
    assert startup["weights"] == ("37 s", "1.05 s", "27.6 GiB")
    assert startup["compile"][1] == "36.1 s"


def test_the_page_lists_failures_first_when_there_are_too_many_requests() -> None:
    results = [make_result(repeat=r, status=Status.CUT if r % 100 == 0 else Status.OK) for r in range(5000)]
    chosen = choose_requests(results)
    assert len(chosen) == 500
    assert sum(result.status is Status.CUT for result in chosen) == 50
    assert [result.repeat for result in chosen] == sorted(result.repeat for result in chosen)
    assert choose_requests(results[:500]) == tuple(results[:500])
    mostly_bad = [make_result(repeat=r, status=Status.OK if r < 10 else Status.CUT) for r in range(5000)]
    assert sum(r.status is Status.OK for r in choose_requests(mostly_bad)) == 10


def test_several_runs_are_told_apart(tmp_path: Path) -> None:
    for name, owner in (("one", "vllm"), ("two", "vllm"), ("three", "sglang")):
        write_engine_run(tmp_path / "many" / name, [make_result()], owner=owner, version="1")
    both = load_report_runs([tmp_path / "many"])  # the folder of a bench of several engines
    assert [run.name for run in both] == ["vLLM 1, one", "SGLang 1", "vLLM 1, two"]
    assert [run.key for run in both] == ["a", "b", "c"]
    with pytest.raises(InputError, match="2 logs and 1 runs"):
        load_report_runs([tmp_path / "many" / "one"], logs=[VLLM_LOG, VLLM_LOG])
    for text, words in (("{}", "is no plan"), ('{"engines": {"vllm": {}}}', "holds no planned time")):
        (tmp_path / "p.json").write_text(text)
        with pytest.raises(InputError, match=words):
            load_report_runs([tmp_path / "many" / "one"], plan=tmp_path / "p.json")


def test_a_plan_without_this_engine_or_of_odd_shape_changes_nothing(tmp_path: Path) -> None:
    for number, plan in enumerate(
        ({}, {"points": "x"}, {"engines": {"vllm": {"ttft_s": {"expected": "soon"}}}})
    ):
        write_engine_run(tmp_path / str(number), [make_result()], plan=plan)
        assert load_report_runs([tmp_path / str(number)])[0].plan is None


def test_what_an_elastic_cache_held_before_is_said_beside_its_peak(tmp_path: Path) -> None:
    def run_with(name: str, before: float) -> ReportRun:
        series = {
            "engine": {
                at: {"kv_mapped_bytes": held * GIB, "kv_capacity_bytes": 11.0 * GIB}
                for at, held in ((-1.0, before), (0.5, before), (1.5, 7.5))
            }
        }
        result = make_result(started_at=iso(0.0), e2e_s=2.3)
        write_engine_run(tmp_path / name, [result], owner="farspan", series=series)
        return load_report_runs([tmp_path / name])[0]

    leftover, fresh = run_with("leftover", 6.0), run_with("fresh", 0.0)
    held = find_kv(leftover)
    assert held is not None
    assert held.before == 6.0 * GIB
    assert held.summary() == "8 of 11 GiB (6.0 GiB of it before)"
    assert [row.kv for row in list_rows([leftover], {})] == ["7.5 GiB (6.0 GiB of it before)"]
    assert [row.kv for row in list_rows([fresh], {})] == ["7.5 GiB"]
    empty = find_kv(fresh)
    assert empty is not None
    assert empty.summary() == "8 of 11 GiB"
