"""The elastic KV pools inside a real SGLang, on one GPU: JSON.

    python benchmarks/sglang_pools.py --site SITE --logs DIR -o pools.json --only life|speed|exchange

SITE is a folder with SGLang 0.5.16's packages. A scene ends when a server does, and says so.

life: one server with `--context-length 10000000`: the GPU's memory and the plug-in's when ready, after prompts cold and
    from the cache, after idle and after a flush; requests that end at different times, then idle: memory mapped over
    the least possible, by the server's log; a neighbour that takes what is free while requests are admitted. The model
    is the recall checkpoint, so that an answer is right or wrong: in one pool with `--model text`, else in two.
speed: SGLang as it is and with the plug-in, both on the GPU at once, each prompt put to one and then to the other, in
    turns: the ratio of their times to first token, and of their milliseconds a token. The model is the recall
    checkpoint, or with `--rank MODEL` one rank of a large one, its weights made up.
exchange: the same memory for two fixed ratios of full and window tokens, for `--enable-unified-memory` and for the
    plug-in: long documents that are asked about again and again, many short prompts twice, and the long ones once more.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import farspan
from farspan.engines.registry import get_engine
from farspan.models.config import read_model_config, spec_from_config
from farspan.models.shard.division import Division
from farspan.models.shard.rank_config import shard_config
from farspan.models.shard.write_shard import write_shard
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.load_tokenizer import load_tokenizer
from farspan.sizes import parse_token_list, parse_tokens
from sglang_plugin import CONTEXT, PORT, ask, checkpoint, generate, get, gpu_bytes, plugin_site, recall
from sglang_started import Site, Started, pseudo_random, started

FLAGS = "--attention-backend triton --disable-cuda-graph --skip-server-warmup"
PLUGIN = "--radix-cache-backend farspan"
NEIGHBOUR = """
import sys, time, torch
held = []
free = lambda: torch.cuda.mem_get_info()[0]
end = time.time() + float(sys.argv[1])
while time.time() < end:
    while free() > 700 * 2**20:
        try:
            held.append(torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            break
    time.sleep(0.02)
print(len(held) * 256, "MiB taken")
"""
# One server of each is on the GPU at once. Fractions of what is free grow, so that all get the same bytes.
EXCHANGE = {
    "ratio 0.8": "--swa-full-tokens-ratio 0.8 --mem-fraction-static 0.05",
    "ratio 0.1": "--swa-full-tokens-ratio 0.1 --mem-fraction-static 0.053",
    "unified": "--enable-unified-memory --mem-fraction-static 0.0565",
    "elastic": f"{PLUGIN} --mem-fraction-static 0.06",
}
WORDS = 1000
SIZES = (2000, 100_000, 400_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--contexts", type=parse_token_list, default=(100_000, 1_000_000))
    parser.add_argument("--model", choices=["text", "windows"], default="text", help="of life")
    parser.add_argument(
        "--prompts-only", action="store_true", help="life without the crowd and the neighbour"
    )
    parser.add_argument("--flags", default=FLAGS)
    parser.add_argument("--port", type=int, default=PORT, help="of the first server")
    parser.add_argument("--start-s", type=float, default=200.0)
    parser.add_argument(
        "--rank", help="of speed: a model, one rank of --tp of which is served with made-up weights"
    )
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--room", type=parse_tokens, default=1_300_000, help="of speed: tokens of a KV pool")
    parser.add_argument(
        "--pairs", type=int, nargs=len(SIZES), default=(16, 10, 4), help=f"of speed, of {SIZES} tokens"
    )
    parser.add_argument("--scenes", nargs="+", choices=EXCHANGE, default=list(EXCHANGE), help="of exchange")
    parser.add_argument("--logs", type=Path, default=Path.cwd())
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--only", choices=["life", "speed", "exchange"], required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(arguments, Path(home))
        try:
            {"life": bench.life, "speed": bench.speed, "exchange": bench.exchange}[arguments.only]()
        finally:
            bench.save()


class Bench:
    """The scenes, and what they saw."""

    def __init__(self, arguments: argparse.Namespace, home: Path) -> None:
        self.arguments = arguments
        self.home = home
        self.seen: dict[str, Any] = {"flags": arguments.flags, "gpu_before": gpu_bytes()}
        self.site = Site(arguments.site, plugin_site(home), arguments.logs)

    def save(self) -> None:
        self.arguments.output.write_text(json.dumps(self.seen, indent=1))

    @contextmanager
    def server(
        self,
        name: str,
        model: Path,
        extra: str,
        number: int = 0,
        environment: dict[str, str] | None = None,
    ) -> Iterator[Started]:
        """Start a server; what it says and how it ends goes into what is saved."""
        flags = f"{self.arguments.flags} {extra}"
        with started(self.site, name, model, flags, self.arguments.port + number, environment) as server:
            self.seen[name] = server.seen
            try:
                yield server
            finally:
                self.save()

    # --- life ----------------------------------------------------------------------------------------------------

    def life(self) -> None:
        model = (checkpoint if self.arguments.model == "windows" else recall)(self.home)
        tokenizer = load_tokenizer(model)
        budgets = self.home / "budgets"
        environment = {
            "FARSPAN_BUDGET": "life",
            "FARSPAN_BUDGET_DIR": str(budgets),
            "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1",
        }
        extra = f"--context-length {CONTEXT} {PLUGIN}"
        with self.server("life", model, extra, environment=environment) as server:
            if not server.is_ready(self.arguments.start_s):
                return
            server.part("held when ready", lambda: held(budgets))
            for context in self.arguments.contexts:
                prompt = build_prompt(tokenizer, tokens=context, depth=0.1, seed=context, output_tokens=8)
                for again in ("", " again"):
                    server.part(f"{context}{again}", lambda one=prompt: ask(one, server.port) | held(budgets))
                    self.save()
            server.part("idle", lambda: rest(server) | held(budgets))
            server.part("flushed", lambda: flushed(server) | held(budgets))
            if not self.arguments.prompts_only:
                server.part("staggered", lambda: staggered(server))
                server.part("neighbour", lambda: neighbour(server))
                server.part("flushed at the end", lambda: flushed(server) | held(budgets))

    # --- speed ---------------------------------------------------------------------------------------------------

    def speed(self) -> None:
        """Both servers have room for a few long prompts and no more, so that both fit."""
        room = self.arguments.room
        extra = f"--context-length {room - 8192} --max-total-tokens {room} --mem-fraction-static"
        if self.arguments.rank:
            # What one has loaded counts against the other's fraction.
            model, extra = rank_of(self.arguments, self.home), f"{extra} 0.8 --load-format dummy"
        else:
            model, extra = recall(self.home), f"{extra} 0.45"
        with (
            self.server("speed-stock", model, extra) as stock,
            self.server("speed-plugin", model, f"{extra} {PLUGIN}", number=1) as plugin,
        ):
            ready = [one.is_ready(self.arguments.start_s) for one in (stock, plugin)]
            if not all(ready):
                return
            for size, pairs in zip(SIZES, self.arguments.pairs, strict=True):
                plugin.part(f"{size}", lambda one=size, turns=pairs: paired(stock, plugin, one, turns))
                self.save()
            for turn in range(3):
                prompts = [pseudo_random(900 + 16 * turn + index, 2000, WORDS) for index in range(16)]
                for server in (stock, plugin):
                    server.part(
                        f"16 at once, {turn}", lambda one=server, some=prompts: one.many(some, [256] * 16)
                    )

    # --- exchange ------------------------------------------------------------------------------------------------

    def exchange(self) -> None:
        model = windowed(self.home)
        fixed = "--context-length 1100000 --load-format dummy --skip-tokenizer-init"
        with ExitStack() as stack:
            servers = []
            for number, name in enumerate(self.arguments.scenes):
                label = f"exchange-{name.replace(' ', '-')}"
                extra = f"{fixed} {EXCHANGE[name]}"
                servers.append(stack.enter_context(self.server(label, model, extra, number=number)))
                # What is free on the GPU is asked when the one before has taken its part.
                servers[-1].has_said("KV Cache is allocated|max_total_num_tokens", self.arguments.start_s)
            for server in servers:
                server.is_ready(self.arguments.start_s)
            for server in servers:
                exchanged(server)
                self.save()


def held(budgets: Path) -> dict[str, Any]:
    """Return the bytes that the server's elastic memory has, as its budget says."""
    return {"held": sum(budget.held for budget in farspan.kv_status(folder=budgets).budgets)}


def rest(server: Started, seconds: float = 9) -> dict[str, Any]:
    time.sleep(seconds)
    return {"gpu": gpu_bytes(), "log": server.lines("farspan: KV cache")[-1:]}


def flushed(server: Started) -> dict[str, Any]:
    server.flush()
    return rest(server)


def staggered(server: Started) -> dict[str, Any]:
    """Requests with answers of very different lengths, all at once, then idle."""
    base = int(time.time()) % 100_000
    most = [8 + (index * 37) % 900 for index in range(64)]
    answers = server.many([pseudo_random(base + index, 2000, WORDS) for index in range(64)], most)
    rested = rest(server)
    numbers = [int(one) for one in re.findall(r"\((\d+)\)", rested["log"][-1])]
    mapped, packed = sum(numbers[0::2]), sum(numbers[1::2])
    return {"answers": answers, "mapped": mapped, "packed": packed, "ratio": mapped / packed, **rested}


def neighbour(server: Started) -> dict[str, Any]:
    """Somebody takes what is free, again and again, while requests are admitted."""
    taker = subprocess.Popen(
        [sys.executable, "-c", NEIGHBOUR, "16"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    time.sleep(5)
    least = gpu_bytes()
    base = int(time.time()) % 100_000
    prompts = [pseudo_random(base + index, 40_000, WORDS) for index in range(24)]
    answers = server.many(prompts, [32] * 24, limit=60)
    taken = taker.communicate(timeout=60)[0]
    return {
        "answers": answers,
        "gpu_when_taken": least,
        "neighbour": taken[-300:],
        "health": get("/health", server.port),
    }


def paired(stock: Started, plugin: Started, size: int, pairs: int) -> dict[str, Any]:
    """Put prompts never seen before to one server and then to the other, alone; the first two warm up.

    The time to first token is that of an answer of one token. Decoding is what 129 tokens take beyond one, both with
    the prompt from the cache.
    """
    first: dict[str, list[float]] = {"stock": [], "plugin": []}
    each: dict[str, list[float]] = {"stock": [], "plugin": []}
    for turn in range(pairs + 2):
        tokens = pseudo_random(int(time.time() * 1000) % 1_000_000, size, WORDS)
        order = [("stock", stock), ("plugin", plugin)]
        for name, server in order if turn % 2 else order[::-1]:
            seconds = [timed(tokens, most, server) for most in (1, 1, 129)]
            if turn >= 2:
                first[name].append(seconds[0])
                each[name].append((seconds[2] - seconds[1]) / 128)
    return {
        "ttft_s": {name: statistics.median(some) for name, some in first.items()},
        "ttft_ratio": ratios(first),
        "ms_a_token": {name: 1000 * statistics.median(some) for name, some in each.items()},
        "decode_ratio": ratios(each),
        "ttft_all": first,
        "decode_all": each,
    }


def timed(tokens: list[int], most: int, server: Started) -> float:
    begun = time.monotonic()
    generate(tokens, most, 120, server.port)
    return time.monotonic() - begun


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Return the median and the quartiles of the plug-in's time over SGLang's own, pair by pair."""
    low, middle, high = statistics.quantiles(
        [ours / theirs for ours, theirs in zip(times["plugin"], times["stock"], strict=True)], n=4
    )
    return {"median": middle, "low": low, "high": high}


def exchanged(server: Started) -> None:
    """Put long documents again and again, short prompts twice, and the long ones once more, to a server."""
    long = [pseudo_random(seed, 400_000, WORDS) for seed in range(1, 5)]
    short = [pseudo_random(seed, 9000, WORDS) for seed in range(100, 164)]

    def documents() -> dict[str, Any]:
        one_by_one = [server.many([document], [8], 90) for _ in range(3) for document in long]
        return {
            key: sum(answer[key] for answer in one_by_one)
            for key in ("sent", "ended", "prompt_tokens", "cached_tokens", "seconds")
        } | {"failed": [why for answer in one_by_one for why in answer["failed"]][:5]}

    server.part("answer", lambda: generate(long[0][:60_000], 16, 60, server.port)["output_ids"])
    server.part("long", documents)
    server.part("gpu after long", gpu_bytes)
    server.part("short", lambda: server.many(short, [128] * len(short), 90))
    server.part("short again", lambda: server.many(short, [128] * len(short), 90))
    server.part("long again", documents)
    server.part("answer again", lambda: generate(long[0][:60_000], 16, 60, server.port)["output_ids"])
    server.part("idle", lambda: rest(server))


def rank_of(arguments: argparse.Namespace, home: Path) -> Path:
    """Write one rank of a deployment, as `farspan rehearse` does."""
    config, name = read_model_config(arguments.rank, allow_network=False)
    form = get_engine("sglang").config_form(spec_from_config(config, name).architecture, "0.5.16")
    folder = home / "rank"
    write_shard(shard_config(config, name, Division(arguments.tp), form=form), folder)
    return folder


def windowed(home: Path) -> Path:
    """Write the config of a small model with a window in three layers of four, which SGLang gives two pools."""
    folder = home / "windowed"
    folder.mkdir()
    config = {
        "model_type": "cohere2",
        "architectures": ["Cohere2ForCausalLM"],
        "hidden_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 512,
        "vocab_size": 1024,
        "sliding_window": 8192,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "is_hybrid_swa": True,
        "hybrid_layer_pattern": [1, 1, 1, 0],
        "max_position_embeddings": 1_200_000,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "torch_dtype": "bfloat16",
        "layer_norm_eps": 1e-5,
        "logit_scale": 1.0,
        "tie_word_embeddings": True,
        "attention_bias": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


if __name__ == "__main__":
    main()
