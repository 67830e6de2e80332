from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farspan.errors import InputError
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.result import Result
from farspan.reports.claim import KeyFigure, choose_figures, find_proven, write_claim, write_verdict
from farspan.reports.report_run import ReportRun, load_report_runs
from farspan.reports.run_report import build_report
from farspan.reports.trust_statement import TrustLevel
from report_runs import VLLM_LOG, make_plan, scout_results, usage_series, write_engine_run
from samples import make_result

FAILED: dict[str, Any] = {
    "score": None, "ttft_s": None, "itl_s": None, "prefill_tokens_per_s": None, "prompt_tokens": None,
    "cached_tokens": None, "output_tokens": None, "token_times_s": (),
}  # fmt: skip


def load(folder: Path, results: list[Result], **more: Any) -> ReportRun:
    write_engine_run(folder, results, **more)
    return load_report_runs([folder])[0]


def test_the_claim_names_everything_the_run_shows(tmp_path: Path) -> None:
    results = scout_results()
    run = load(tmp_path, results, log=VLLM_LOG, series=usage_series(results), gpus=8, plan=make_plan("10M"))
    assert write_claim(run) == (
        "Llama-4-Scout-17B-16E-Instruct, 8x NVIDIA H200, vLLM 0.24.0: 10M tokens, first token after 40 min 35 s, "
        "needle found at both depths, KV peak 59 of 95 GiB."
    )
    figures = {figure.name: figure for figure in choose_figures(run)}
    assert figures["Right answers"].value == "18 of 18"
    assert figures["Proven context"].value == "10M"
    assert figures["TTFT there"].value == "40 min 35 s"
    assert figures["TTFT there"].verdict is TrustLevel.PROVEN
    assert figures["KV peak"].note.startswith("of 94.9 GiB")


def test_the_claim_leaves_out_what_is_not_known(tmp_path: Path) -> None:
    run = load(tmp_path, [make_result()], owner="", version="", model="m")
    assert write_claim(
        run
    ) == "m, 2 CPUs: 10k tokens, first token after 2.00 s, needle found at depth 0.5.".replace(
        "2 CPUs", run.hardware()
    )


def test_the_claim_says_that_a_time_is_a_warm_prompts(tmp_path: Path) -> None:
    said = "first token after 50.0 ms, warm: part of the prompt was cached, needle found"
    warm = make_result(ttft_s=0.05, labels=("warm",), cached_tokens=9000)
    assert said in write_claim(load(tmp_path / "all", [warm]))
    turn = make_result(
        ttft_s=0.05, cached_tokens=9000, expected_cached_tokens=9000, shared_tokens=9000, member=1
    )
    assert said in write_claim(load(tmp_path / "turn", [turn]))
    assert "warm" not in write_claim(load(tmp_path / "mixed", [warm, make_result(repeat=1)]))


def test_the_claim_says_what_failed_above_it(tmp_path: Path) -> None:
    results = [make_result(), make_result(context=20_000, status=Status.REFUSED, error="too long", **FAILED)]
    assert write_claim(load(tmp_path, results)).endswith("; above that, 1 of 1 requests failed (1 refused).")


def test_a_context_is_proven_when_all_of_it_is_right() -> None:
    results = [make_result(context=c, repeat=r) for c in (1000, 10_000) for r in range(3)]
    assert find_proven(results) == 10_000
    assert write_verdict(results) == (
        "Every request was answered correctly; contexts are proven up to 10k tokens."
    )
    results[-1] = replace(results[-1], status=Status.WRONG_ANSWER, score=0.5)
    assert find_proven(results) == 1000
    assert write_verdict(results) == (
        "5 of 6 requests were answered correctly; contexts are proven up to 1k tokens."
    )
    assert find_proven([make_result(status=Status.CUT)]) is None
    assert find_proven([]) is None


def test_an_imported_run_is_not_called_right_or_proven(tmp_path: Path) -> None:
    results = [
        make_result(
            repeat=r,
            score=None,
            answer="",
            started_at="",
            depth=0.0,
            labels=("imported",),
            cached_tokens=None,
        )
        for r in range(3)
    ]
    run = load(
        tmp_path, results, task="imported", arguments={"imported_from": "guidellm 0.8.1", "file": "g.json"}
    )
    claim = write_claim(run)
    assert claim.endswith(
        "10k tokens, first token after 2.00 s, imported from guidellm 0.8.1, answers not checked."
    )
    report = build_report([run])
    assert not report.good
    assert report.sections[0].verdict == "3 of 3 requests were answered; answers were not checked."
    assert report.sections[0].recall is None
    assert dict(report.sections[0].facts)["Date"] == "not recorded by the tool that measured"
    figures = {figure.name: figure for figure in choose_figures(run)}
    assert figures["Right answers"].value == "not checked"
    assert figures["Right answers"].verdict is TrustLevel.UNKNOWN
    assert "Proven context" not in figures
    assert figures["Answered context"].value == "10k"
    assert figures["TTFT there"].verdict is TrustLevel.UNKNOWN  # cold or warm is not known


def test_a_warm_time_is_doubtful_on_the_first_screen(tmp_path: Path) -> None:
    results = [make_result(repeat=r, cached_tokens=9000, labels=("warm",)) for r in range(3)]
    figures = {figure.name: figure for figure in choose_figures(load(tmp_path, results))}
    assert figures["TTFT there"].verdict is TrustLevel.DOUBTFUL


@pytest.mark.parametrize("status", [s for s in Status if not s.answered])
def test_a_run_without_any_answer_has_a_report(tmp_path: Path, status: Status) -> None:
    report = build_report([load(tmp_path, [make_result(status=status, **FAILED)])])
    run = report.sections[0]
    assert not report.good
    assert "1 of 1 requests failed" in run.claim
    assert run.trust[0].verdict is TrustLevel.UNKNOWN
    assert run.failures[0].status is status
    assert run.failures[0].fix


def test_an_empty_run_has_a_report(tmp_path: Path) -> None:
    report = build_report([load(tmp_path, [])])
    assert report.sections[0].claim.endswith("no request has finished.")
    assert not report.good


def test_two_runs_are_compared_in_words_with_the_interval(tmp_path: Path) -> None:
    noisy = [
        replace(r, ttft_s=(r.ttft_s or 0) * (1 + 0.02 * (r.repeat - 1))) for r in scout_results(slower=2.6)
    ]
    write_engine_run(tmp_path / "v", scout_results())
    write_engine_run(tmp_path / "s", noisy, owner="sglang", version="0.5.16")
    report = build_report(load_report_runs([tmp_path / "v", tmp_path / "s"]), compare=True)
    claim = report.comparisons[0].claim
    assert claim.startswith(
        "At 10M tokens, depth 0.9, the first token of SGLang 0.5.16 takes 2.60 times as long as that of vLLM 0.24.0"
    )
    assert "95 % interval 2.4" in claim
    assert ": medians " in claim, "the ratio is not that of the two figures shown"
    assert "the ratio a geometric mean of 3 pairs" in claim
    assert report.has_ratios
    assert [row.ratio for row in report.rows if row.run.key == "a"] == [""] * 6
    assert all(row.sure and row.ratio.startswith("2.60 (") for row in report.rows if row.run.key == "b")


def test_a_comparison_needs_two_runs_with_something_in_common(tmp_path: Path) -> None:
    write_engine_run(tmp_path / "a", [make_result()])
    write_engine_run(tmp_path / "b", [make_result(context=77)])
    with pytest.raises(InputError, match="takes two runs, not 1"):
        build_report(load_report_runs([tmp_path / "a"]), compare=True)
    runs = load_report_runs([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(InputError, match="no context and depth in common"):
        build_report(runs, compare=True)
    assert build_report(runs).comparisons == ()


def test_figures_measured_at_a_concurrency_say_so_and_are_not_proven_where_they_disagree(
    tmp_path: Path,
) -> None:
    def report(name: str, tpot_s: float, concurrency: int) -> dict[str, KeyFigure]:
        results = [
            make_result(repeat=r, tpot_s=tpot_s, started_at=f"2026-11-22T20:30:0{r}+00:00") for r in range(4)
        ]
        run = load(tmp_path / name, results, arguments={"concurrency": concurrency})
        return {figure.name: figure for figure in choose_figures(run)}

    gap = make_result().itl_s
    assert gap is not None
    stalled = report("stalled", 6 * gap.p50, 4)
    for name in ("TTFT there", "Prefill there", "ITL there", "TPOT there"):
        assert stalled[name].verdict is TrustLevel.UNKNOWN
        assert stalled[name].note.endswith("4 requests at a time")
    even = report("even", 1.1 * gap.p50, 4)
    assert even["ITL there"].verdict is TrustLevel.PROVEN
    assert "output tokens/s" in even["Throughput"].note
    assert "e+" not in even["Throughput"].value
    alone = report("alone", 6 * gap.p50, 1)
    assert alone["ITL there"].verdict is TrustLevel.PROVEN
    assert "Throughput" not in alone
    assert "at a time" not in alone["TTFT there"].note
