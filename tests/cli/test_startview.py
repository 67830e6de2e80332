"""A start on the screen: a table on a terminal, lines anywhere else."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from farspan.cli.startview import LiveStart, PlainStart, choose_start_view
from farspan.engines.registry import get_engine
from farspan.launch.expected import ExpectedStart, expect_start
from farspan.launch.local import read_tail
from farspan.launch.start_watch import StartupWatch
from farspan.models.config import load_model
from farspan.sizes import format_seconds

REAL = Path(__file__).resolve().parents[1] / "evidence" / "real"
LOADING = (
    "(Worker_TP0 pid=9) INFO 12-02 10:00:00 [gpu_model_runner.py:3468] Starting to load model x...\n"
    "Loading safetensors checkpoint shards:  50% Completed | 25/50 [01:40<01:40,  4.00s/it]\n"
)


@dataclass
class Watched:
    log: Path
    started: float = field(default_factory=lambda: time.monotonic() - 1000)
    exit_status: int | None = None

    def tail(self, lines: int = 15) -> tuple[str, ...]:
        return read_tail(self.log, lines)


def expected() -> ExpectedStart:
    return expect_start(get_engine("vllm"), load_model("llama-4-scout"), 8)


def watching(log: Path) -> StartupWatch:
    watch = StartupWatch(Watched(log), expected(), None)
    watch.read()
    return watch


def test_a_terminal_shows_every_phase_with_its_plan(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOADING)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    view = choose_start_view(console)
    assert isinstance(view, LiveStart)
    with view:
        view.progress(1000.0, watching(tmp_path / "log"))
        view._live.refresh()
    shown = screen.getvalue()
    for name, planned in expected().phases.items():
        row = next(line for line in shown.splitlines() if name in line)
        assert format_seconds(planned) in row
    assert "50%" in next(line for line in shown.splitlines() if "weights" in line)
    assert "since the start" in shown


def test_elsewhere_each_phase_is_said_once_when_it_begins_and_ends() -> None:
    screen = io.StringIO()
    view = choose_start_view(Console(file=screen, width=100))
    assert type(view) is PlainStart
    watch = watching(REAL / "vllm-0.24.0-scout-shard.log")
    with view:
        for _ in range(3):
            view.progress(5.0, watch)
    lines = [line.strip() for line in screen.getvalue().splitlines()]
    assert len(lines) == len(set(lines))
    assert [line.split()[0] for line in lines] == ["engine", "weights", "compile", "profile", "graphs"]
    assert all(" took " in line and "(planned " in line for line in lines), lines
