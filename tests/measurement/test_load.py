"""How requests leave: at times set beforehand, before and after the measured ones, to several servers, and not at all
any more."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farspan.errors import InputError
from farspan.measurement.analysis.summary import list_points, summarise, summarise_engines
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.wire import Api, PromptAs
from farspan.measurement.lengths import parse_lengths
from farspan.measurement.observe.engine_observer import EngineObserver
from farspan.measurement.observe.observer import ObservedRun, Observer
from farspan.measurement.options import BenchOptions
from farspan.measurement.prepared_requests import PromptStore
from farspan.measurement.progress import Watcher
from farspan.measurement.run import run_bench, run_engines
from farspan.measurement.runs.bench_outcome import BenchOutcome
from farspan.measurement.runs.job import Job, LoadPhase
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import load_run
from scripted import Script, ScriptedServer, counting_prompt, serve_script


def options(server: ScriptedServer, folder: Path, **changes: Any) -> BenchOptions:
    base = BenchOptions(url=server.url, run=folder / "run", contexts=(100,), output_tokens=4, seed=7)
    return replace(base, **changes)


async def bench(wanted: BenchOptions, **more: Any) -> BenchOutcome:
    return await run_bench(wanted, make_prompt=counting_prompt, **more)


def started(outcome: BenchOutcome) -> list[float]:
    return sorted(datetime.fromisoformat(result.started_at).timestamp() for result in outcome.results)


async def test_in_an_open_loop_requests_leave_on_time_however_slow_the_server(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.script = Script(together=asyncio.Barrier(8))  # none is answered before all have left
    began = time.time()
    outcome = await bench(options(server, tmp_path, repeats=8, rate=20.0, burstiness=math.inf))
    assert outcome.good
    assert server.most_running == 8
    assert {result.most_at_once for result in outcome.results} == {8}
    # On a busy machine a request may leave late, never early; and then it says so.
    assert started(outcome)[-1] - began >= 7 / 20 - 0.005
    for number, result in enumerate(sorted(outcome.results, key=lambda result: result.started_at)):
        left = datetime.fromisoformat(result.started_at).timestamp() - began
        assert 0 <= result.late_s <= left - number / 20 + 0.005


async def test_a_bound_makes_requests_of_an_open_loop_late_and_they_say_so(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.script = Script(ttft_s=0.2)
    outcome = await bench(options(server, tmp_path, repeats=4, rate=50.0, burstiness=math.inf, concurrency=1))
    assert outcome.good
    assert server.most_running == 1
    late = sorted(result.late_s for result in outcome.results)
    # Each waits for the one before it, and was due 20 ms after it.
    assert all(after - before > 0.17 for before, after in pairwise(late))


async def test_the_time_limit_ends_an_open_loop(server: ScriptedServer, tmp_path: Path) -> None:
    outcome = await bench(
        options(server, tmp_path, repeats=50, rate=10.0, burstiness=math.inf, time_limit_s=0.95)
    )
    assert 1 <= len(outcome.results) <= 10
    assert outcome.unsent == 50 - len(outcome.results)
    assert "time limit" in outcome.stopped


async def test_warm_up_and_cool_down_are_kept_and_not_counted(server: ScriptedServer, tmp_path: Path) -> None:
    server.scripts = [Script(ttft_s=0.5)]
    outcome = await bench(options(server, tmp_path, repeats=3, warmup=2, cooldown=1))
    assert [result.phase for result in outcome.results] == [
        LoadPhase.WARMUP, LoadPhase.WARMUP, *[LoadPhase.MEASURED] * 3, LoadPhase.COOLDOWN,
    ]  # fmt: skip
    assert load_run(tmp_path / "run").results == outcome.results
    (point,) = list_points(outcome.results)
    assert point.requests == 3
    summary = summarise(outcome)
    assert summary["measures"]["ttft_s"]["count"] == 3
    measured = [result.ttft_s for result in outcome.results if result.phase is LoadPhase.MEASURED]
    assert summary["measures"]["ttft_s"]["mean"] == pytest.approx(np.mean(measured))
    assert len(summary["requests"]) == 6
    again = await bench(options(server, tmp_path, repeats=3, warmup=2, cooldown=1, resume=True))
    assert len(server.requests) == 6
    assert again.good


async def test_mixed_lengths(server: ScriptedServer, tmp_path: Path) -> None:
    outcome = await bench(
        options(
            server, tmp_path, contexts=(), lengths=parse_lengths("uniform:50,400"), requests=12, concurrency=3
        )
    )
    assert outcome.good
    assert len({result.context for result in outcome.results}) > 6
    assert all(50 <= result.context <= 400 for result in outcome.results)


@pytest.mark.parametrize("form", list(PromptAs))
async def test_generate_reports_what_openais_api_cannot(
    server: ScriptedServer, tmp_path: Path, form: PromptAs
) -> None:
    server.script = Script(ttft_s=0.4, queue_time=True)
    outcome = await bench(options(server, tmp_path, api=Api.GENERATE, prompt_as=form))
    (result,) = outcome.results
    assert result.status is Status.OK, result.error
    assert result.queue_s == 0.25
    assert result.ttft_s is not None
    assert result.prefill_tokens_per_s == pytest.approx(100 / (result.ttft_s - 0.25))
    (request,) = server.requests
    assert ("input_ids" in request) == (form is PromptAs.IDS)
    assert request["sampling_params"] == {"max_new_tokens": 4, "temperature": 0.0}


async def test_engines_are_sent_the_same_prompts_each_stored_once(tmp_path: Path) -> None:
    built: list[Job] = []

    def make(job: Job) -> Any:
        built.append(job)
        return counting_prompt(job)

    async with serve_script() as one, serve_script() as two:
        two.script = Script(count_offset=1)
        outcomes = await run_engines(
            options(one, tmp_path, repeats=3, seed=None, prompts=tmp_path / "prompts", api=Api.GENERATE),
            {"sglang": one.url, "vllm": two.url},
            make_prompt=make,
        )
    assert len(built) == 3
    prompts = [[request.get("input_ids") or request["prompt"] for request in s.requests] for s in (one, two)]
    assert prompts[0] == prompts[1]
    assert "sampling_params" in one.requests[0]
    assert "model" in two.requests[0]
    files = sorted(path.name for path in (tmp_path / "prompts").iterdir())
    assert files == sorted(f"{result.prompt_id}.json" for result in outcomes["sglang"].results)
    assert outcomes["sglang"].good
    assert {result.status for result in outcomes["vllm"].results} == {Status.WRONG_LENGTH}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"sglang", "vllm"}
    document = summarise_engines({name: summarise(outcome) for name, outcome in outcomes.items()})
    assert [request["engine"] for request in document["requests"]] == ["sglang"] * 3 + ["vllm"] * 3
    assert document["engines"]["vllm"]["failed"] == 3
    assert document["good"] is False


async def test_results_hold_no_prompt(server: ScriptedServer, tmp_path: Path) -> None:
    await bench(options(server, tmp_path, contexts=(50_000,)))
    written = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*.json*"))
    assert written < 20_000


def test_a_prompt_store_removes_its_own_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    (folder / ".draft-killed").write_text("left behind")
    job = Job(10, 0.5, 0, 1, 4)
    with PromptStore(folder, keep=False) as store:
        stored = store.add(job, counting_prompt, PromptAs.IDS)
        assert store.add(job, counting_prompt, PromptAs.IDS) is stored
        text = store.add(job, counting_prompt, PromptAs.TEXT)
        assert json.loads(stored.file.path.read_bytes()) == counting_prompt(job).token_ids.tolist()
        assert json.loads(text.file.path.read_bytes()) == counting_prompt(job).text
        assert stored.file.size == stored.file.path.stat().st_size
        assert not (folder / ".draft-killed").exists()
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    with PromptStore(tmp_path / "kept", keep=True) as store:
        store.add(job, counting_prompt, PromptAs.IDS)
    assert len(list((tmp_path / "kept").iterdir())) == 1


class Oracle(Observer):
    """An observer that is told what to find."""

    def __init__(self, *, hang: str = "", after: int = 1, labels: Mapping[str, str] | None = None) -> None:
        self.seen: list[str] = []
        self._hang, self._after, self._labels = hang, after, labels or {}

    async def start(self, run: ObservedRun) -> None:
        self.seen.append(f"start {run.server.model} {run.start}")

    async def stop(self) -> None:
        self.seen.append("stop")

    def on_started(self, job: Job, at: float) -> None:
        assert abs(at - time.time()) < 60
        self.seen.append("sent")

    def on_first_token(self, job: Job, ttft_s: float) -> None:
        self.seen.append("token")

    def on_request(self, result: Result) -> None:
        self.seen.append("over")

    def find_labels(self, since: float, until: float, ours: int) -> Mapping[str, str]:
        assert since <= until
        assert ours == 1
        return self._labels

    def find_hang(self) -> str:
        return self._hang if self.seen.count("sent") > self._after else ""

    def describe_progress(self) -> str:
        return "KV 3 %"


async def test_observers_see_a_run_from_start_to_stop(server: ScriptedServer, tmp_path: Path) -> None:
    oracle = Oracle(labels={"preempted": "the engine preempted 2 requests"})
    outcome = await bench(options(server, tmp_path, repeats=2), observers=[oracle])
    assert oracle.seen == ["start scripted 0", *["sent", "token", "over"] * 2, "stop"]
    assert {result.labels for result in outcome.results} == {("preempted",)}
    assert outcome.results[0].evidence == {"preempted": "the engine preempted 2 requests"}
    again = Oracle()
    await bench(options(server, tmp_path, repeats=2, resume=True), observers=[again])
    assert again.seen == []
    failing = Oracle()
    server.script = Script(hang=True)
    task = asyncio.ensure_future(bench(options(server, tmp_path / "b"), observers=[failing]))
    while "sent" not in failing.seen:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert failing.seen[-1] == "stop"


async def test_a_hung_engine_ends_the_run_and_says_so(server: ScriptedServer, tmp_path: Path) -> None:
    server.scripts = [Script()]
    server.script = Script(hang=True)
    progress: list[str] = []

    class Listen(Watcher):
        def progress(self, line: str) -> None:
            progress.append(line)

    oracle = Oracle(hang="1 waiting, none running", after=1)
    outcome = await bench(options(server, tmp_path, repeats=5), observers=[oracle], watcher=Listen())
    assert [result.status for result in outcome.results] == [Status.OK, Status.TIMED_OUT]
    hung = outcome.results[1]
    assert "hung" in hung.labels
    assert hung.evidence["hung"] == "1 waiting, none running"
    assert outcome.unsent == 3
    assert "the engine hangs (1 waiting, none running)" in outcome.stopped
    assert outcome.exit_code == 1
    assert "KV 3 %" in progress


# What a vLLM of up to 0.13 says of itself when it was sent a request larger than its KV pool.
_STUCK = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="scripted",engine="0"} 0.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model_name="scripted",engine="0"} 1.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{model_name="scripted",engine="0"} 0.0
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{model_name="scripted",engine="0"} 100.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{model_name="scripted",engine="0"} 4.0
"""


async def test_a_server_that_behaves_as_vllms_over_pool_hang_is_found_out_by_its_metrics(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.metrics = _STUCK
    server.script = Script(hang=True)
    observer = EngineObserver(interval_s=0.1, quiet_s=0.8)
    began = time.perf_counter()
    outcome = await bench(options(server, tmp_path, repeats=3), observers=[observer])
    assert time.perf_counter() - began > 0.8
    (result,) = outcome.results
    assert result.status is Status.TIMED_OUT
    assert "1 waiting, none running" in result.evidence["hung"]
    assert outcome.unsent == 2
    assert outcome.exit_code == 2


async def test_a_server_that_computes_is_waited_for(server: ScriptedServer, tmp_path: Path) -> None:
    server.metrics = _STUCK.replace("running{model_name=\"scripted\",engine=\"0\"} 0.0",
                                    "running{model_name=\"scripted\",engine=\"0\"} 1.0")  # fmt: skip
    server.script = Script(ttft_s=2.5)
    observer = EngineObserver(interval_s=0.1, quiet_s=0.5)
    outcome = await bench(options(server, tmp_path), observers=[observer])
    assert outcome.good


async def test_a_planned_time_limits_the_wait(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farspan.measurement.analysis.plan_times._LEAST_S", 0.1)
    plan = tmp_path / "plan.json"
    plan.write_text(
        json.dumps({"points": [{"context": 100, "engine": "vllm", "ttft_s": {"expected": 0.04}}]})
    )
    server.script = Script(hang=True)
    outcome = await bench(options(server, tmp_path, plan=plan))
    (result,) = outcome.results
    assert result.status is Status.TIMED_OUT
    assert result.e2e_s >= 0.2
    kept = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert kept["starts"][0]["plan"]["points"][0]["context"] == 100


async def test_the_environment_is_kept_without_secrets(server: ScriptedServer, tmp_path: Path) -> None:
    server.settings = {
        "api_key": "hunter2", "tokenizer_path": "/m", "internal_states": [{"admin_api_key": "hunter2", "x": 1}],
    }  # fmt: skip
    await bench(options(server, tmp_path, api_key="hunter2"))
    await bench(options(server, tmp_path, api_key="hunter2", repeats=2, resume=True))
    text = (tmp_path / "run" / "environment.json").read_text()
    assert "hunter2" not in text
    starts = json.loads(text)["starts"]
    assert len(starts) == 2
    assert starts[0]["server_settings"]["tokenizer_path"] == "/m"
    assert starts[0]["server_settings"]["internal_states"] == [{"admin_api_key": "(not kept)", "x": 1}]
    assert starts[0]["client"]["packages"]["numpy"]
    assert starts[0]["server"]["model"] == "scripted"


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": 0.0},
        {"rate": math.inf},
        {"burstiness": -1.0},
        {"warmup": -1},
        {"requests": 0},
        {"lengths": parse_lengths("uniform:1k,2k")},
        {"percentiles": (100.0,)},
        {"goodput": {"speed": 1.0}},
    ],
)
async def test_bad_options(server: ScriptedServer, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        await bench(options(server, tmp_path, **changes))
    assert caught.value.fix
    assert not (tmp_path / "run").exists()


async def test_the_clients_own_lag_is_reported(server: ScriptedServer, tmp_path: Path) -> None:
    server.script = Script(ttft_s=0.3, itl_s=0.01)
    outcome = await bench(options(server, tmp_path, output_tokens=8))
    client = summarise(outcome)["client"]
    assert client["loop_lag_s"]["p99"] >= client["loop_lag_s"]["p50"] >= 0
    assert client["arrivals_timed_by"] in ("the kernel", "the client")
    if client["arrivals_timed_by"] == "the kernel":
        assert 0 < client["arrival_lag_s"]["p50"] <= client["arrival_lag_s"]["max"]
