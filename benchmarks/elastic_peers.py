"""Page allocators side by side: farspan's, SGLang's and vLLM's, each in a process of its own, one core each.

Three patterns, the same for all: every page at once; a long prompt chunk by chunk; and a batch that decodes, each
request getting a page a step and giving all of its pages back when it ends. `elastic_pool.py` runs this.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CHUNK = 8192
BATCH, STEPS = 64, 2048
REPEATS = 3

Times = dict[str, float]


def measure(
    pages: int,
    alloc: Callable[[int], Any],
    free: Callable[[Any], Any],
    split: Callable[[Any], list[Any]],
    join: Callable[[list[Any]], Any],
    repeats: int = REPEATS,
    wait: Callable[[], Any] = lambda: None,
) -> Times:
    """Return milliseconds of each pattern, the least of `repeats`. `wait` ends what was queued on a device."""
    times: Times = {}

    def timed(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        wait()
        start = time.perf_counter()
        result = work(*arguments)
        wait()
        spent = (time.perf_counter() - start) * 1e3
        times[name] = min(times.get(name, spent), spent)
        return result

    def all_of(work: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        return [work(item) for item in items]

    sizes = [min(CHUNK, pages - at) for at in range(0, pages, CHUNK)]
    for _ in range(repeats):
        held = timed("alloc all at once", alloc, pages)
        timed("free all at once", free, held)
        chunks = timed("alloc in chunks", all_of, alloc, sizes)
        timed("free the chunks as one", free, join(chunks))
        steps = timed("decode", all_of, alloc, [BATCH] * STEPS)
        requests = [join([one[row] for one in map(split, steps)]) for row in range(BATCH)]
        timed("end decoding", all_of, free, requests)
    return times


def measure_farspan(pages: int) -> Times:
    import numpy as np

    from farspan.kv.memory.drivers.host import HostDriver
    from farspan.kv.memory.pages import PagePool
    from farspan.kv.memory.segments import SegmentPool

    # Rows of one byte: the memory grows before the clock starts, so that allocators alone are compared.
    pool = PagePool(SegmentPool(HostDriver(), 1 << 20), [1], 1, pages)
    whole = pool.alloc(pages)
    assert whole is not None
    pool.free(whole)
    rows = range(BATCH)
    return measure(
        pages, pool.alloc, pool.free, lambda step: [step[row : row + 1] for row in rows], np.concatenate
    )


def measure_sglang(pages: int, source: str, device: str) -> Times:
    import torch

    # The package as a shell: its __init__ files import a whole server, the allocator needs none of it.
    for name in ("sglang", "sglang.srt", "sglang.srt.mem_cache", "sglang.srt.mem_cache.allocator"):
        shell = types.ModuleType(name)
        shell.__path__ = [str(Path(source, *name.split(".")))]
        sys.modules[name] = shell
    from importlib import import_module

    try:
        found = import_module("sglang.srt.mem_cache.allocator.token")
    except ModuleNotFoundError:  # before 0.5.16 it is one file
        del sys.modules["sglang.srt.mem_cache.allocator"]
        found = import_module("sglang.srt.mem_cache.allocator")
    torch.set_num_threads(1)
    allocator = found.TokenToKVPoolAllocator(
        pages, dtype=torch.bfloat16, device=device, kvcache=None, need_sort=False
    )
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    rows = range(BATCH)
    return measure(
        pages,
        allocator.alloc,
        allocator.free,
        lambda step: [step[row : row + 1] for row in rows],
        torch.cat,
        wait=wait,
    )


def _joined_lists(lists: list[Any]) -> list[Any]:
    return [item for one in lists for item in (one if isinstance(one, list) else [one])]


def measure_vllm(pages: int) -> Times:
    from vllm.v1.core.block_pool import BlockPool

    pool = BlockPool(num_gpu_blocks=pages + 1, enable_caching=False, hash_block_size=16)
    return measure(pages, pool.get_new_blocks, pool.free_blocks, list, _joined_lists, repeats=1)


def run_peer(peer: str, pages: int, python: str, arguments: Sequence[str] = ()) -> tuple[Times | None, str]:
    """Measure a peer in a process of its own; return its times and what to say of it when there are none."""
    command = [python, __file__, peer, str(pages), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return None, f"not measured: {reason}"
    times: Times = json.loads(done.stdout.strip().splitlines()[-1])
    return times, ""


if __name__ == "__main__":
    kind, count, *rest = sys.argv[1:]
    peers = {"farspan": measure_farspan, "sglang": measure_sglang, "vllm": measure_vllm}
    print(json.dumps(peers[kind](int(count), *rest)))
