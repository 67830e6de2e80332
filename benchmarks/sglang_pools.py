"""The elastic KV pools inside a real SGLang, on one GPU: JSON.

    python benchmarks/sglang_pools.py --site SITE --logs DIR -o pools.json --only life|speed

SITE is a folder with SGLang 0.5.16's packages. The model is the recall checkpoint as a text-only Llama 4, which SGLang
keeps in one pool, so that an answer is right or wrong. A scene ends when a server does, and says so.

life: one server with `--context-length 10000000`: the GPU's memory when ready, after prompts cold and from the cache,
    after idle and after a flush; requests that end at different times, then idle: memory mapped over the least
    possible, by the server's log; a neighbour that takes what is free while requests are admitted.
speed: SGLang as it is and with the plug-in, one after the other, at a context at which both start: time to first token
    and milliseconds a token, medians, prompts never seen before.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import sglang_plugin as plugin
from farspan.models.probe import vocabulary
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.load_tokenizer import load_tokenizer
from farspan.sizes import parse_token_list
from sglang_plugin import PORT, ask, generate, get, gpu_bytes, recall, wait

FLAGS = "--attention-backend triton --disable-cuda-graph --skip-server-warmup"
SAID = r"farspan|max_total_num_tokens|leak|Traceback|Error|[Oo]ut of memory|retract"
FAILURES = (OSError, ValueError, LookupError, ArithmeticError, HTTPException)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--contexts", type=parse_token_list, default=(100_000, 1_000_000))
    parser.add_argument("--flags", default=FLAGS)
    parser.add_argument("--start-s", type=float, default=200.0)
    parser.add_argument("--logs", type=Path, default=Path.cwd())
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--only", choices=["life", "speed"], required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(arguments, Path(home))
        try:
            {"life": bench.life, "speed": bench.speed}[arguments.only]()
        finally:
            bench.save()


class Bench:
    """The scenes, and what they saw."""

    def __init__(self, arguments: argparse.Namespace, home: Path) -> None:
        self.arguments = arguments
        self.seen: dict[str, Any] = {"flags": arguments.flags, "gpu_before": gpu_bytes()}
        self.model = recall(home)
        self.tokenizer = load_tokenizer(self.model)
        self.process: subprocess.Popen[bytes] | None = None
        self.site = plugin.plugin_site(home)

    def save(self) -> None:
        self.arguments.output.write_text(json.dumps(self.seen, indent=1))
        print(json.dumps(self.seen, indent=1), flush=True)

    def part(self, into: dict[str, Any], name: str, act: Callable[[], Any]) -> None:
        if self.process is not None and self.process.poll() is not None:
            return
        begun = time.monotonic()
        try:
            into[name] = act()
        except FAILURES as error:
            into[name] = {"failed": f"{type(error).__name__}: {error}"[:400]}
        into[f"{name}_s"] = round(time.monotonic() - begun, 1)
        self.save()

    @contextmanager
    def server(self, name: str, extra: str) -> Iterator[dict[str, Any]]:
        """Start a server; what it says and how it ends goes into what is yielded."""
        log = self.arguments.logs / f"pools-{name}.log"
        words = [
            sys.executable,
            "-m",
            "sglang.launch_server",
            "--model-path",
            str(self.model),
            "--port",
            str(PORT),
        ]
        command = [*words, *shlex.split(self.arguments.flags), *shlex.split(extra)]
        paths = [str(self.site), str(Path(__file__).parents[1] / "src"), str(self.arguments.site)]
        environment = dict(os.environ, FARSPAN_QUIET_S="5")
        environment["PYTHONPATH"] = ":".join([*paths, *filter(None, [os.environ.get("PYTHONPATH", "")])])
        seen = self.seen.setdefault(name, {"extra": extra})
        begun = time.monotonic()
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=file, env=environment, start_new_session=True
            )
        self.log, self.process = log, process
        try:
            seen["ready"] = wait(process, begun + self.arguments.start_s)
            seen["start_s"] = round(time.monotonic() - begun, 1)
            seen["gpu_ready"] = gpu_bytes()
            yield seen
            seen["alive_at_the_end"] = process.poll() is None and get("/health") == 200
        finally:
            plugin.stop(process)
            seen["log"] = self.lines(SAID)[-40:]
            self.save()
            time.sleep(3)

    def lines(self, pattern: str) -> list[str]:
        text = self.log.read_text("utf-8", "replace").splitlines()
        return [line[:400] for line in text if re.search(pattern, line)]

    # --- life ----------------------------------------------------------------------------------------------------

    def life(self) -> None:
        with self.server("life", f"--context-length {plugin.CONTEXT} --radix-cache-backend farspan") as seen:
            if not seen["ready"]:
                return
            for context in self.arguments.contexts:
                prompt = build_prompt(
                    self.tokenizer, tokens=context, depth=0.1, seed=context, output_tokens=8
                )
                for again in (False, True):
                    self.part(seen, f"{context}{' again' if again else ''}", lambda one=prompt: ask(one))
            self.part(seen, "idle", lambda: self.rest(9))
            self.part(seen, "flushed", self.flush)
            self.part(seen, "staggered", self.staggered)
            self.part(seen, "neighbour", self.neighbour)
            self.part(seen, "flushed at the end", self.flush)

    def rest(self, seconds: float) -> dict[str, Any]:
        time.sleep(seconds)
        return {"gpu": gpu_bytes(), "log": self.lines("farspan: KV cache")[-1:]}

    def flush(self) -> dict[str, Any]:
        urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{PORT}/flush_cache", b"", method="POST"), timeout=30
        ).read()
        return self.rest(9)

    def staggered(self) -> dict[str, Any]:
        """Requests with answers of very different lengths, all at once, then idle."""
        answers = self.many([(2000, 8 + (index * 37) % 900) for index in range(64)])
        rested = self.rest(9)
        numbers = [int(one) for one in re.findall(r"\((\d+)\)", rested["log"][-1])]
        mapped, packed = sum(numbers[0::2]), sum(numbers[1::2])
        return {"answers": answers, "mapped": mapped, "packed": packed, "ratio": mapped / packed, **rested}

    def neighbour(self) -> dict[str, Any]:
        """Somebody takes what is free, again and again, while requests are admitted."""
        taker = subprocess.Popen(
            [sys.executable, "-c", NEIGHBOUR, "16"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        time.sleep(5)
        least = gpu_bytes()
        answers = self.many([(40_000, 32)] * 24, limit=60)
        taken = taker.communicate(timeout=60)[0]
        return {
            "answers": answers,
            "gpu_when_taken": least,
            "neighbour": taken[-300:],
            "health": get("/health"),
        }

    def many(self, requests: list[tuple[int, int]], limit: float = 200) -> dict[str, Any]:
        """Post requests of (prompt tokens, answer tokens) at once; return how they ended."""
        ended: list[tuple[float, int]] = []
        failed: list[str] = []
        words = min(1000, len(vocabulary().tokens))

        def post(number: int, prompt: int, most: int) -> None:
            begun = time.monotonic()
            try:
                answer = generate(pseudo_random(number, prompt, words), most, limit)
                ended.append((time.monotonic() - begun, answer["meta_info"]["completion_tokens"]))
            except FAILURES as error:
                failed.append(f"{type(error).__name__}: {error}"[:200])

        base = int(time.time()) % 100_000
        threads = [
            threading.Thread(target=post, args=(base + index, *one)) for index, one in enumerate(requests)
        ]
        begun = time.monotonic()
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        seconds = time.monotonic() - begun
        return {
            "sent": len(requests),
            "ended": len(ended),
            "tokens": sum(tokens for _, tokens in ended),
            "failed": failed[:5],
            "seconds": round(seconds, 2),
        }

    # --- speed ---------------------------------------------------------------------------------------------------

    def speed(self) -> None:
        for name, extra in (("stock", ""), ("plugin", "--radix-cache-backend farspan")):
            with self.server(f"speed-{name}", f"--context-length 1100000 {extra}") as seen:
                if seen["ready"]:
                    for prompt in (2000, 100_000):
                        self.part(seen, f"{prompt}", lambda size=prompt: self.pace(size))
                    self.part(seen, "16 at once", lambda: self.many([(2000, 256)] * 16))
                    self.part(seen, "16 at once again", lambda: self.many([(2000, 256)] * 16))

    def pace(self, size: int) -> dict[str, Any]:
        """Time prompts never seen before, each alone: the first answers warm the kernels and do not count."""
        words = len(vocabulary().tokens)
        first, each = [], []
        for turn in range(7):
            seed = int(time.time() * 1000) % 1_000_000
            tokens = [(seed + place * place * 17 + place * 3) % (words - 10) + 5 for place in range(size)]
            begun = time.monotonic()
            generate(tokens, 1, 120)
            middle = time.monotonic()
            tokens = (
                tokens[: size // 2] + tokens[size // 2 + 1 :]
            )  # half from the cache: the time is decoding's
            generate(tokens, 1, 120)
            half = time.monotonic()
            generate(tokens, 129, 120)
            ended = time.monotonic()
            again = time.monotonic()
            generate(tokens, 1, 120)
            cached = time.monotonic() - again
            if turn >= 2:
                first.append(middle - begun)
                each.append((ended - half - cached) / 128)
        return {
            "ttft_s": statistics.median(first),
            "ttft_all": first,
            "ms_a_token": 1000 * statistics.median(each),
            "ms_all": [1000 * one for one in each],
        }


def pseudo_random(seed: int, count: int, words: int) -> list[int]:
    return [(seed * 7919 + place * place * 31 + place * 7) % (words - 10) + 5 for place in range(count)]


if __name__ == "__main__":
    main()
