"""`farspan bench` against a real vLLM server: exact counts, correct recall, warm prompts labelled, limits explained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from served import MAX_MODEL_LEN, ServedCheckpoint

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
        assert request["itl_s"]["p50"] > 0


@pytest.mark.parametrize("options", [("--api", "chat"), ("--prompt-as", "text"), ("--concurrency", "3")])
def test_other_ways_of_asking(vllm: ServedCheckpoint, tmp_path: Path, options: tuple[str, ...]) -> None:
    done = bench(vllm, tmp_path / "run", "--contexts", "300,5k", "--depths", "0,0.5,1", "--json", *options)
    found = requests(done)
    assert sorted(request["prompt_tokens"] for request in found) == [300] * 3 + [5000] * 3
    assert all(request["score"] == 1.0 for request in found)


def test_a_prompt_seen_before_is_labelled_warm(vllm: ServedCheckpoint, tmp_path: Path) -> None:
    same = ("--contexts", "6k", "--seed", "77", "--json")
    (cold,) = requests(bench(vllm, tmp_path / "cold", *same))
    (warm,) = requests(bench(vllm, tmp_path / "warm", *same))
    assert cold["cached_tokens"] == 0
    assert "warm" not in str(cold["labels"])
    assert warm["cached_tokens"] > 0
    assert "warm" in str(warm["labels"])


def test_context_above_the_servers_limit(vllm: ServedCheckpoint, tmp_path: Path) -> None:
    done = bench(vllm, tmp_path / "run", "--contexts", "4k,200k")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert str(MAX_MODEL_LEN) in line.replace(",", "")
    assert "--max-model-len" in line
    assert not (tmp_path / "run" / "requests.jsonl").exists()
