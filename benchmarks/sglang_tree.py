"""CPU time of chunked prefill in SGLang 0.5.16's prefix tree and in farspan's, side by side, as ratios: a table.

    python benchmarks/sglang_tree.py --site FOLDER [--contexts 500k,1M,2M,4M,10M] [--stock-most 2M] [--chunk 8192]

FOLDER holds SGLang's unpacked package (`make test-engines` leaves it in .sglang-0.5.16). One request's prompt goes
through `cache_unfinished_req` chunk by chunk, in SGLang's own rows and allocators, with full layers only and with
window layers too (8,192 tokens). Tensors are on torch's meta device: what SGLang gives to the GPU costs nothing,
calling it does. "Scheduler" is the slice of all token ids that `prepare_for_extend` makes of the prompt for each chunk:
it is SGLang's, whichever tree it has.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from array import array
from pathlib import Path
from types import SimpleNamespace as Values
from typing import Any

from farspan.sizes import format_tokens, parse_token_list

STUBS = Path(__file__).resolve().parent.parent / "tests/engines/sglang"
WINDOW = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument(
        "--contexts", type=parse_token_list, default=(500_000, 1_000_000, 2_000_000, 4_000_000, 10_000_000)
    )
    parser.add_argument("--stock-most", type=parse_token_list, default=(2_000_000,))
    parser.add_argument("--chunk", type=int, default=8192)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("TREE", "WINDOW", "TOKENS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        tree, window, tokens = arguments.one
        print(json.dumps(measure(arguments.site, tree, int(window), int(tokens), arguments.chunk)))
        return
    rows = []
    for window in (0, WINDOW):
        for tokens in arguments.contexts:
            row: dict[str, Any] = {"window": window, "tokens": tokens}
            trees = ["farspan", "sglang"] if tokens <= arguments.stock_most[0] else ["farspan"]
            for tree in trees:
                command = [sys.executable, "-W", "ignore", __file__, "--site", str(arguments.site)]
                command += ["--chunk", str(arguments.chunk), "--one", tree, str(window), str(tokens)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row[tree] = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            print(line(row), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1))
    print(table(rows))


def measure(site: Path, tree: str, window: int, tokens: int, chunk: int) -> dict[str, float]:
    """Return the CPU seconds of one prompt: in the tree, and in the slice that the scheduler makes."""
    sys.path.insert(0, str(STUBS))
    import torch

    from tree_world import cache_of, start_sglang

    start_sglang(str(site))
    from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator
    from sglang.srt.mem_cache.allocator.swa import SWATokenToKVPoolAllocator
    from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams
    from sglang.srt.mem_cache.base_swa_memory_pool import BaseSWAKVPool
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.mem_cache.memory_pool import ReqToTokenPool
    from sglang.srt.mem_cache.radix_cache import RadixKey

    class Pool(BaseSWAKVPool):  # type: ignore[misc]
        def register_mapping(self, mapping: Any) -> None:
            self.full_to_swa_index_mapping = mapping

        def translate_loc_from_full_to_swa(self, indices: Any) -> Any:
            return self.full_to_swa_index_mapping[indices]

    Pool.__abstractmethods__ = frozenset()
    size = tokens + 2 * chunk
    if window:
        allocator = SWATokenToKVPoolAllocator(
            size, size, 1, torch.bfloat16, "meta", Pool.__new__(Pool), False
        )
    else:
        allocator = TokenToKVPoolAllocator(size, torch.bfloat16, "meta", None, False)
    rows = ReqToTokenPool(1, tokens + 8, "meta", False)
    cache = cache_of(
        tree,
        CacheInitParams(
            disable=False,
            req_to_token_pool=rows,
            token_to_kv_pool_allocator=allocator,
            page_size=1,
            sliding_window_size=window or None,
        ),
    )
    chance = random.Random(1)
    prompt = array("q", chance.choices(range(200_000), k=tokens))
    request = Values(
        origin_input_ids=prompt,
        output_ids=array("q"),
        full_untruncated_fill_ids=prompt,
        extra_key=None,
        session=None,
        session_id=None,
        priority=0,
        req_pool_idx=1,
        kv=Values(swa_evicted_seqlen=0, kv_allocated_len=0),
        swa_uuid_for_lock=None,
        swa_prefix_lock_released=False,
    )
    request.get_fill_ids = lambda: prompt[: request.extend_range.end]
    match = cache.match_prefix(MatchPrefixParams(key=RadixKey(prompt, limit=tokens - 1), req=request))
    request.prefix_indices, request.last_node = match.device_indices, match.last_device_node
    request.cache_protected_len = 0
    request.swa_uuid_for_lock = cache.inc_lock_ref(request.last_node).swa_uuid_for_lock
    in_tree = in_scheduler = 0.0
    for start in range(0, tokens, chunk):
        stop = min(tokens, start + chunk)
        request.extend_range = Values(start=start, end=stop)
        begun = time.process_time()
        ids = request.get_fill_ids()[len(request.prefix_indices) :]
        in_scheduler += time.process_time() - begun
        slots = allocator.alloc(len(ids))
        rows.write((1, slice(start, stop)), slots.to(torch.int32))
        begun = time.process_time()
        cache.cache_unfinished_req(request, chunked=stop < tokens)
        in_tree += time.process_time() - begun
    assert len(request.prefix_indices) == tokens == cache.protected_size()
    return {"tree": in_tree, "scheduler": in_scheduler}


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    ours, stock = row["farspan"], row.get("sglang")
    layers = "full and window" if row["window"] else "full"
    beside = f"{stock['tree']:.2f} | {stock['tree'] / ours['tree']:,.0f}x" if stock else "- | -"
    return f"| {layers} | {format_tokens(row['tokens'])} | {ours['tree']:.2f} | {beside} | {ours['scheduler']:.2f} |"


def table(rows: list[dict[str, Any]]) -> str:
    head = "| layers | prompt | farspan's tree, s | SGLang's tree, s | ratio | scheduler, s |"
    head += "\n|---|---|---|---|---|---|"
    return "\n".join([head, *map(line, rows)])


if __name__ == "__main__":
    main()
