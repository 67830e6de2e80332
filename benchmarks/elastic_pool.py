"""Elastic memory, measured: growth, attention, footprint, shrinking, churn and allocators; a table or JSON.

    PYTHONPATH=src python benchmarks/elastic_pool.py [--driver host|cuda] [--json] [--check]
        [--sglang FOLDER] [--vllm-python PYTHON] [--only growth,attention,...]

Growth stands beside the same raw driver calls in the same run, attention beside memory of the ordinary allocator
(torch's), page allocation beside SGLang's and vLLM's allocators (a folder that holds the `sglang` package, a Python
that has vllm). `--check` runs the invariants on the real device instead and exits with 1 when one does not hold.
It needs numpy and torch, and cuda-bindings for --driver cuda.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from elastic_check import check
from elastic_peers import run_peer
from elastic_raw import raw_growth
from farspan.kv.memory.drivers.cuda import CudaDriver
from farspan.kv.memory.drivers.driver import Driver
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.pages import PagePool
from farspan.kv.memory.segments import SegmentPool
from farspan.sizes import GIB, parse_tokens

MIB = 2**20
Figures = dict[str, Any]


class Bench:
    """What the measurements share: the driver and how large they may be."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.cuda = arguments.driver == "cuda"
        self.arguments = arguments
        self.device = torch.device("cuda" if self.cuda else "cpu")
        if self.cuda:
            torch.cuda.init()
            torch.empty(1, device=self.device)

    def driver(self) -> Driver:
        return CudaDriver() if self.cuda else HostDriver()

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    # --- growth --------------------------------------------------------------------------------------------------

    def growth(self) -> Figures:
        """Milliseconds a GiB for several segment sizes: raw calls, ours in one layer and in twelve, ours with reuse."""
        total = int(self.arguments.growth_gib * GIB)
        figures: Figures = {}
        for size in [int(text) * MIB for text in self.arguments.segments.split(",")]:
            if total < 12 * size:
                continue
            times: dict[str, list[float]] = {"raw": [], "one layer": [], "twelve layers": [], "again": []}
            for _ in range(self.arguments.repeats):
                times["raw"].append(
                    raw_growth(self.arguments.driver, size, total // size) * 1e3 * GIB / total
                )
                for name, layers in (("one layer", 1), ("twelve layers", 12)):
                    fresh, again = self._grow(size, total, layers)
                    times[name].append(fresh)
                    if layers == 1:
                        times["again"].append(again)
            best = {f"{name} ms/GiB": statistics.median(values) for name, values in times.items()}
            # The ratio is taken pair by pair, so that a slow spell of the machine meets both.
            best["ratio one layer"] = _ratio(times["one layer"], times["raw"])
            best["ratio twelve layers"] = _ratio(times["twelve layers"], times["raw"])
            figures[f"{size // MIB} MiB"] = best
        return figures

    def _grow(self, size: int, total: int, layers: int) -> tuple[float, float]:
        """Return ms/GiB of growing a pool from its first segment by `total` bytes, fresh and with idle segments."""
        driver = self.driver()
        segments = SegmentPool(driver, size, quiet_s=1e9)
        row = 4096
        per_layer = total // size // layers + 1
        pool = PagePool(segments, [row] * layers, 1, per_layer * size // row)
        grown = (per_layer - 1) * size * layers
        times = []
        for _ in range(2):
            first = pool.alloc(pool.pages_per_segment)
            assert first is not None
            count = pool.max_pages - pool.pages_per_segment
            self.wait()
            start = time.perf_counter()
            pages = pool.alloc(count)
            times.append((time.perf_counter() - start) * 1e3 * GIB / grown)
            assert pages is not None
            pool.free(pages)
            pool.free(first)
            pool.tick()
            self.wait()
            pool.surrender(10**9)
        pool.close()
        segments.close()
        driver.close()
        return times[0], times[1]

    # --- attention -----------------------------------------------------------------------------------------------

    def attention(self) -> Figures:
        """Speed of torch's attention over the range as a share of that over ordinary memory, same shape and strides."""
        heads, width = (8, 128) if self.cuda else (2, 64)
        length = self.arguments.context or (1_000_000 if self.cuda else 65_536)
        dtype = torch.bfloat16 if self.cuda else torch.float32
        figures: Figures = {}
        for size in (2 * MIB, 128 * MIB):
            driver = self.driver()
            segments = SegmentPool(driver, size)
            row = 2 * heads * width * dtype.itemsize
            pool = PagePool(segments, [row], 1, length)
            assert pool.alloc(length) is not None
            shape = (length, 2, heads, width)
            elastic = pool.layer(0).view(dtype).view(shape)
            ordinary = torch.empty(shape, dtype=dtype, device=self.device)
            ordinary.normal_()
            elastic.copy_(ordinary)
            for name, queries in (("decode", 1), ("prefill", 2048 if self.cuda else 64)):
                query = torch.randn(1, heads, queries, width, dtype=dtype, device=self.device)
                seconds = self._alternate(
                    partial(self._attend, query, ordinary), partial(self._attend, query, elastic)
                )
                same = torch.equal(self._attend(query, ordinary), self._attend(query, elastic))
                flops = 4 * heads * queries * width * length
                figures[f"{name}, {size // MIB} MiB segments"] = {
                    "tokens": length,
                    "ordinary ms": statistics.median(seconds[0]) * 1e3,
                    "elastic ms": statistics.median(seconds[1]) * 1e3,
                    "speed of ordinary": _ratio(seconds[0], seconds[1]),
                    "elastic GB/s of KV": row * length / statistics.median(seconds[1]) / 1e9,
                    "elastic TFLOP/s": flops / statistics.median(seconds[1]) / 1e12,
                    "same result": same,
                }
            del elastic, ordinary
            pool.close()
            segments.close()
            driver.close()
        return figures

    def _attend(self, query: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        key, value = (rows[:, which].transpose(0, 1).unsqueeze(0) for which in (0, 1))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    def _alternate(self, *works: Callable[[], Any]) -> list[list[float]]:
        """Return seconds of each work, run in turns after a warm-up."""
        times: list[list[float]] = [[] for _ in works]
        for repeat in range(self.arguments.repeats * 4 + 2):
            for work, seconds in zip(works, times, strict=True):
                self.wait()
                start = time.perf_counter()
                work()
                self.wait()
                if repeat >= 2:
                    seconds.append(time.perf_counter() - start)
        return times

    # --- footprint and shrinking ---------------------------------------------------------------------------------

    def shrinking(self) -> Figures:
        """Bytes at rest, at the top and after the load, and how long they took to come back."""
        size = 128 * MIB if self.cuda else 4 * MIB
        layers, quiet = 12, 2.0
        driver = self.driver()
        free = driver.memory().free
        segments = SegmentPool(driver, size, quiet_s=quiet)
        row = 4096
        pool = PagePool(segments, [row] * layers, 1, 64 * size // row)
        idle = driver.physical_bytes()
        pages = pool.alloc(pool.pages_per_segment * (16 if self.cuda else 8))
        assert pages is not None
        top = driver.physical_bytes()
        top_free = driver.memory().free
        pool.free(pages)
        start = time.perf_counter()
        pauses: list[float] = []
        back = None
        while time.perf_counter() - start < 2 * quiet:
            tick = time.perf_counter()
            pool.tick()
            segments.tick()
            now = time.perf_counter()
            pauses.append(now - tick)
            if back is None and driver.physical_bytes() - idle <= 0.1 * (top - idle):
                back = now - start
            if now - start > quiet and back is not None:
                break
            time.sleep(0.02)
        figures = {
            "layers": layers,
            "segment MiB": size // MIB,
            "idle MiB": idle / MIB,
            "idle segments a range": idle / size / layers,
            "top MiB": top / MIB,
            "less free on the device at the top, MiB": (free - top_free) / MIB,
            "after MiB": driver.physical_bytes() / MIB,
            "grown bytes back": 1 - (driver.physical_bytes() - idle) / (top - idle),
            "quiet s": quiet,
            "90 % back after s": back,
            "longest tick ms": max(pauses) * 1e3,
            "median tick us": statistics.median(pauses) * 1e6,
        }
        pool.close()
        segments.close()
        figures["left MiB"] = driver.physical_bytes() / MIB
        driver.close()
        return figures

    # --- churn ---------------------------------------------------------------------------------------------------

    def churn(self) -> Figures:
        """An hour of requests on a clock of its own: bytes mapped for the bytes used, and what is left at the end."""
        now = [0.0]
        driver = self.driver()
        size = max(driver.granularity, 64 * 1024) if not self.cuda else 2 * MIB
        segments = SegmentPool(driver, size, quiet_s=10, clock=lambda: now[0])
        row = size // 256
        pool = PagePool(segments, [row, row], 1, 256 * 512)
        base = driver.physical_bytes()
        random = np.random.default_rng(7)
        live: list[tuple[float, np.ndarray]] = []
        waste: list[float] = []
        peak = served = 0
        while now[0] < 3600:
            now[0] += float(random.exponential(0.5))
            gone = [one for one in live if one[0] <= now[0]]
            live = [one for one in live if one[0] > now[0]]
            for _, pages in gone:
                pool.free(pages)
            busy = now[0] % 1200 < 900  # fifteen minutes of load, five of rest
            count = int(min(20_000, random.pareto(1.1) * 200 + 1))
            if busy:
                pages = pool.alloc(count)
                if pages is not None:
                    live.append((now[0] + float(random.exponential(15)), pages))
                    served += 1
            pool.tick()
            segments.tick()
            peak = max(peak, driver.physical_bytes())
            if busy and pool.used > 8 * pool.pages_per_segment:
                waste.append(pool.mapped_pages / pool.used)
        for _, pages in live:
            pool.free(pages)
        for _ in range(20):
            now[0] += 1
            pool.tick()
            segments.tick()
        pool.check_integrity()
        segments.check_integrity()
        after = driver.physical_bytes()
        statistics_now = segments.statistics()
        pool.close()
        segments.close()
        figures = {
            "requests": served,
            "peak MiB": peak / MIB,
            "mapped for used, median": statistics.median(waste),
            "mapped for used, 99th percentile": float(np.percentile(waste, 99)),
            "base MiB": base / MIB,
            "after MiB": after / MIB,
            "back to the base": after == base,
            "segments created": statistics_now.ever_created,
            "left handles": driver.live_handles,
        }
        driver.close()
        return figures

    # --- allocators ----------------------------------------------------------------------------------------------

    def allocators(self) -> Figures:
        """Milliseconds of page allocation and freeing beside the engines' allocators, each in its own process."""
        pages = self.arguments.pages
        runs: dict[str, tuple[str, str, list[str]]] = {"farspan": ("farspan", sys.executable, [])}
        if self.arguments.sglang:
            for device in ["cpu"] + (["cuda"] if self.cuda else []):
                runs[f"sglang on {device}"] = ("sglang", sys.executable, [self.arguments.sglang, device])
        if self.arguments.vllm_python:
            runs["vllm"] = ("vllm", self.arguments.vllm_python, [])
        figures: Figures = {"pages": pages}
        for name, (peer, python, rest) in runs.items():
            times, why = run_peer(peer, pages, python, rest)
            figures[name] = {f"{pattern} ms": spent for pattern, spent in times.items()} if times else why
        for name, flag in (("sglang", "--sglang"), ("vllm", "--vllm-python")):
            if not any(one.startswith(name) for one in runs):
                figures[name] = f"not measured: {flag} was not given"
        return figures


def _ratio(times: list[float], others: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(times, others, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--driver", choices=("host", "cuda"), default="host")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--check", action="store_true", help="run the invariants on the device and nothing else"
    )
    parser.add_argument("--only", default="growth,attention,shrinking,churn,allocators")
    parser.add_argument("--segments", default="2,16,32,64,128,256", help="segment sizes to grow by, MiB")
    parser.add_argument("--growth-gib", type=float, help="how much to grow by; 32 on a GPU, 2 on the host")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--context", type=parse_tokens, help="tokens attended to; 1M on a GPU, 65536 on the host"
    )
    parser.add_argument("--pages", type=parse_tokens, default=10_000_000)
    parser.add_argument("--sglang", help="a folder that holds the sglang package")
    parser.add_argument("--vllm-python", help="a Python that has vllm")
    arguments = parser.parse_args()
    if arguments.growth_gib is None:
        arguments.growth_gib = 32.0 if arguments.driver == "cuda" else 2.0
    bench = Bench(arguments)
    if arguments.check:
        sys.exit(0 if check(bench.driver, bench.device) else 1)
    figures: Figures = {
        "driver": arguments.driver,
        "device": torch.cuda.get_device_name() if bench.cuda else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    for name in arguments.only.split(","):
        print(f"{name}...", file=sys.stderr, flush=True)
        figures[name] = getattr(bench, name)()
    print(json.dumps(figures, indent=1)) if arguments.json else _print(figures)


def _print(figures: Figures, indent: str = "") -> None:
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            _print(value, indent + "    ")
        else:
            print(f"{indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}")


if __name__ == "__main__":
    main()
