"""Logs of real servers, as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from farspan.diagnosis.diagnose import Report
from farspan.diagnosis.examine import examine
from farspan.diagnosis.report_text import answer
from farspan.engines.logs.records import StartPhase

REAL = Path(__file__).parents[1] / "evidence" / "real"


def _report(name: str) -> Report:
    return examine([(REAL / f"{name}.log").read_bytes()])


def _seconds(report: Report) -> dict[StartPhase, float | None]:
    return {entry.phase: entry.seconds for entry in report.timeline}


def test_vllm_on_an_h200() -> None:
    report = _report("vllm-0.24.0-scout-shard")
    assert (report.engine, report.version) == ("vllm", "0.24.0")
    assert [entry.phase for entry in report.timeline] == [
        StartPhase.CONFIG,
        StartPhase.ENGINE,
        StartPhase.DISTRIBUTED,
        StartPhase.WEIGHTS,
        StartPhase.COMPILE,
        StartPhase.PROFILE,
        StartPhase.KV,
        StartPhase.GRAPHS,
        StartPhase.READY,
        StartPhase.SHUTDOWN,
    ]
    seconds = _seconds(report)
    assert seconds[StartPhase.WEIGHTS] == 1.046763
    assert seconds[StartPhase.COMPILE] == 36.07
    assert seconds[StartPhase.GRAPHS] == 17
    figures = report.capacity
    assert figures["available_kv_gib"] == 94.88
    assert figures["weights_gib"] == 27.6
    assert figures["kv_cache_tokens"] == 16_427_369
    assert figures["max_model_len"] == 5_242_880
    assert figures["max_concurrency"] == 3.13
    assert figures["graphs_gib"] == 0.7
    assert report.in_plain_terms[0] == "3 requests of 5,242,880 tokens fit at once (concurrency 3.13x)."
    assert {finding.id for finding in report.findings} == {"vllm-graphs-in-budget", "throughput-misread"}
    assert {noise.id for noise in report.noise} >= {
        "ulimit",
        "rope-parameters",
        "cudagraph-mode",
        "leaked-semaphores",
    }
    assert all(noise.harmless for noise in report.noise)
    assert answer(report) == "vllm 0.24.0 served and was stopped. Nothing is wrong."


def test_sglang_that_fits() -> None:
    report = _report("sglang-0.5.16-scout-shard-ok")
    assert report.engine == "sglang"
    assert report.ready
    figures = report.capacity
    assert figures["full_layer_tokens"] == 6_182_480
    assert figures["swa_layer_tokens"] == 4_945_984
    assert figures["kv_pool_gib"] == 60.14
    assert figures["free_after_pools_gib"] == 48.19
    assert figures["max_running_requests"] == 8
    assert figures["free_when_ready_gib"] == 47.82
    assert [finding.id for finding in report.findings] == ["sglang-health-503", "fp8-kv-unscaled"]
    assert all(noise.harmless for noise in report.noise)


def test_sglang_that_does_not() -> None:
    report = _report("sglang-0.5.16-scout-shard-oom")
    finding = report.findings[0]
    assert finding.id == "sglang-pool-oom"
    assert "2,048 rows x 10,000,004 x 4 bytes = 76.3 GiB" in finding.cause
    assert finding.evidence.line == 78
    assert not report.ready
    assert answer(report).startswith("sglang did not start: Out of GPU memory while building the KV pool")


def test_the_model_named_by_the_user_lets_the_planner_answer() -> None:
    from farspan.engines.logs.server_state import Hints

    data = (REAL / "sglang-0.5.16-scout-shard-oom.log").read_bytes()
    report = examine([data.replace(b"tp_size=1,", b"tp_size=8,")], Hints(model="llama-4-scout"))
    assert any(
        "--max-running-requests 8" in step and "tokens at once" in step for step in report.findings[0].fix
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("vllm-0.32.0-cpu-served", []),
        ("vllm-0.32.0-cpu-context-too-long", ["vllm-context-too-long"]),
        ("vllm-0.32.0-cpu-context-above-model", ["context-above-model"]),
        ("vllm-0.32.0-cpu-no-such-model", ["model-not-found"]),
        ("vllm-0.32.0-cpu-heads", ["heads-not-divisible"]),
        ("vllm-0.32.0-unknown-flag", ["unknown-flag"]),
    ],
)
def test_vllm_on_a_cpu(name: str, found: list[str]) -> None:
    report = _report(name)
    assert [finding.id for finding in report.findings] == found
    assert report.ready == (not found)


def test_a_cpu_is_told_its_own_variable() -> None:
    finding = _report("vllm-0.32.0-cpu-context-too-long").findings[0]
    assert "--max-model-len 493440 fits as things are (vLLM's own estimate)" in finding.fix
    assert "VLLM_CPU_KVCACHE_SPACE=3 in the environment (GiB)" in finding.fix


def test_the_wait_while_compiling_is_noise() -> None:
    noise = {one.id: one for one in _report("vllm-0.32.0-cpu-served").noise}
    assert noise["shm-broadcast-wait"].harmless


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.8])
def test_a_log_whose_beginning_is_lost(cut: float) -> None:
    """The failure is at the end, and it is still found."""
    for name, id_ in (
        ("sglang-0.5.16-scout-shard-oom", "sglang-pool-oom"),
        ("vllm-0.32.0-cpu-context-too-long", "vllm-context-too-long"),
    ):
        lines = (REAL / f"{name}.log").read_bytes().split(b"\n")
        needle = b"out of memory" if id_ == "sglang-pool-oom" else b"GiB KV cache is needed"
        last = next(number for number, line in enumerate(lines) if needle in line)
        start = 40 if id_ == "sglang-pool-oom" else int(last * cut)
        data = b"\n".join([b"--- truncated", *lines[start:]])
        found = [finding.id for finding in examine([data]).findings]
        assert found[0] == id_


def test_sglang_with_the_recall_checkpoint() -> None:
    report = _report("sglang-0.5.16-recall")
    assert report.engine == "sglang"
    assert report.worst is None or report.worst.value != "error"
    assert StartPhase.READY in {entry.phase for entry in report.timeline}
    assert "Nothing is wrong" in answer(report)


def test_a_rank_of_gemma_3_that_was_ended_before_it_was_ready() -> None:
    report = _report("vllm-0.24.0-gemma-3-27b-rank")
    assert (report.engine, report.version, report.ready) == ("vllm", "0.24.0", False)
    figures = report.capacity
    assert figures["weights_gib"] == 6.67
    assert figures["peak_activation_gib"] == 0.93
    assert figures["outside_torch_gib"] == 0.23
    assert figures["available_kv_gib"] == 120.79
    assert figures["kv_cache_tokens"] == 8_902_841
    assert figures["max_concurrency"] == 67.92
    assert [finding.id for finding in report.findings] == ["start-unfinished"]
    assert report.timeline[-1].phase is StartPhase.KV


def test_a_rank_of_llama_70b_at_the_level_of_debug() -> None:
    report = _report("vllm-0.24.0-llama-70b-rank")
    assert (report.engine, report.version) == ("vllm", "0.24.0")
    figures = report.capacity
    assert figures["weights_gib"] == 16.49
    assert figures["peak_activation_gib"] == 0.59
    assert figures["outside_torch_gib"] == 0.22
    assert figures["available_kv_gib"] == 111.31
    assert figures["kv_cache_tokens"] == 2_917_952
    # The traceback that DEBUG shows of a missing chat template is no failure of the server.
    assert report.ready
    assert [finding.id for finding in report.findings if finding.severity.value == "error"] == []
    assert answer(report).endswith("Nothing is wrong.")
