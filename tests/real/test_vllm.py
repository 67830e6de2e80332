"""`farspan bench` against a real vLLM server: exact counts, correct recall, warm prompts labelled, limits explained."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from farspan.errors import LaunchError
from farspan.launch.local import LocalServer, find_free_port
from farspan.launch.readiness import wait_ready
from farspan.measurement.http.ready import find_missing
from served import ENVIRONMENT, MAX_MODEL_LEN, ServedCheckpoint, vllm_command

pytestmark = pytest.mark.engines


def bench(served: ServedCheckpoint, run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "farspan", "bench", "--url", served.url, "--run", str(run), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3000, check=False)


def requests(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["requests"]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("context", ["32k", "100k"])
def test_long_prompts_are_counted_exactly_and_recalled(
    vllm: ServedCheckpoint, tmp_path: Path, context: str
) -> None:
    done = bench(vllm, tmp_path / "run", "--contexts", context, "--depths", "0.1,0.9", "--json")
    found = requests(done)
    assert len(found) == 2
    for request in found:
        assert request["status"] == "ok"
        assert request["score"] == 1.0
        assert request["prompt_tokens"] == int(context[:-1]) * 1000
        assert request["cached_tokens"] == 0
        assert request["output_tokens"] == 16
        assert 0 < request["ttft_s"] < request["e2e_s"]
        assert request["tpot_s"] > 0  # a busy machine reads two tokens at once: then some gaps are none
        assert 0 < request["engine_ttft_s"] <= request["ttft_s"]
        assert request["first_token_held_s"] is not None


def test_conversations_go_on_from_the_tokens_vllm_produced(vllm: ServedCheckpoint, tmp_path: Path) -> None:
    done = bench(
        vllm, tmp_path / "run", "--contexts", "6k", "--turns", "3", "--turn-tokens", "400", "--concurrency", "2",
        "--repeats", "2", "--json",
    )  # fmt: skip
    found = requests(done)
    assert all(request["score"] == 1.0 for request in found)
    assert not any("answer-encoded" in request["labels"] for request in found)
    for request in found:
        if request["conversation"] and request["member"]:
            # Blocks of the hybrid cache are 128 tokens.
            assert 0 <= request["expected_cached_tokens"] - request["cached_tokens"] < 256
    for turn in json.loads(done.stdout)["turns"][1:]:
        assert turn["cacheable_share"] > 0.9
        assert turn["warm_ttft_s"] < turn["cold_ttft_s"]


@pytest.mark.parametrize("options", [("--api", "chat"), ("--prompt-as", "text"), ("--concurrency", "3")])
def test_other_ways_of_asking(vllm: ServedCheckpoint, tmp_path: Path, options: tuple[str, ...]) -> None:
    done = bench(vllm, tmp_path / "run", "--contexts", "300,5k", "--depths", "0,0.5,1", "--json", *options)
    found = requests(done)
    assert sorted(request["prompt_tokens"] for request in found) == [300] * 3 + [5000] * 3
    assert all(request["score"] == 1.0 for request in found)


def test_a_sweep_of_eight_at_a_time_and_the_same_again_which_is_warm(
    vllm: ServedCheckpoint, tmp_path: Path
) -> None:
    same = (
        "--contexts", "1k,3k,6k", "--depths", "0.1,0.5,0.9", "--repeats", "2", "--concurrency", "8", "--seed", "77",
        "--prompts", str(tmp_path / "prompts"), "--json",
    )  # fmt: skip
    cold = requests(bench(vllm, tmp_path / "cold", *same))
    warm = requests(bench(vllm, tmp_path / "warm", *same))
    assert len(cold) == len(warm) == 18
    for request in cold:
        assert request["status"] == "ok"
        assert request["score"] == 1.0
        assert request["prompt_tokens"] == request["context"]
        assert request["cached_tokens"] == 0
        assert "warm" not in request["labels"]
        assert request["prefill_tokens_per_s"] > 0
    assert max(request["most_at_once"] for request in cold) == 8
    # vLLM caches whole blocks, and the last one is always computed.
    for request in warm:
        assert 0 < request["cached_tokens"] < request["context"]
        assert "warm" in request["labels"]
        assert str(request["cached_tokens"]) in request["evidence"]["warm"]
        assert request["prefill_tokens_per_s"] is None
    assert len(list((tmp_path / "prompts").iterdir())) == 18
    assert {request["prompt_id"] for request in cold} == {request["prompt_id"] for request in warm}


def test_an_open_loop_with_everything_around_it(vllm: ServedCheckpoint, tmp_path: Path) -> None:
    done = bench(
        vllm, tmp_path / "run", "--length-distribution", "uniform:500,3k", "--num-prompts", "12", "--rate", "4",
        "--warmup", "2", "--cooldown", "1", "--goodput", "ttft:60s", "--json",
    )  # fmt: skip
    found = requests(done)
    assert len(found) == 15
    assert [request["phase"] for request in found].count("measured") == 12
    summary = json.loads(done.stdout)
    assert summary["measures"]["ttft_s"]["count"] == 12
    assert summary["goodput"]["good"] == 12
    assert summary["throughput"]["requests_per_s"] > 0
    assert summary["client"]["arrivals_timed_by"].startswith("the kernel")


def test_a_request_larger_than_the_kv_pool(
    engines_python: Path, vllm: ServedCheckpoint, tmp_path: Path
) -> None:
    """Up to 0.13 vLLM takes such a request and never gets to it; later versions refuse to start with such a pool."""
    port = find_free_port()
    served = ServedCheckpoint(f"http://127.0.0.1:{port}", vllm.folder)
    command = vllm_command(engines_python, vllm.folder, port, "--num-gpu-blocks-override", "40")
    with LocalServer(command, log=tmp_path / "vllm.log", environment=ENVIRONMENT, grace_s=20) as server:
        try:
            asyncio.run(wait_ready(server, lambda: find_missing(served.url), limit_s=400))
        except LaunchError:
            log = (tmp_path / "vllm.log").read_text()
            assert "KV cache is needed, which is larger than the available KV cache memory" in " ".join(
                log.split()
            )
            return
        done = bench(served, tmp_path / "run", "--contexts", "60k", "--hang-after", "15", "--json")
    assert done.returncode == 2, done.stderr
    (request,) = json.loads(done.stdout)["requests"]
    assert "hung" in request["labels"]
    assert "the engine hangs" in done.stderr


def test_context_above_the_servers_limit(vllm: ServedCheckpoint, tmp_path: Path) -> None:
    done = bench(vllm, tmp_path / "run", "--contexts", "4k,200k")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert str(MAX_MODEL_LEN) in line.replace(",", "")
    assert "--max-model-len" in line
    assert not (tmp_path / "run" / "requests.jsonl").exists()
