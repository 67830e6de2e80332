"""Reading a start from its log as it grows."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from farspan.engines.registry import get_engine
from farspan.errors import LaunchError
from farspan.hardware.catalog import find_gpu
from farspan.launch.expected import ExpectedStart, expect_start
from farspan.launch.local import read_tail
from farspan.launch.start_watch import StartError, StartupWatch, await_start
from farspan.models.config import load_model
from farspan.planner.plan import plan_engine
from farspan.planner.request import PlanRequest

EVIDENCE = Path(__file__).resolve().parents[1] / "evidence"
REAL = EVIDENCE / "real"
SCOUT = load_model("llama-4-scout")


@dataclass
class Watched:
    """A server that is only a log file."""

    log: Path
    started: float = field(default_factory=time.monotonic)
    exit_status: int | None = None

    def tail(self, lines: int = 15) -> tuple[str, ...]:
        return read_tail(self.log, lines)


def expected(engine: str = "vllm") -> ExpectedStart:
    return expect_start(get_engine(engine), SCOUT, 8)


def test_the_times_of_a_start_come_from_the_weights() -> None:
    start = expected()
    assert start.phases["weights"] == pytest.approx(476, rel=0.01)  # the cold start it is fitted to
    assert start.total_s == pytest.approx(476 + 37 + 60 + 22 + 13, rel=0.01)
    assert start.limit_s == pytest.approx(3 * start.total_s + 600)
    assert start.silence_s > start.phases["weights"]
    faster = expect_start(get_engine("vllm"), SCOUT, 8, disk_bytes_per_s=5e9, eager=True)
    assert faster.phases["weights"] < 50
    assert faster.phases["compile"] == faster.phases["graphs"] == 0
    assert "as given" in faster.basis
    assert "fitted" in start.basis


def test_phases_appear_as_the_log_grows(tmp_path: Path) -> None:
    server = Watched(tmp_path / "log")
    watch = StartupWatch(server, expected(), None)
    watch.check()
    assert [(phase.name, phase.took_s is None) for phase in watch.phases()] == [
        ("engine", False),
        ("weights", True),
        ("compile", True),
        ("profile", True),
        ("graphs", True),
    ]
    lines = (REAL / "vllm-0.24.0-scout-shard.log").read_bytes().splitlines(keepends=True)
    seen: list[str] = []
    for line in lines:
        with server.log.open("ab") as file:
            file.write(line)
        watch.check()
        if watch.current not in seen:
            seen.append(watch.current)
    assert seen[:5] == ["engine", "weights", "compile", "profile", "graphs"]
    assert all(phase.done for phase in watch.phases())
    took = {phase.name: phase.took_s for phase in watch.phases()}
    assert took["compile"] == pytest.approx(36, abs=1)  # by the engine's own figure
    assert took["graphs"] == pytest.approx(17, abs=1)


def test_weights_show_their_rate(tmp_path: Path) -> None:
    server = Watched(tmp_path / "log", started=time.monotonic() - 100)
    watch = StartupWatch(server, expected(), None)
    server.log.write_text(
        "(Worker_TP0 pid=9) INFO 12-02 10:00:00 [gpu_model_runner.py:3468] Starting to load model x...\n"
    )
    watch.check()
    watch._began["weights"] = 0.0  # as if it had begun with the server, 100 s ago
    with server.log.open("a") as file:
        file.write("Loading safetensors checkpoint shards:  50% Completed | 25/50 [01:40<01:40,  4.00s/it]\n")
    watch.check()
    (weights,) = (phase for phase in watch.phases() if phase.name == "weights")
    assert weights.percent == 50
    half = expected().weight_bytes / 2
    assert weights.rate is not None
    assert half / (time.monotonic() - server.started) <= weights.rate <= half / 100


def test_what_it_got_beside_the_plan(tmp_path: Path) -> None:
    plan = plan_engine(
        PlanRequest(SCOUT, find_gpu("H200"), 8, 8, 5242880, engine_version="0.24.0"), get_engine("vllm")
    )
    server = Watched(REAL / "vllm-0.24.0-scout-shard.log")
    watch = StartupWatch(server, expected(), plan)
    watch.finish()
    rows = {row.what: row for row in watch.compared()}
    assert rows["weights, GiB a GPU"].got == 27.6
    assert rows["KV cache size, tokens"].got == 16_427_369
    assert all(0.95 < row.ratio < 1.05 for row in rows.values())
    half = replace(plan, printed={"Available KV cache memory": "200.0 GiB"})
    watch = StartupWatch(server, expected(), half)
    watch.finish()
    assert [(row.what, row.ratio < 0.5) for row in watch.compared()] == [("KV memory, GiB a GPU", True)]


async def test_a_start_that_dies_carries_the_finding(tmp_path: Path) -> None:
    server = Watched(tmp_path / "log", exit_status=1)
    server.log.write_bytes((EVIDENCE / "vllm-context-too-long.log").read_bytes())

    async def refuse() -> str:
        return "connection refused"

    with pytest.raises(StartError, match="status 1") as caught:
        await await_start(server, refuse, expected(), None, pause_s=0.01)
    assert caught.value.findings[0].id == "vllm-context-too-long"
    assert caught.value.findings[0].fix
    assert caught.value.tail
    assert caught.value.explained


async def test_a_start_that_dies_unexplained_keeps_its_last_lines(tmp_path: Path) -> None:
    server = Watched(tmp_path / "log", exit_status=2)
    server.log.write_text("farspan: ./m/model.safetensors cannot be read: download the checkpoint again\n")

    async def refuse() -> str:
        return "connection refused"

    with pytest.raises(StartError, match="status 2") as caught:
        await await_start(server, refuse, expected(), None, pause_s=0.01)
    assert not caught.value.explained
    assert "start-unfinished" not in [finding.id for finding in caught.value.findings]  # it did end
    assert "cannot be read" in caught.value.tail[-1]


async def test_health_alone_is_not_ready(tmp_path: Path) -> None:
    server = Watched(tmp_path / "log")
    server.log.write_text("INFO:     Application startup complete.\n")
    answers = ["no token yet", "no token yet", ""]

    async def check() -> str:
        return answers.pop(0)

    seen = []
    report = await await_start(
        server, check, expected(), None, pause_s=0.01, on_change=lambda seconds, watch: seen.append(seconds)
    )
    assert answers == []
    assert len(seen) == 2
    assert report.ready_s > 0


async def test_a_start_that_stands_still_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Watched(tmp_path / "log", started=time.monotonic() - 50)
    server.log.write_text(
        "(Worker pid=9) INFO 12-02 10:00:00 [gpu_model_runner.py:3468] Starting to load model x...\n"
    )
    monkeypatch.setattr(ExpectedStart, "silence_s", 0.3)

    async def check() -> str:
        return "connection refused"

    with pytest.raises(StartError, match=r"hangs.*phase weights") as caught:
        await await_start(server, check, expected(), None, pause_s=0.05, limit_s=600)
    assert "not ready" not in caught.value.message  # it did not wait for the limit of the start


async def test_an_engine_that_died_under_a_living_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from farspan.launch import start_watch as startup

    server = Watched(tmp_path / "log")
    server.log.write_bytes((EVIDENCE / "vllm-context-too-long.log").read_bytes())
    monkeypatch.setattr(startup, "_DYING_S", 0.1)

    async def check() -> str:
        await asyncio.sleep(0)
        return "connection refused"

    with pytest.raises(StartError, match="engine has died") as caught:
        await await_start(server, check, expected(), None, pause_s=0.05)
    assert caught.value.findings[0].id == "vllm-context-too-long"
    assert isinstance(caught.value, LaunchError)
