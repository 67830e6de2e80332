"""Runs under vLLM's names, against what vLLM itself wrote about the same requests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from farspan.cli.export import command
from farspan.measurement.analysis.vllm_result import export_vllm
from farspan.measurement.http.request_status import Status
from farspan.measurement.imports.write_foreign import import_file
from farspan.measurement.runs.run_folder import load_run
from run_folders import write_run
from samples import make_result

PEERS = Path(__file__).parents[2] / "evidence" / "peers"


def test_vllms_own_requests_give_vllms_own_figures(tmp_path: Path) -> None:
    """Its file is imported and exported again: every figure both have is the same."""
    path = PEERS / "vllm-0.32.0-refused.json"
    import_file(path, tmp_path / "run")
    theirs = json.loads(path.read_text())
    ours = export_vllm(load_run(tmp_path / "run"), detailed=True)
    figures = [name for name in ours if name.endswith("_ms") and name in theirs]
    assert len(figures) == 12  # mean, median, std and p99 of ttft, tpot and itl
    for name in (*figures, "completed", "failed", "total_output_tokens", "total_input_tokens", "output_lens"):
        assert ours[name] == pytest.approx(theirs[name], rel=2e-3), name
    assert ours["duration"] is None, "vLLM's file has no wall clock of its requests"


def test_throughput_is_over_the_time_of_the_run(tmp_path: Path) -> None:
    results = [
        make_result(repeat=0, started_at="2026-01-01T00:00:00.000+00:00"),
        make_result(repeat=1, started_at="2026-01-01T00:00:01.700+00:00"),
        make_result(repeat=2, status=Status.CUT, ttft_s=None, itl_s=None, token_times_s=(), error="cut"),
    ]
    document = export_vllm(write_run(tmp_path / "run", results), percentiles=(50, 99.9))
    assert document["duration"] == pytest.approx(4.0)
    assert document["request_throughput"] == pytest.approx(0.5)
    assert document["output_throughput"] == pytest.approx(2.0)
    assert (document["completed"], document["failed"], document["num_prompts"]) == (2, 1, 3)
    assert document["p50_ttft_ms"] == document["median_ttft_ms"] == 2000
    assert document["p99.9_e2el_ms"] == pytest.approx(2300)
    assert document["median_itl_ms"] == pytest.approx(100)
    assert document["farspan"]["trusted"] == 2


def test_the_verb(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [make_result()])
    arguments = [str(tmp_path / "run"), "-o", str(tmp_path / "out.json"), "--save-detailed"]
    CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert json.loads((tmp_path / "out.json").read_text())["ttfts"] == [2.0]
    said = CliRunner().invoke(command, [str(tmp_path / "run")], catch_exceptions=False)
    assert json.loads(said.output)["mean_ttft_ms"] == 2000
