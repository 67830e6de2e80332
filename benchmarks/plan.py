"""How fast `farspan plan` answers: one question in a fresh process, and sweeps of 10,000 points in one.

    python benchmarks/plan.py [--runs 15] [--points 10000] [--json plan.json]

A fresh process counts interpreter start, imports, reading the model and printing, with farspan's bytecode there, as pip
leaves it, and without, as under PYTHONDONTWRITEBYTECODE: every module is then compiled again each time. A sweep is
planning only, the best of three. CPU seconds stand beside the wall clock, the least of all runs: on a machine that does
other work only they mean anything.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import farspan
from farspan.engines.registry import engine_names, get_engine
from farspan.hardware.node_spelling import parse_node
from farspan.models.config import load_model
from farspan.planner.request import PlanRequest
from farspan.planner.sweep import sweep

SCOUT = ("llama-4-scout", "8xH200")
# The built-in engine runs on one GPU.
SMALL = ("llama-3.1-8b", "1xH200")
QUESTIONS = (
    "plan llama-4-scout --gpus 8xH200 --context 1M",
    "plan llama-4-scout --gpus 8xH200 --context 1M --json",
    "plan llama-4-scout --gpus 8xH200 --find context",
    "plan qwen3-32b --gpus 2xH100 --find context",
    "plan qwen3-32b --gpus 2xH100 --context 32k --engine vllm",
    "plan qwen3-32b --gpus 2xH100 --context 32k --engine sglang",
    "plan llama-3.1-8b --gpus H200 --context 128k --engine builtin",
    "--help",
)
FITS_OR_NOT = (0, 3)


class Seconds(NamedTuple):
    """What one process took."""

    wall: float
    cpu: float


def cpu_of_children() -> float:
    """CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def one_question(words: Sequence[str], source: Path) -> Seconds:
    """Seconds of a fresh process that asks the farspan of a folder."""
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    start, cpu = time.perf_counter(), cpu_of_children()
    command = [sys.executable, "-m", "farspan", *words]
    code = subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False).returncode
    if code not in FITS_OR_NOT:
        raise SystemExit(f"{' '.join(command)} exited with {code}")
    return Seconds(time.perf_counter() - start, cpu_of_children() - cpu)


def copy_package(folder: Path, *, compiled: bool) -> Path:
    """Copy farspan to a folder, with its bytecode or without."""
    copied = folder / "farspan"
    shutil.copytree(Path(farspan.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    if compiled:
        compileall.compile_dir(copied, quiet=1)
    return folder


def time_questions(runs: int) -> dict[str, dict[str, float]]:
    """Ask every question `runs` times, after once that warms the file cache; print a table and return it."""
    results = {}
    print(f"{'question':<62} {'median s':>9} {'CPU s':>7} {'CPU s, compiling':>17}")
    with tempfile.TemporaryDirectory() as temporary:
        bytecode = copy_package(Path(temporary) / "bytecode", compiled=True)
        sources = copy_package(Path(temporary) / "sources", compiled=False)
        for question in QUESTIONS:
            # By turns, so that what else the machine does meets both.
            pairs = [
                (one_question(question.split(), bytecode), one_question(question.split(), sources))
                for _ in range(runs + 1)
            ][1:]
            median = statistics.median(kept.wall for kept, _ in pairs)
            cpu, compiling = (min(pair[index].cpu for pair in pairs) for index in (0, 1))
            results[question] = {"median_s": median, "cpu_s": cpu, "cpu_compiling_s": compiling}
            print(f"{question:<62} {median:>9.3f} {cpu:>7.3f} {compiling:>17.3f}")
    return results


def sweep_seconds(engine: str, points: int) -> tuple[float, float, int]:
    """Wall and CPU seconds to plan `points` contexts on one engine, and how many fit."""
    name, gpus = SMALL if engine == "builtin" else SCOUT
    asked = get_engine(engine)
    node, model = parse_node(gpus), load_model(name)
    request = PlanRequest(model=model, gpu=node.gpu, gpus=node.count, tp=node.count, context=1_000)
    longest = model.max_position_embeddings
    contexts = range(1_000, longest, max(1, (longest - 1_000) // points))[:points]
    list(sweep(replace(request, output_tokens=1), [1_000], [asked]))
    start, cpu = time.perf_counter(), time.process_time()
    fits = sum(point.fits for point in sweep(request, contexts, [asked]))
    return time.perf_counter() - start, time.process_time() - cpu, fits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    results["questions"] = time_questions(options.runs)
    print(f"\n{'sweep of points':<28} {'seconds':>9} {'CPU s':>9} {'us/point':>9} {'fit':>7}")
    for engine in engine_names():
        taken, cpu, fits = min(sweep_seconds(engine, options.points) for _ in range(3))
        results[f"sweep {engine}"] = {"points": options.points, "seconds": taken, "cpu_s": cpu, "fit": fits}
        print(f"{engine:<28} {taken:>9.3f} {cpu:>9.3f} {taken / options.points * 1e6:>9.1f} {fits:>7}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
