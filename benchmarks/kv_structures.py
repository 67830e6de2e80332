"""Ways to keep and to find a growing KV cache, side by side: memory, growth pauses, waste, attention; prefix lookup.

    python benchmarks/kv_structures.py --device cuda --json > cuda.json
    python benchmarks/kv_structures.py [--device cpu] [--json]
    python benchmarks/kv_structures.py --table cuda.json

The cache is that of `--layers` layers on one GPU; the defaults on CUDA are the 12 full-attention layers of Llama 4
Scout on one GPU of eight, up to 10M tokens. One sequence grows by `--step` tokens at a time; each growth is timed
between two synchronisations. Then one query position attends to the first tokens of each layer (decode), and a block of
positions to those of one layer (prefill, without the causal part inside the block); the best of `--repeats` counts.
kv_subjects.py has the structures.

Prefix lookup compares farspan's radix tree with hash-chained blocks in a dictionary and in a skip list; it runs on the
processor, and only with `--device cpu` or `--lookup`.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elastic_raw import raw_growth
from farspan.sizes import parse_token_list, parse_tokens
from kv_lookup_subjects import compare
from kv_subjects import ON_BOTH, ON_CUDA, Shape, Structure
from kv_tables import tables

# Attention once a page takes a call a page: not beyond this many of them.
MOST_CALLS = 20_000
MIB = 2**20


def main() -> None:
    options = parse()
    if options.table:
        print(tables(json.loads(options.table.read_text())))
        return
    result = run(options)
    print(json.dumps(result, indent=1) if options.json else tables(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = "10M tokens of 12 layers of bf16 on CUDA, else 1M of 4 of float32"
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--tokens", type=parse_token_list, help=f"lengths to report; {cuda}")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--heads", type=int, default=1, help="KV heads")
    parser.add_argument("--group", type=int, help="query heads a KV head: 5 on CUDA, else 1")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--step", type=parse_tokens, default=8192, help="tokens a growth")
    parser.add_argument("--queries", type=parse_tokens, help="positions of the prefill block")
    parser.add_argument("--contexts", type=parse_token_list, help="lengths that attention is timed at")
    parser.add_argument("--prefill-contexts", type=parse_token_list)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--lookup", action="store_true", help="prefix lookup, also with CUDA")
    parser.add_argument("--lookup-tokens", type=parse_token_list, default=(1_000_000, 4_000_000, 10_000_000))
    parser.add_argument("--seconds", type=float, default=140, help="attention is not started after so long")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--table", type=Path, help="print the tables of an earlier run")
    options = parser.parse_args()
    on_cuda = options.device == "cuda"
    for name, there, here in (
        ("tokens", (1_000_000, 4_000_000, 10_000_000), (250_000, 1_000_000)),
        ("layers", 12, 4),
        ("group", 5, 1),
        ("queries", 8192, 256),
        ("contexts", (131_072, 1_000_000, 10_000_000), (131_072, 1_000_000)),
        ("prefill_contexts", (131_072, 1_000_000), (131_072,)),
    ):
        if getattr(options, name) is None:
            setattr(options, name, there if on_cuda else here)
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for."""
    begun = time.perf_counter()
    device = torch.device(options.device)
    longest = max(options.tokens)
    shape = Shape(
        layers=options.layers,
        heads=options.heads,
        dim=options.dim,
        dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        device=device,
        # Whole blocks, and room for the last one.
        cap=-(-longest // 65536) * 65536,
    )
    now(device)
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/kv_structures.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{torch.get_num_threads()} x {processor()}",
        "torch": torch.__version__,
        "shape": {
            "layers": shape.layers, "heads": shape.heads, "group": options.group, "dim": shape.dim,
            "dtype": str(shape.dtype).removeprefix("torch."), "cap": shape.cap, "token_bytes": shape.token_bytes,
        },
        "step": options.step,
        "queries": options.queries,
        "growth": [],
        "attention": [],
        "driver": raw(device),
    }  # fmt: skip
    kinds = (*ON_BOTH, *ON_CUDA) if device.type == "cuda" else ON_BOTH
    for kind in kinds:
        label = kind.__name__
        try:
            structure = grow(kind, shape, options, result)
            label = structure.name
            if time.perf_counter() - begun < options.seconds:
                result["attention"] += attention(structure, options)
            structure.close()
            del structure
        except Exception as error:  # noqa: BLE001 - one structure less is better than no result
            result.setdefault("failed", {})[label] = f"{type(error).__name__}: {error}"[:300]
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        print(f"{label:28} {time.perf_counter() - begun:6.1f} s", file=sys.stderr, flush=True)
    if options.lookup or device.type == "cpu":
        result["lookup"] = compare(options.lookup_tokens, 16)
    result["seconds"] = time.perf_counter() - begun
    return result


def grow(
    kind: type[Structure], shape: Shape, options: argparse.Namespace, result: dict[str, Any]
) -> Structure:
    """Grow a structure to the longest length, add what that took to the result, and return it filled."""
    device = shape.device
    overhead = metadata(kind, shape, options.step)
    free = free_bytes(device)
    begun = now(device)
    structure = kind(shape)
    start_ms = 1000 * (now(device) - begun)
    start_bytes = structure.bytes
    pauses: list[float] = []
    at: list[dict[str, float]] = []
    least, failed = free_bytes(device), None
    for length in sorted(options.tokens):
        while structure.length < length and failed is None:
            count = min(options.step, length - structure.length)
            begun = now(device)
            try:
                structure.grow(count)
            except torch.OutOfMemoryError:
                failed = structure.length + count
            pauses.append(1000 * (now(device) - begun))
            if device.type == "cuda":
                least = min(least, free_bytes(device))
        if failed is None:
            held = structure.bytes
            waste = held / (length * shape.token_bytes) - 1
            at.append({"tokens": length, "total_ms": sum(pauses), "bytes": held, "waste": waste})
    peak = free - least if device.type == "cuda" else max(structure.bytes, structure.peak_bytes)
    result["growth"].append(
        {
            "structure": structure.name,
            "start_bytes": start_bytes,
            "start_ms": start_ms,
            "p50_ms": float(np.percentile(pauses, 50)),
            "p99_ms": float(np.percentile(pauses, 99)),
            "max_ms": max(pauses),
            "at": at,
            "peak_bytes": peak,
            "host_table_bytes": overhead,
            "device_table_bytes": structure.table_bytes,
            "failed_at": failed,
        }
    )
    fill(structure)
    return structure


def metadata(kind: type[Structure], shape: Shape, step: int) -> int:
    """Bytes of Python and numpy objects that a structure of the longest length keeps, in a run of its own."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        structure = kind(shape)
        try:
            while structure.length < shape.cap:
                structure.grow(min(step, shape.cap - structure.length))
        except torch.OutOfMemoryError:
            pass
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        structure.close()
    finally:
        tracemalloc.stop()
    del structure
    gc.collect()
    if shape.device.type == "cuda":
        torch.cuda.empty_cache()
    return after - before


def attention(structure: Structure, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time decode and prefill over a grown structure."""
    shape, rows = structure.shape, []
    generator = torch.Generator(shape.device).manual_seed(0)

    def query(positions: int) -> torch.Tensor:
        # Query heads that share a KV head are rows of one head: nothing is masked, so that is the same.
        size = (positions * options.group, shape.heads, shape.dim)
        return torch.randn(size, dtype=shape.dtype, device=shape.device, generator=generator)

    one, block = query(1), query(options.queries)
    for tokens in sorted({*options.contexts, *options.prefill_contexts}):
        calls = tokens // getattr(structure, "page", tokens)
        if tokens > structure.length or ("once a page" in structure.kernel and calls > MOST_CALLS):
            continue
        row: dict[str, Any] = {"structure": structure.name, "kernel": structure.kernel, "tokens": tokens}
        if tokens in options.contexts:
            # All layers in turn: no cache of the device holds what the next repetition reads.
            def decode(tokens: int = tokens) -> None:
                for layer in range(shape.layers):
                    structure.attend(one, layer, tokens)

            row["decode_ms"] = timed(decode, shape.device, options.repeats) / shape.layers
        if tokens in options.prefill_contexts:

            def prefill(tokens: int = tokens) -> None:
                structure.attend(block, 0, tokens)

            row["prefill_ms"] = timed(prefill, shape.device, options.repeats)
        rows.append(row)
    return rows


def raw(device: torch.device) -> list[dict[str, float]]:
    """What the driver takes to create, map and make accessible one segment, by its size."""
    rows = []
    for size, count in ((2 * MIB, 512), (32 * MIB, 64), (128 * MIB, 32)):
        if device.type == "cpu":
            count = max(4, count // 4)
        spent = min(raw_growth("cuda" if device.type == "cuda" else "host", size, count) for _ in range(3))
        rows.append(
            {
                "segment_bytes": size,
                "each_us": 1e6 * spent / count,
                "gib_ms": 1e3 * spent / (size * count) * 2**30,
            }
        )
    return rows


def fill(structure: Structure) -> None:
    """Put numbers into everything kept, so that no attention is spared by zeros or untouched memory."""
    shape = structure.shape
    some = torch.randn((65536, 1, shape.heads, shape.dim), device=shape.device).to(shape.dtype)
    for buffer in structure.buffers():
        for start in range(0, len(buffer), len(some)):
            piece = buffer[start : start + len(some)]
            piece[:] = some[: len(piece)]


def now(device: torch.device) -> float:
    """Seconds, when the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def timed(call: Callable[[], None], device: torch.device, repeats: int) -> float:
    """Milliseconds of the fastest call, after one to warm up: what others do on the machine only ever adds."""
    call()
    times = []
    for _ in range(repeats):
        begun = now(device)
        call()
        times.append(1000 * (now(device) - begun))
    return min(times)


def processor() -> str:
    """The processor's name, as Linux says it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
