"""`farspan rehearse`: a rank at toy scale, killed and gone on with at every step; a real one judged by its log."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import farspan
from campaign_program import CampaignProgram
from farspan.errors import DoesNotFitError, InputError, UnsupportedError
from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.result import Gaps
from farspan.measurement.runs.run_folder import load_run
from farspan.planner.calibration_store import load_calibrations
from farspan.proof.campaign import EngineProgress
from farspan.proof.keep_log import LOG_FILE
from farspan.proof.rehearsal import RANK, RehearsalOptions, Rehearsed
from farspan.proof.rehearsal_report import RehearsalReport, report_rehearsal
from farspan.reports.write_report import Format
from farspan.sizes import format_tokens
from farspan.verbs.rehearse import RehearsalCommands, rehearsal_options
from run_folders import write_run
from samples import make_result

ROOT = Path(__file__).resolve().parents[2]
SCOUT = "llama-4-scout"


def test_killed_at_every_step_it_goes_on_and_leaves_nothing(tmp_path: Path) -> None:
    toy = CampaignProgram(
        tmp_path, "rehearse", SCOUT, "--tp", "8", "--toy", "--contexts", "500,1k,2k", "--output-tokens", "4",
        "--seed", "7", checkpoint="out/shard",
    )  # fmt: skip
    toy.end_when(lambda: (toy.out / "shard" / "config.json").is_file(), signal.SIGKILL)
    toy.end_when(lambda: len(toy.servers()) == 2, signal.SIGKILL)  # the guard and the server: it starts
    assert toy.progress()[RANK]["steps"] == []
    err = toy.end_when(lambda: toy.sent(RANK) >= 2, signal.SIGINT)
    assert "the same command goes on" in err
    before = {one.job: one.ttft_s for one in load_run(toy.out / RANK).results}
    process = toy.start("--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "going on with" in err
    shown = json.loads(out)
    assert (shown["good"], shown["engine"], shown["division"]) == (True, "builtin", "TP 8")
    assert "small model" in shown["toy"]
    (weights,) = shown["memory"]
    assert weights["within"] is True
    assert [row["context"] for row in shown["times"]] == [500, 1000, 2000]
    assert all(row["answered"] == row["sent"] == 1 and row["ttft_s"] > 0 for row in shown["times"])
    assert all(row["planned_ttft_s"] is None for row in shown["times"])
    assert shown["longest"]["prompt_tokens"] == 2000
    assert shown["longest"]["low_s"] <= shown["longest"]["seconds"] <= shown["longest"]["high_s"]
    after = {one.job: one.ttft_s for one in load_run(toy.out / RANK).results}
    assert before.items() <= after.items()
    assert toy.servers() == []
    assert toy.progress()[RANK]["steps"] == ["measured", "examined"]
    starts = toy.progress()[RANK]["starts"]
    out, err = toy.start("--json").communicate(timeout=120)
    assert "measured before" in err
    assert toy.progress()[RANK]["starts"] == starts
    assert json.loads(out)["times"] == shown["times"]
    page = Path(shown["report"]["html"]).read_text()
    text = Path(shown["report"]["markdown"]).read_text()
    for heading in (
        "Memory at the start",
        "Prompts",
        "First token of 2k",
        "What is not as in the deployment",
    ):
        assert heading in page
        assert heading in text
    assert json.loads(Path(shown["report"]["json"]).read_bytes())["rehearsals"][0]["times"] == shown["times"]


def test_a_start_that_fails_is_said_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    settings: dict[str, Any] = {
        "tp": 8, "toy": True, "contexts": "500,1k", "output_tokens": 4, "output": tmp_path / "out",
        "engine_flags": ["--page-size", "0"],
    }  # fmt: skip
    report = farspan.rehearse(SCOUT, **settings)
    assert isinstance(report, RehearsalReport)
    assert report.exit_code == 1
    assert report.page.claim.startswith("The rank did not start")
    assert (tmp_path / "out" / "rank.log").stat().st_size
    assert report.result.memory == ()
    again = farspan.rehearse(SCOUT, **settings, retry_failed=True)
    assert isinstance(again, RehearsalReport)
    assert again.result.rehearsed.progress.starts == 2
    with pytest.raises(InputError, match="has flags"):
        farspan.rehearse(SCOUT, **{**settings, "engine_flags": []})


def test_prompts_that_fail_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    report = farspan.rehearse(
        SCOUT, tp=8, toy=True, contexts="500,8k", output_tokens=4, warmup=0, output=tmp_path / "out",
        engine_flags=["--kv-cache-gib", "0.002"],
    )  # fmt: skip
    assert isinstance(report, RehearsalReport)
    short, long = report.result.times
    assert (short.answered, long.answered) == (1, 0)
    assert long.failures
    assert report.exit_code == 1
    assert report.page.claim == "1 of 2 prompts failed."
    assert any("8k" in item for part in report.page.lists for item in part.items)


def _options(folder: Path, **settings: Any) -> RehearsalOptions:
    given = {
        "gpus": "8xH200",
        "engine_version": "0.24.0",
        "contexts": "8k,65536,1048576",
        "output": folder,
        **settings,
    }
    return rehearsal_options(SCOUT, **given)


def _judge(
    options: RehearsalOptions, log: str, *, keep: bool = False, slower: float = 1.0
) -> RehearsalReport:
    """Judge a rehearsal of which the run and the log are there."""
    from farspan.models.shard.write_shard import write_shard

    write_shard(options.shard, options.shard_folder)
    times = {8000: (0.105, 0.0102), 65_536: (0.95, 0.0102), 1_048_576: (43.9, 0.0129)}
    write_run(
        options.run,
        [
            make_result(
                context=context,
                prompt_tokens=context,
                ttft_s=ttft * slower,
                itl_s=Gaps(itl * slower, itl * slower, itl * slower),
                output_tokens=2,
            )
            for context, (ttft, itl) in times.items()
        ],
    )
    (options.run / LOG_FILE).write_text(log)
    launch = options.prepare(options.shard_folder).launch
    progress = EngineProgress(
        RANK, "vllm", launch.version, ["measured", "examined"], right=True, ready_s=100.0
    )
    return report_rehearsal(
        Rehearsed(options, launch, progress), formats=(Format.JSON,), keep_calibration=keep
    )


# What vLLM 0.24.0 prints of a rank of Scout at TP 8 on an H200, its figures as such a server had them.
_LOG = """\
INFO 11-22 20:00:00 [api_utils.py:273] version 0.24.0
INFO 11-22 20:00:39 [gpu_model_runner.py:5255] Model loading took 27.6 GiB memory and 1.05 seconds
INFO 11-22 20:03:02 [gpu_worker.py:508] Available KV cache memory: 94.88 GiB
INFO 11-22 20:03:02 [kv_cache_utils.py:2146] GPU KV cache size: 16,427,369 tokens
INFO 11-22 20:03:02 [kv_cache_utils.py:2151] Maximum concurrency for 5,242,880 tokens per request: 3.13x
INFO 11-22 20:03:18 [gpu_model_runner.py:6656] Graph capturing finished in 17 secs, took 0.70 GiB
"""


def test_every_figure_stands_beside_both_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    options = _options(
        tmp_path / "out",
        context=5_242_880,
        engine_flags=["--gpu-memory-utilization", "0.9"],
        no_calibration=True,
    )
    report = _judge(options, _LOG, keep=True)
    rows = {row.figure.what: row for row in report.result.memory}
    weights = rows["weights, GiB a GPU"]
    assert weights.figure.got == 27.6
    assert weights.figure.within
    assert weights.deployment == pytest.approx(
        weights.figure.planned + 0.2, abs=0.1
    )  # the vision tower's share
    assert rows["KV memory, GiB a GPU"].figure.within
    first, _, last = report.result.times
    assert first.planned_ttft_s is not None
    assert last.planned_ttft_s == pytest.approx(43.9, rel=0.1)
    assert last.ttft_within is True
    longest = report.result.longest
    assert longest is not None
    assert longest.collectives is not None
    assert longest.seconds == longest.rank.seconds + longest.collectives.prefill_s
    assert longest.planned_s == pytest.approx(longest.rank.seconds, rel=0.1)
    assert longest.rank.low_s < longest.rank.seconds < longest.rank.high_s
    (kept,) = load_calibrations()
    assert (kept.engine, kept.version, kept.gpu, kept.ranks) == ("vllm", "0.24.0", "H200", 1)
    assert "calibration.json" in str(report.result.calibration)
    lines = list(report.lines())
    assert any("deployment's plan" in line for line in lines)


def test_what_is_off_its_plan_is_named(tmp_path: Path) -> None:
    options = _options(tmp_path / "out", context=5_242_880, engine_flags=["--gpu-memory-utilization", "0.9"])
    report = _judge(options, _LOG.replace("took 27.6", "took 29.6").replace("94.88", "92.88"))
    assert "weights, GiB a GPU" in report.page.claim
    assert not report.result.within
    assert report.exit_code == 0, "a plan that is off is a finding, not a failure"


def test_times_that_are_off_their_plan_are_named(tmp_path: Path) -> None:
    options = _options(tmp_path / "out", context=5_242_880, engine_flags=["--gpu-memory-utilization", "0.9"])
    report = _judge(options, _LOG, slower=2.0)
    for row in report.result.times:
        assert (row.ttft_within, row.itl_within) == (False, False)
        assert f"first token of {format_tokens(row.context)}" in report.page.claim
        assert f"time between tokens at {format_tokens(row.context)}" in report.page.claim
    assert not report.result.within


def test_without_a_gpu_it_says_what_it_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farspan.verbs.rehearse._has_gpu", lambda: False)
    told = farspan.rehearse(SCOUT, gpus="8xH200", output=tmp_path / "out", contexts="8k", context="10M")
    assert isinstance(told, RehearsalCommands)
    assert told.exit_code == 2
    assert "one rank of llama-4-scout-17b-16e-instruct at TP 8" in told.rank
    assert "--load-format dummy" in told.command
    assert f"--model {tmp_path}/out/shard" in told.command
    assert "--max-model-len 10000000" in told.command
    assert not (tmp_path / "out").exists()
    dry = farspan.rehearse(SCOUT, gpus="8xH200", output=tmp_path / "out", engine="sglang", dry_run=True)
    assert dry.exit_code == 0
    assert "sglang.launch_server" in dry.text


def test_what_cannot_be_rehearsed_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="which 16 ranks do not divide"):
        farspan.rehearse(SCOUT, gpus="8xH200", tp=16, output=tmp_path / "out")
    # The rank is one GPU's, and the ranks to divide over are the deployment's.
    with pytest.raises(
        DoesNotFitError, match=r"one rank of deepseek-v3 at TP 4 has 158 GiB of weights, and one H200 has"
    ) as heavy:
        farspan.rehearse(
            "deepseek-v3", gpus="8xH200", tp=4, engine_version="0.33.0", output=tmp_path / "out", dry_run=True
        )
    assert heavy.value.fix == "divide it further, with --tp 8, or keep the weights smaller with --weights"
    for flag, option in (("-tp", "--tp"), ("--pipeline-parallel-size", "--pp")):
        with pytest.raises(InputError, match="divides the deployment, and its rank runs alone") as divided:
            farspan.rehearse(SCOUT, gpus="8xH200", engine_flags=[flag, "4"], dry_run=True)
        assert divided.value.fix == f"say it with {option} 4, before the --"
    with pytest.raises(
        InputError, match=r"above the 128Ki tokens the rank of meta-llama-3.1-70b was made for"
    ):
        farspan.rehearse("llama-3.1-70b", gpus="8xH200", engine_version="0.33.0", contexts="1M", dry_run=True)
    with pytest.raises(InputError, match="longer than --context"):
        farspan.rehearse(SCOUT, gpus="8xH200", contexts="1M", context="500k")
    with pytest.raises(UnsupportedError, match="there is no toy of Gpt"):
        farspan.rehearse("gpt-oss-120b", toy=True)
    with pytest.raises(UnsupportedError, match="does not share experts out"):
        farspan.rehearse("qwen3-30b-a3b", gpus="8xH200", engine="builtin", tp=4, ep=4)
    assert not (tmp_path / "out").exists()


def test_a_failed_prompt_is_no_time(tmp_path: Path) -> None:
    options = _options(tmp_path / "out", context=5_242_880)
    write_run(options.run, [make_result(context=8000, status=Status.REFUSED, ttft_s=None)])
    from farspan.proof.rehearsal_result import judge

    progress = EngineProgress(RANK, "vllm", "0.24.0", ["measured", "examined"], right=False)
    from farspan.models.shard.write_shard import write_shard

    write_shard(options.shard, options.shard_folder)
    judged = judge(Rehearsed(options, options.prepare(options.shard_folder).launch, progress))
    assert judged.times[0].ttft_s is None
    assert judged.times[0].failures
    assert judged.fit is None
    assert judged.longest is None


_FAKE_PYTHON = """#!{python}
import os, sys
if "-c" in sys.argv:
    print("0.24.0")
else:
    sys.stdout.write({log!r})
    sys.stdout.flush()
    port = sys.argv[sys.argv.index("--port") + 1]
    os.execv({python!r}, [{python!r}, {server!r}, port, "w5 w6 "])
"""


def test_a_rank_is_served_measured_and_judged_as_its_engine_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("farspan.verbs.rehearse._has_gpu", lambda: True)
    python = tmp_path / "python"
    server = ROOT / "tests" / "support" / "scripted_main.py"
    python.write_text(_FAKE_PYTHON.format(python=sys.executable, log=_LOG, server=str(server)))
    python.chmod(0o755)
    report = farspan.rehearse(
        SCOUT, gpus="8xH200", python=str(python), contexts="500,1k", context=5_242_880, output_tokens=4, repeats=2,
        output=tmp_path / "out", engine_flags=["--gpu-memory-utilization", "0.9"], metrics_interval=0,
    )  # fmt: skip
    assert isinstance(report, RehearsalReport)
    assert report.result.good, report.page.claim
    assert {row.figure.what for row in report.result.memory} >= {"weights, GiB a GPU", "KV memory, GiB a GPU"}
    assert all(row.figure.within for row in report.result.memory)
    for row in report.result.times:
        assert (row.sent, row.answered) == (2, 2)
        assert row.planned_ttft_s is not None
    assert "--load-format dummy" in report.page.command
    assert (tmp_path / "out" / "rank.plan.json").is_file()
    assert json.loads((tmp_path / "out" / "shard" / "config.json").read_bytes())["num_attention_heads"] == 5


def test_a_stage_of_a_pipeline_says_nothing_of_the_whole_time(tmp_path: Path) -> None:
    options = rehearsal_options(
        "llama-3.1-70b", gpus="8xH200", engine_version="0.24.0", tp=4, pp=2, contexts="8k,65536,100k",
        output=tmp_path / "out",
    )  # fmt: skip
    assert options.shard.division.text == "TP 4, layers 0 to 39"
    report = _judge(options, _LOG)
    deployment = report.result.deployment
    assert deployment is not None
    assert "--pipeline-parallel-size" in deployment.flags
    longest = report.result.longest
    assert longest is not None
    assert longest.of_stage
    (table,) = (one for one in report.page.tables if one.anchor == "longest")
    assert [row[0] for row in table.rows] == ["the rank alone", "the deployment's plan"]
    assert "one pipeline stage" in table.caption


def test_whole_experts_are_planned_and_rehearsed_alike(tmp_path: Path) -> None:
    for engine, version, flag in (
        ("vllm", "0.24.0", "--enable-expert-parallel"),
        ("sglang", "0.5.16", "--ep-size"),
    ):
        options = rehearsal_options(
            "qwen3-235b-a22b", engine=engine, engine_version=version, gpus="8xH200", tp=8, ep=8, contexts="8k,32k",
            output=tmp_path / engine,
        )  # fmt: skip
        report = _judge(options, "")
        plan, deployment = report.result.plan, report.result.deployment
        assert plan is not None
        assert deployment is not None
        assert flag in deployment.flags
        assert flag not in plan.flags
        assert plan.weights_gib == pytest.approx(deployment.weights_gib, rel=0.005)
