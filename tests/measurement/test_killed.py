"""kill -9, then --resume: nothing on disk is lost or sent again, and the end is as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.job import Job
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import load_run
from farspan.measurement.runs.series import read_series
from farspan.models.probe import write_probe
from scripted import Script, ScriptedServer, serve_in_thread

ROOT = Path(__file__).resolve().parents[2]
REQUESTS = 3
METRICS = "".join(
    f'# TYPE vllm:{name} gauge\nvllm:{name}{{engine="0"}} {value}\n'
    for name, value in (
        ("num_requests_running", 1),
        ("num_requests_waiting", 0),
        ("kv_cache_usage_perc", 0.1),
    )
)


@dataclass
class Bench:
    """A run that is started again and again, and what was on disk when it was last killed."""

    server: ScriptedServer
    process: subprocess.Popen[str]
    folder: Path
    kept: dict[Job, Result] = field(default_factory=dict)
    sent: int = 0

    def start(self, **how: object) -> dict[str, Any]:
        """Start, or go on with, the run; kill it as told; check that what was there is there and was not sent again."""
        seen = len(self.server.requests)
        arguments = [
            "bench", "--url", self.server.url, "--contexts", "200", "--repeats", "3", "--concurrency", "2",
            "--seed", "5", "--metrics-interval", "0.02", "--run", str(self.folder), "--resume", "--json",
        ]  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(
            json.dumps({"folder": str(self.folder), "arguments": arguments, **how}) + "\n"
        )
        self.process.stdin.flush()
        ended: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert ended["code"] in (0, -9), (how, ended)
        now = {result.job: result for result in load_run(self.folder).results} if self.is_run() else {}
        again = {result.prompt_id for result in self.kept.values()} & {
            prompt_id(request) for request in self.server.requests[seen:]
        }
        assert not again, (how, "sent again")
        assert {job: now.get(job) for job in self.kept} == self.kept, (how, "lost or changed")
        read_series(self.folder)
        self.kept = now
        return ended

    def finish(self) -> None:
        """Go on to the end and check that it is whole."""
        ended = self.start()
        assert ended["code"] == 0, ended["err"]
        assert len(json.loads(ended["out"])["requests"]) == REQUESTS
        lines = [json.loads(line) for line in (self.folder / "requests.jsonl").read_text().splitlines()]
        assert len({(line["context"], line["repeat"]) for line in lines}) == len(lines) == REQUESTS
        assert {line["status"] for line in lines} == {Status.OK.value}
        assert sorted(path.name for path in self.folder.iterdir()) == [
            "environment.json", "metrics.sqlite", "requests.jsonl", "run.json", "sent.jsonl",
        ]  # fmt: skip

    def is_run(self) -> bool:
        return (self.folder / "run.json").exists()

    def in_folder(self, folder: Path) -> Bench:
        return Bench(self.server, self.process, folder)


def prompt_id(request: dict[str, Any]) -> str:
    """The name a prompt has in results, worked out from what the server was sent."""
    return hashlib.blake2b(orjson.dumps(request["prompt"]), digest_size=16).hexdigest()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    scratch = tmp_path_factory.mktemp("doomed")
    write_probe(scratch / "recall")
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / "support" / "doomed.py"), str(scratch)]
    with serve_in_thread() as server:
        server.script = Script(recall=True, ttft_s=0.01)
        server.metrics = METRICS
        server.card |= {"root": str(scratch / "recall"), "max_model_len": 4000}
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            yield Bench(server, process, scratch / "run")
            assert process.stdin is not None
            process.stdin.close()


def test_killed_before_every_step_on_disk(bench: Bench, tmp_path: Path) -> None:
    """Once before each step that a run takes on disk, each time from an empty folder."""
    step = 1
    while (run := bench.in_folder(tmp_path / f"run{step}")).start(step=step)["code"]:
        run.finish()
        step += 1
    assert step > 20


def test_killed_at_any_moment(bench: Bench, tmp_path: Path) -> None:
    """By the clock, again and again: between the steps, and while SQLite writes."""
    seed = random.SystemRandom().randrange(10**6)
    choice = random.Random(seed)
    print(f"seed {seed}")
    run = bench.in_folder(tmp_path / "run")
    for _ in range(8):
        run.start(after_s=choice.uniform(0.02, 0.4))
    run.finish()
