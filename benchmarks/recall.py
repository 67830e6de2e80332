"""Recall and speed of the built-in engine, in one process, on a CPU or a GPU: a table and JSON.

    python benchmarks/recall.py --device cuda --dtype bfloat16 --contexts 100k,1M --depths 0,0.5,1 [-o recall.json]
    python benchmarks/recall.py --contexts 32k --kv-cache-dtype fp8_e4m3 --kv-cache-gib 0.1 --kv-host-gib 1 --again

Each prompt is the recall checkpoint's, of exactly that many tokens; the answer is checked word for word. Time is from
handing over the prompt to the first token of the answer. With `--again` the prompts of a context are asked about once
more, in the same order: with a small --kv-cache-gib they were evicted meanwhile, to the host if it has room. With
`--shared` one prompt has the needles of all depths, and only the question differs: the first is computed, the others
find all but their last tokens in the prefix cache.
`-o` also keeps the memory of the KV cache over time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from farspan.builtin.engine import EngineOptions, InferenceEngine
from farspan.builtin.model import LlamaModel
from farspan.builtin.sampling_params import SamplingParams
from farspan.builtin.scheduler import Request
from farspan.kv.kv_options import KVOptions
from farspan.models.probe import vocabulary, write_probe
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.load_tokenizer import load_tokenizer
from farspan.prompts.prompt import Prompt
from farspan.prompts.tokenizer import Tokenizer
from farspan.sizes import format_bytes, format_tokens, parse_token_list


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--contexts", type=parse_token_list, default=(8_000, 32_000))
    parser.add_argument("--depths", type=lambda text: [float(d) for d in text.split(",")], default=[0.1, 0.9])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--step", type=int, default=8192, help="most tokens of one step")
    parser.add_argument("--kv-cache-gib", type=float)
    parser.add_argument("--kv-cache-dtype", default="auto", choices=["auto", "fp8_e4m3"])
    parser.add_argument("--kv-host-gib", type=float, default=0.0)
    parser.add_argument("--again", action="store_true", help="ask about each prompt twice")
    parser.add_argument("--shared", action="store_true", help="plant every needle in one prompt")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    memory: list[list[float]] = []
    with tempfile.TemporaryDirectory() as home:
        folder = write_probe(
            Path(home) / "recall",
            num_attention_heads=arguments.heads,
            num_key_value_heads=arguments.heads,
            max_position_embeddings=2 * max(arguments.contexts),
        ).folder
        tokenizer = load_tokenizer(folder)
        model = LlamaModel(folder, arguments.device, getattr(torch, arguments.dtype))
        options = KVOptions(
            capacity_gib=arguments.kv_cache_gib,
            fp8=arguments.kv_cache_dtype == "fp8_e4m3",
            host_gib=arguments.kv_host_gib,
            quiet_s=1.0,
        )
        engine = InferenceEngine(model, EngineOptions(max_num_batched_tokens=arguments.step, kv=options))
        name = (
            torch.cuda.get_device_name()
            if model.device.type == "cuda"
            else f"{torch.get_num_threads()} cores"
        )
        print(
            f"{name}, {arguments.dtype}, KV {arguments.kv_cache_dtype}, {arguments.heads} heads, "
            f"torch {torch.__version__}"
        )
        print(
            "| tokens | depth | right | cached | first token, s | tokens/s | ITL, ms | KV mapped | on the host |"
        )
        print("|---|---|---|---|---|---|---|---|---|", flush=True)
        begun = time.perf_counter()

        def watch() -> None:
            held = engine.statistics()
            seconds = round(time.perf_counter() - begun, 2)
            memory.append([seconds, held.mapped_bytes, held.used_bytes, held.host_bytes])

        for context in arguments.contexts:
            prompts = plant(tokenizer, context, arguments.depths)
            ids = share(prompts) if arguments.shared else [prompt.token_ids for prompt in prompts]
            asked = list(zip(arguments.depths, prompts, ids, strict=True)) * (1 + arguments.again)
            for depth, prompt, token_ids in asked:
                row = ask(engine, prompt, token_ids, watch)
                rows.append({"tokens": context, "depth": depth, **row})
                print(
                    f"| {format_tokens(context)} | {depth:g} | {'yes' if row['right'] else 'NO'} "
                    f"| {row['cached_tokens']:,} | {row['ttft_s']:.2f} | {context / row['ttft_s']:,.0f} "
                    f"| {1000 * row['itl_s']:.1f} | {format_bytes(row['mapped_bytes'])} "
                    f"| {format_bytes(row['host_bytes'])} |",
                    flush=True,
                )
        engine.reset_prefix_cache()
        for _ in range(8):  # an idle engine is woken as often
            engine.tick()
            time.sleep(0.25)
        watch()
        end = engine.statistics()
        print(
            f"evicted {end.evicted_tokens:,} tokens, restored {end.restored_tokens:,}; "
            f"{format_bytes(end.mapped_bytes)} mapped after all"
        )
        engine.close()
    if arguments.output:
        arguments.output.write_text(
            json.dumps(
                {
                    "device": name,
                    "dtype": arguments.dtype,
                    "kv_cache_dtype": arguments.kv_cache_dtype,
                    "heads": arguments.heads,
                    "capacity_bytes": end.capacity_bytes,
                    "rows": rows,
                    "memory_fields": ["seconds", "mapped_bytes", "used_bytes", "host_bytes"],
                    "memory": memory,
                },
                indent=1,
            )
        )
    if not all(row["right"] for row in rows):
        raise SystemExit(1)


def plant(tokenizer: Tokenizer, context: int, depths: list[float]) -> list[Prompt]:
    """Return a prompt for each depth. No word of one's needle is in another's, so that `share` leaves each clear."""
    prompts: list[Prompt] = []
    taken: set[int] = set()
    seeds = itertools.count()
    while len(prompts) < len(depths):
        prompt = build_prompt(
            tokenizer, tokens=context, depth=depths[len(prompts)], seed=next(seeds), output_tokens=8
        )
        words = set(prompt.token_ids[needle_of(prompt)].tolist())
        if not words & taken:
            prompts.append(prompt)
            taken |= words
    return prompts


def needle_of(prompt: Prompt) -> slice:
    """Return where the prompt's needle lies: its key and the answer."""
    (at,) = prompt.needle_positions
    return slice(at, at + 1 + prompt.output_tokens)


def share(prompts: list[Prompt]) -> list[NDArray[np.int32]]:
    """Plant the needles of all prompts in the first, and return it once with the question of each: the last token."""
    every = prompts[0].token_ids.astype(np.int32)
    for prompt in prompts:
        needle = needle_of(prompt)
        every[needle] = prompt.token_ids[needle]
    asked = []
    for prompt in prompts:
        ids = every.copy()
        ids[-1] = prompt.token_ids[-1]
        asked.append(ids)
    return asked


def ask(
    engine: InferenceEngine, prompt: Prompt, token_ids: NDArray[np.int32], watch: Callable[[], None]
) -> dict[str, Any]:
    """Ask about one prompt and return what it took."""
    params = SamplingParams(max_tokens=8, temperature=0)
    request = Request("needle", token_ids, params)
    begun = time.perf_counter()
    engine.add(request)
    stamps: list[float] = []
    steps = mapped = 0
    while engine.has_work:
        produced = len(engine.step())
        stamps += [time.perf_counter()] * produced
        steps += 1
        mapped = max(mapped, engine.statistics().mapped_bytes)
        if steps % 20 == 1 or stamps:
            watch()
    words = vocabulary().tokens
    return {
        "right": prompt.score(" ".join(words[token] for token in request.output)) == 1.0,
        "cached_tokens": request.cached_tokens or 0,
        "ttft_s": stamps[0] - begun,
        "itl_s": (stamps[-1] - stamps[0]) / (len(stamps) - 1),
        "mapped_bytes": mapped,
        "host_bytes": engine.statistics().host_bytes,
    }


if __name__ == "__main__":
    main()
