"""Two servers on one GPU, load moving from one to the other: a shared budget beside two fixed halves.

    python benchmarks/kv_budget.py [--engine builtin|sglang] [--site SITE] [--device cuda] [-o OUT.json] [--logs FOLDER]

Each server answers questions about the same documents, again and again, in a fixed order. A prefix cache as large as
the whole limit keeps all documents, one of half that size none that is asked for again in time: what is measured is
requests answered while the load is on the first server, and then on the second. Halves are made with `farspan kv
limit` on the same two servers, so that nothing else differs. Then the limit is halved, and memory trimmed, while
requests are under way. Steps that fail are noted, and the rest goes on. With `--engine sglang`, SITE is a folder with
SGLang 0.5.16's packages.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import farspan
from farspan.errors import FarspanError
from farspan.models.probe import vocabulary, write_probe
from farspan.sizes import format_bytes, parse_tokens
from sglang_plugin import gpu_bytes, plugin_site, recall, stop

NAMES = ("a", "b")
PORTS = (31_881, 31_882)
SGLANG_FLAGS = (
    "--attention-backend triton --disable-cuda-graph --skip-server-warmup --mem-fraction-static 0.4"
)


@dataclass
class Servers:
    """The two servers, and what asks them."""

    arguments: argparse.Namespace
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    documents: list[list[int]] = field(default_factory=list)

    def ask(self, server: int, document: int, question: int) -> dict[str, Any]:
        """Ask one question about a document; say how long it took, and what was cached."""
        words = vocabulary()
        rest = np.random.default_rng(question).integers(100, len(words.tokens) - 100, 16).tolist()
        body = {
            "model": NAMES[server],
            "prompt": self.documents[document] + rest,
            "max_tokens": 8,
            "temperature": 0,
            "ignore_eos": True,
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORTS[server]}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        begun = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                usage = json.load(response)["usage"]
        except urllib.error.HTTPError as error:
            return {"error": f"{error.code} {error.read(300).decode('utf-8', 'replace')}"}
        except (OSError, ValueError, KeyError) as error:
            return {"error": str(error)}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        return {
            "seconds": time.monotonic() - begun,
            "at": begun,
            "cached": cached,
            "tokens": usage["prompt_tokens"],
        }

    def load(self, server: int, seconds: float, beside: Callable[[], None] | None = None) -> dict[str, Any]:
        """Ask one server about all documents in turn, a few requests at a time; `beside` is done meanwhile."""
        until = time.monotonic() + seconds
        turn = iter(range(10**9))
        lock = threading.Lock()
        answers: list[dict[str, Any]] = []
        series: list[dict[str, Any]] = []
        over = threading.Event()

        def work() -> None:
            while time.monotonic() < until:
                with lock:
                    number = next(turn)
                answer = self.ask(server, number % len(self.documents), number)
                with lock:
                    answers.append(answer)

        def watch() -> None:
            begun = time.monotonic()
            while not over.wait(0.2):
                series.append({"seconds": round(time.monotonic() - begun, 2)} | held())

        watcher = threading.Thread(target=watch)
        watcher.start()
        begun = time.monotonic()
        with ThreadPoolExecutor(self.arguments.concurrency) as pool:
            workers = [pool.submit(work) for _ in range(self.arguments.concurrency)]
            if beside is not None:
                time.sleep(seconds / 4)
                beside()
            for worker in workers:
                worker.result()
        took = time.monotonic() - begun
        over.set()
        watcher.join()
        good = [answer for answer in answers if "error" not in answer]
        return {
            "requests_per_s": len(good) / took,
            "answered": len(good),
            "failed": [answer["error"] for answer in answers if "error" in answer][:5],
            "seconds_median": statistics.median([answer["seconds"] for answer in good]) if good else None,
            "cached_share": sum(answer["cached"] for answer in good)
            / max(1, sum(answer["tokens"] for answer in good)),
            "most_held": max((one["held"] for one in series), default=0),
            "series": series,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=["builtin", "sglang"], default="builtin")
    parser.add_argument("--site", type=Path, help="folder with SGLang's packages")
    parser.add_argument("--flags", default=SGLANG_FLAGS, help="SGLang's flags")
    parser.add_argument("--device", default="cuda", help="of the built-in server")
    parser.add_argument("--tokens", type=parse_tokens, default=100_000, help="of a document")
    parser.add_argument("--documents", type=int, default=12)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0, help="of load on each server")
    parser.add_argument("--start-s", type=float, default=240.0)
    parser.add_argument("--logs", type=Path, default=Path.cwd())
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    answer: dict[str, Any] = {key: str(value) for key, value in vars(arguments).items()}
    with tempfile.TemporaryDirectory() as home:
        os.environ["FARSPAN_BUDGET_DIR"] = str(Path(home) / "budgets")
        servers = Servers(arguments)
        try:
            start(servers, Path(home))
            measure(servers, answer, arguments)
        finally:
            for process in servers.processes:
                stop(process)
            if arguments.output:
                arguments.output.write_text(json.dumps(answer, indent=1))
    print(table(answer))


def start(servers: Servers, home: Path) -> None:
    """Start both servers and wait until they answer."""
    arguments = servers.arguments
    longest = arguments.tokens + 4096
    sglang = arguments.engine == "sglang"
    model = recall(home) if sglang else write_probe(home / "recall", max_position_embeddings=longest).folder
    paths = [
        plugin_site(home),
        Path(__file__).parents[1] / "src",
        arguments.site,
        os.environ.get("PYTHONPATH"),
    ]
    environment = os.environ | {
        "PYTHONPATH": ":".join(str(path) for path in paths if path),
        "FARSPAN_BUDGET": "shared",
        "FARSPAN_QUIET_S": "60",
    }
    for name, port in zip(NAMES, PORTS, strict=True):
        common = ["--port", str(port), "--served-model-name", name]
        if sglang:
            command = ["sglang.launch_server", "--model-path", str(model), "--context-length", str(longest)]
            command += [
                "--radix-cache-backend",
                "farspan",
                "--enable-cache-report",
                *shlex.split(arguments.flags),
            ]
        else:
            command = ["farspan.builtin", str(model), "--device", arguments.device, "--kv-quiet-s", "60"]
            command += ["--kv-segment-mib", "2"]
            command += ["--max-model-len", str(longest), "--max-num-batched-tokens", "8192"]
        command += common
        with (arguments.logs / f"kv-budget-{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        servers.processes.append(process)
        if sglang:
            time.sleep(5)
    until = time.monotonic() + arguments.start_s
    for port, process in zip(PORTS, servers.processes, strict=True):
        while not is_ready(port):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"a server did not start: see {arguments.logs}/kv-budget-*.log")
            time.sleep(0.5)
    chance = np.random.default_rng(7)
    last = len(vocabulary().tokens) - 100
    servers.documents = [
        chance.integers(100, last, arguments.tokens).tolist() for _ in range(arguments.documents)
    ]


def measure(servers: Servers, answer: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Find out what a document takes; then load beside load, halves and shared; then limit and trim under load."""
    start_held = held()["held"]
    answer["warm_up"] = [servers.ask(server, 0, 1) for server in range(2) for _ in range(2)]
    document = max(1, (held()["held"] - start_held) // 2)
    limit = int(start_held + document * arguments.documents * 1.25)
    answer |= {"document_bytes": document, "start_bytes": start_held, "limit": limit, "gpu_start": gpu()}
    farspan.kv_limit(limit)
    for mode in ("halves", "shared"):
        for name in NAMES:
            farspan.kv_limit(limit // 2 if mode == "halves" else None, server=name)
        forget(arguments.engine)
        answer[mode] = {}
        for index, name in enumerate(NAMES):
            attempt(answer[mode], name, lambda index=index: servers.load(index, arguments.seconds))
            print(mode, name, {k: v for k, v in answer[mode][name].items() if k != "series"}, flush=True)
    notes: dict[str, Any] = answer.setdefault("under_load", {})

    def halve() -> None:
        attempt(notes, "limit", lambda: follow(limit // 2))
        farspan.kv_limit(limit)

    def trim_now() -> None:
        attempt(notes, "trim", trimmed)

    attempt(notes, "load_while_limited", lambda: servers.load(0, arguments.seconds, halve))
    attempt(notes, "load_while_trimmed", lambda: servers.load(1, arguments.seconds, trim_now))
    forget(arguments.engine)
    time.sleep(1)
    attempt(notes, "trim_idle", trimmed)
    answer["gpu_end"] = gpu()


def follow(limit: int) -> dict[str, Any]:
    """Lower the limit of both together; return how long they took to follow it down."""
    before, begun = held(), time.monotonic()
    farspan.kv_limit(limit)
    while (now := held())["held"] > limit and time.monotonic() - begun < 30:
        time.sleep(0.01)
    return {"from": before, "to": now, "limit": limit, "seconds": time.monotonic() - begun}


def trimmed() -> dict[str, Any]:
    before, begun = gpu(), time.monotonic()
    done = farspan.kv_trim()
    return {
        "given_back": done.given_back,
        "late": done.late,
        "seconds": time.monotonic() - begun,
        "gpu_before": before,
        "gpu_after": gpu(),
    }


def attempt(into: dict[str, Any], name: str, step: Callable[[], dict[str, Any]]) -> None:
    """Keep what a step says, or why it failed."""
    try:
        into[name] = step()
    except (FarspanError, OSError, ValueError) as error:
        into[name] = {"error": f"{type(error).__name__}: {error}"}


def held() -> dict[str, Any]:
    """Return the bytes each server holds, and both together; the limit is checked at every look."""
    (budget,) = farspan.kv_status().budgets
    return {"held": budget.held, "limit": budget.limit} | {one.name: one.held for one in budget.servers}


def forget(engine: str) -> None:
    """Have both servers forget their prefixes, and give memory back."""
    path = "flush_cache" if engine == "sglang" else "reset_prefix_cache"
    for port in PORTS:
        try:
            urllib.request.urlopen(
                urllib.request.Request(f"http://127.0.0.1:{port}/{path}", method="POST"), timeout=20
            ).read()
        except OSError as error:
            print("cannot forget:", error, flush=True)
    time.sleep(1)
    farspan.kv_trim()


def gpu() -> int | None:
    try:
        return gpu_bytes()
    except (OSError, subprocess.CalledProcessError):
        return None


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def table(answer: dict[str, Any]) -> str:
    lines = [
        "| load on | memory | requests/s | seconds, median | from the cache | most held, both |",
        "|---|---|---|---|---|---|",
    ]
    for name in NAMES:
        for mode in ("halves", "shared"):
            row = answer.get(mode, {}).get(name, {})
            if row.get("answered"):
                lines.append(
                    f"| {name} | {mode} | {row['requests_per_s']:.2f} | {row['seconds_median']:.3f} | "
                    f"{100 * row['cached_share']:.0f} % | {format_bytes(row['most_held'])} |"
                )
    for step, seen in answer.get("under_load", {}).items():
        lines.append(f"{step}: { {key: value for key, value in seen.items() if key != 'series'} }")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
