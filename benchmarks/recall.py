"""Recall and speed of the built-in engine, in one process, on a CPU or a GPU: a table and JSON.

    python benchmarks/recall.py --device cuda --dtype bfloat16 --contexts 100k,1M --depths 0,0.5,1 [-o recall.json]

Each prompt is the recall checkpoint's, of exactly that many tokens; the answer is checked word for word. Time is from
handing over the prompt to the first token of the answer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from farspan.builtin.engine import Engine, EngineOptions
from farspan.builtin.model import LlamaModel
from farspan.builtin.sampling import SamplingParams
from farspan.builtin.scheduler import Request
from farspan.models.probe import vocabulary, write_probe
from farspan.prompts.build import build_prompt
from farspan.prompts.tokenizer import load_tokenizer
from farspan.sizes import format_bytes, format_tokens, parse_token_list


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--contexts", type=parse_token_list, default=(8_000, 32_000))
    parser.add_argument("--depths", type=lambda text: [float(d) for d in text.split(",")], default=[0.1, 0.9])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--step", type=int, default=8192, help="most tokens of one step")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as home:
        folder = write_probe(
            Path(home) / "recall",
            num_attention_heads=arguments.heads,
            num_key_value_heads=arguments.heads,
            max_position_embeddings=2 * max(arguments.contexts),
        ).folder
        tokenizer = load_tokenizer(folder)
        model = LlamaModel(folder, arguments.device, getattr(torch, arguments.dtype))
        engine = Engine(model, EngineOptions(max_num_batched_tokens=arguments.step))
        name = (
            torch.cuda.get_device_name()
            if model.device.type == "cuda"
            else f"{torch.get_num_threads()} cores"
        )
        print(f"{name}, {arguments.dtype}, {arguments.heads} heads, torch {torch.__version__}")
        print("| tokens | depth | right | first token, s | tokens/s | ITL, ms | KV at the end |", flush=True)
        print("|---|---|---|---|---|---|---|")
        for context in arguments.contexts:
            for depth in arguments.depths:
                prompt = build_prompt(tokenizer, tokens=context, depth=depth, seed=len(rows), output_tokens=8)
                params = SamplingParams(max_tokens=8, temperature=0)
                request = Request(str(len(rows)), prompt.token_ids, params)
                begun = time.perf_counter()
                engine.add(request)
                stamps, held = [], 0
                while engine.has_work:
                    held = max(held, engine.statistics().allocated_bytes)
                    produced = len(engine.step())
                    stamps += [time.perf_counter()] * produced
                first = stamps[0] - begun
                itl = (stamps[-1] - stamps[0]) / (len(stamps) - 1)
                words = vocabulary().tokens
                right = prompt.score(" ".join(words[token] for token in request.output)) == 1.0
                rows.append(
                    {
                        "tokens": context,
                        "depth": depth,
                        "right": right,
                        "ttft_s": first,
                        "itl_s": itl,
                        "kv": held,
                    }
                )
                print(
                    f"| {format_tokens(context)} | {depth:g} | {'yes' if right else 'NO'} | {first:.2f} "
                    f"| {context / first:,.0f} | {1000 * itl:.1f} | {format_bytes(held)} |",
                    flush=True,
                )
    if arguments.output:
        arguments.output.write_text(
            json.dumps({"device": name, "dtype": arguments.dtype, "rows": rows}, indent=1)
        )
    if not all(row["right"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
