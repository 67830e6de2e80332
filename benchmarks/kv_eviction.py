"""What eviction costs while a long prompt grows into a full cache, and how scattered it leaves the prompt.

    python benchmarks/kv_eviction.py [--tokens 10M] [--prompts 3] [--repeats 3] [--json]

The cache is the engine's own, with a few bytes a token, on the processor: it holds 1.4 prompts, so that the second and
the later ones evict. Nothing is computed; what is timed is finding room for a step and storing it (append, computed).
*Runs* are the pieces that attention is called for at the end of the prompt, in the layer that keeps everything.

Each repeat measures four caches one after the other: evicting only what a step asks for, or larger pieces as the cache
does; without and with host memory for what is evicted. Times are medians of the repeats.

Then device and host together hold the prompts and a fifth of one more, and all are asked about again, twice: each must
be found whole, and changes places with what was used longest ago.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from contextlib import nullcontext
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from farspan.kv.interface import LayerRetention, SequenceKV
from farspan.kv.kv_options import KVOptions
from farspan.kv.kvcache import ElasticKVCache
from farspan.kv.prefixes import PrefixStore
from farspan.sizes import GIB, parse_tokens
from kv_tables import eviction, restored

STEP, PIECES = "a step's pages", "larger pieces"
LAYERS = (LayerRetention(8192), LayerRetention(8192), LayerRetention(8192), LayerRetention(None))
ON_DEVICE = 1.4  # prompts


def new_cache(tokens: int, host_prompts: float, step: int) -> ElasticKVCache:
    """Return a cache of 32 bytes a token and layer."""
    prompt_gib = tokens * 2 * 8 * 2 / GIB
    return ElasticKVCache(
        layers=LAYERS,
        num_kv_heads=1,
        head_dim=8,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        max_step_tokens=step,
        options=KVOptions(
            capacity_gib=ON_DEVICE * prompt_gib, host_gib=host_prompts * prompt_gib, segment_mib=1
        ),
    )


def new_text(seed: int, tokens: int) -> NDArray[np.int32]:
    """Return a prompt that has nothing in common with those of other seeds."""
    return np.random.default_rng(seed).integers(0, 50_000, tokens, dtype=np.int32)


def grow(sequence: SequenceKV, ids: NDArray[np.int32], step: int) -> list[float]:
    """Append what a sequence does not have yet, and return the milliseconds of each step."""
    waits = []
    for start in range(sequence.length, len(ids), step):
        part = ids[start : start + step]
        begun = time.perf_counter()
        sequence.append(len(part))
        sequence.computed(part)
        waits.append(1e3 * (time.perf_counter() - begun))
    return waits


def measure(tokens: int, prompts: int, host: bool, step: int) -> list[dict[str, Any]]:
    """Return one row a prompt, of one cache."""
    cache = new_cache(tokens, 1.4 if host else 0.0, step)
    rows = []
    for number in range(prompts):
        ids = new_text(number, tokens)
        sequence = cache.open(ids, tokens + 64)
        assert sequence is not None, "an empty cache has room"
        assert sequence.cached_tokens == 0, "every prompt is new"
        evicted = cache.statistics().evicted_tokens
        waits = grow(sequence, ids, step)
        evicted = cache.statistics().evicted_tokens - evicted
        rows.append(
            {
                "prompt": number + 1,
                "tokens": tokens,
                "evicted_tokens": evicted,
                "total_ms": sum(waits),
                "step_p50_ms": float(np.percentile(waits, 50)),
                "step_max_ms": max(waits),
                "runs": sum(1 for _ in sequence.runs(3, 0, tokens)),
            }
        )
        sequence.close()
    cache.check_integrity()
    cache.close()
    return rows


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row for each cache and prompt, times as medians of the repeats."""
    found: dict[tuple[str, bool, int], list[dict[str, Any]]] = {}
    for _ in range(options.repeats):
        for how, host in itertools.product((STEP, PIECES), (False, True)):
            # Nothing beyond what is asked for, as the cache did before it took larger pieces.
            asked = patch.object(PrefixStore, "_batch", return_value=0) if how == STEP else nullcontext()
            with asked:
                rows = measure(options.tokens, options.prompts, host, options.step)
            for row in rows:
                found.setdefault((how, host, row["prompt"]), []).append(row)
    return [
        {
            "eviction": how,
            "host_tier": host,
            **repeats[0],
            **{
                name: median(row[name] for row in repeats)
                for name in ("total_ms", "step_p50_ms", "step_max_ms")
            },
        }
        for (how, host, _), repeats in found.items()
    ]


def again(tokens: int, prompts: int, step: int) -> list[dict[str, Any]]:
    """Return one row for each time a prompt is asked about again, of one cache."""
    cache = new_cache(tokens, prompts - ON_DEVICE + 0.2, step)
    texts = [new_text(number, tokens) for number in range(prompts)]
    rows = []
    for number, ids in enumerate([*texts, *texts, *texts]):
        before = cache.statistics()
        begun = time.perf_counter()
        sequence = cache.open(ids, tokens + 64)
        spent = time.perf_counter() - begun
        assert sequence is not None, "an empty cache has room"
        held = cache.statistics()
        if number >= prompts:
            rows.append(
                {
                    "prompt": number % prompts + 1,
                    "tokens": tokens,
                    "cached_tokens": sequence.cached_tokens,
                    "restored_tokens": held.restored_tokens - before.restored_tokens,
                    "evicted_tokens": held.evicted_tokens - before.evicted_tokens,
                    "open_ms": 1e3 * spent,
                    "runs": sum(1 for _ in sequence.runs(3, 0, sequence.cached_tokens)),
                }
            )
        grow(sequence, ids, step)
        sequence.close()
    cache.check_integrity()
    cache.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=parse_tokens, default=10_000_000)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--step", type=parse_tokens, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = {
        "command": " ".join(["python benchmarks/kv_eviction.py", *sys.argv[1:]]),
        "rows": compare(options),
        "again": again(options.tokens, options.prompts, options.step),
    }
    print(json.dumps(result, indent=1) if options.json else f"{eviction(result)}\n\n{restored(result)}")


if __name__ == "__main__":
    main()
