"""How fast `farspan plan` answers: one question in a fresh process, and sweeps of 10,000 points in one.

    python benchmarks/plan.py [--runs 15] [--points 10000] [--json plan.json]

A fresh process counts interpreter start, imports, reading the model and printing; a sweep, planning only, the
best of three. CPU seconds stand beside the wall clock: on a machine that does other work only they mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from farspan.engines.registry import engine_names, get_engine
from farspan.hardware.node_spelling import parse_node
from farspan.models.config import load_model
from farspan.planner.request import PlanRequest
from farspan.planner.sweep import sweep

SCOUT = ("llama-4-scout", "8xH200", 10_000_000)
# The built-in engine runs on one GPU.
SMALL = ("llama-3.1-8b", "1xH200", 128_000)
FITS_OR_NOT = (0, 3)


def cpu_of_children() -> float:
    """CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def one_question(engine: str, runs: int) -> list[tuple[float, float]]:
    """(wall, CPU) seconds of `runs` fresh processes, after one that warms the file cache; all engines when
    `engine` is empty."""
    model, gpus, context = SMALL if engine == "builtin" else SCOUT
    command = [sys.executable, "-m", "farspan", "plan", model, "--gpus", gpus, "--context", str(context)]
    command += ["--json", *(["--engine", engine] if engine else [])]
    seconds = []
    for _ in range(runs + 1):
        start, cpu = time.perf_counter(), cpu_of_children()
        code = subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ, check=False).returncode
        seconds.append((time.perf_counter() - start, cpu_of_children() - cpu))
        if code not in FITS_OR_NOT:
            raise SystemExit(f"{' '.join(command)} exited with {code}")
    return seconds[1:]


def sweep_seconds(engine: str, points: int) -> tuple[float, float, int]:
    """Wall and CPU seconds to plan `points` contexts on one engine, and how many fit."""
    name, gpus, _ = SMALL if engine == "builtin" else SCOUT
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
    print(f"{'question':<28} {'median s':>9} {'worst s':>9} {'CPU s':>9}")
    for engine in ("", *engine_names()):
        seconds = one_question(engine, options.runs)
        name = engine or "all engines"
        median, worst = statistics.median(wall for wall, _ in seconds), max(wall for wall, _ in seconds)
        cpu = statistics.median(cpu for _, cpu in seconds)
        results[f"question {name}"] = {"median_s": median, "worst_s": worst, "cpu_median_s": cpu}
        print(f"{name:<28} {median:>9.3f} {worst:>9.3f} {cpu:>9.3f}")
    print(f"\n{'sweep of points':<28} {'seconds':>9} {'CPU s':>9} {'us/point':>9} {'fit':>7}")
    for engine in engine_names():
        taken, cpu, fits = min(sweep_seconds(engine, options.points) for _ in range(3))
        results[f"sweep {engine}"] = {"points": options.points, "seconds": taken, "cpu_s": cpu, "fit": fits}
        print(f"{engine:<28} {taken:>9.3f} {cpu:>9.3f} {taken / options.points * 1e6:>9.1f} {fits:>7}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
