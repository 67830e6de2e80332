"""Soak of the built-in server: random good and bad clients, on a device that refuses memory at random.

    python benchmarks/soak.py [--duration 1800] [--seed 0] [--most-free-mib 1024] [--refusals 0.6] [-o soak.json]

Afterwards: every answer was right or refused for want of memory, nothing leaks (memory, files, threads, processes),
the memory of the process is within 10 % of what it was after the first minute, every gauge is zero, the cache's books
balance and the server ends in good order. Exit code 1 says that something was not so. Everything stays on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from farspan.models.probe import write_probe
from soak_clients import Clients, Tally

MIB = 2**20
CHUNK = 256
MAX_MODEL_LEN = 16_384
LONGEST_PROMPT = 4_000
WARM_UP_S = 60.0
DRAIN_S = 60.0
HEALTH_EVERY_S = 0.25
RSS_EVERY = 40  # health checks
ENGINE = str(Path(__file__).with_name("soak_server.py"))  # the server, and again the process of its engine
# At rest these are zero. Mapped memory is not among them: a little is kept for the next request.
GAUGES = (
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "kv_cache_used_bytes",
    "kv_cache_promised_bytes",
    "kv_cache_tokens",
    "kv_cache_cached_tokens",
    "kv_cache_host_tokens",
    "kv_cache_host_bytes",
)
# A server of one line, in a process of its own that has nothing else to do.
CONTROL = """
import asyncio
async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
    writer.close()
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(f"on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@dataclass(frozen=True)
class AtRest:
    """What a server and its engine hold when nothing is asked of them."""

    rss_bytes: int
    files: int
    threads: int
    mapped_bytes: float
    gauges: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--duration", type=float, default=1800.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=6, help="requests at once")
    parser.add_argument(
        "--most-free-mib", type=int, default=1024, help="the most memory the device says is free"
    )
    parser.add_argument(
        "--refusals", type=float, default=0.6, help="the greatest share of its calls it refuses"
    )
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        folder = write_probe(
            Path(home) / "probe", num_attention_heads=4, num_key_value_heads=2, attention_chunk_size=CHUNK
        ).folder
        device = (arguments.most_free_mib, arguments.refusals)
        result, wrong = soak(folder, arguments.duration, arguments.seed, arguments.clients, device)
    print(json.dumps(result, indent=1))
    for line in wrong:
        print(f"soak: {line}", file=sys.stderr)
    if arguments.output:
        arguments.output.write_text(json.dumps({**result, "wrong": wrong}, indent=1) + "\n")
    sys.exit(1 if wrong else 0)


def soak(
    folder: Path, duration: float, seed: int, at_once: int, device: tuple[int, float]
) -> tuple[dict[str, object], list[str]]:
    """Run a server under random clients; return the figures, and what was not as it should be.

    Args:
        folder: The checkpoint.
        duration: Seconds.
        seed: Decides what is sent, and what the device refuses.
        at_once: Requests at once.
        device: The most memory it says is free, MiB, and the greatest share of calls it refuses.
    """
    log = folder.parent / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                sys.executable,
                ENGINE,
                *map(str, (seed, *device, folder)),
                *("--port", "0", "--max-model-len", str(MAX_MODEL_LEN)),
                *("--max-num-batched-tokens", "512", "--kv-host-gib", "0.03", "--kv-quiet-s", "2"),
            ],
            stdout=subprocess.PIPE,
            stderr=output,
        )
    control = subprocess.Popen([sys.executable, "-c", CONTROL], stdout=subprocess.PIPE)
    try:
        url = _address(server)
        clients = Clients(url, seed, CHUNK, LONGEST_PROMPT)
        watch = Watch(url, _address(control), server.pid)
        start, end = asyncio.run(_drive(clients, watch, duration, at_once))
    finally:
        control.kill()
        control.wait()
        server.send_signal(signal.SIGTERM)
        try:
            code = server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
            code = server.wait()
    text = log.read_text(errors="replace")
    wrong = _faults(clients.tally, start, end, watch.health, code, text)
    figures = {
        "seconds": duration,
        "seed": seed,
        "most_free_mib": device[0],
        "refusals": device[1],
        **_figures(clients.tally, start, end, code, text),
        **_times("health", watch.health),
        **_times("control", watch.control),
        "rss_mib_over_time": watch.memory,
    }
    return figures, wrong


async def _drive(clients: Clients, watch: Watch, duration: float, at_once: int) -> tuple[AtRest, AtRest]:
    clock = asyncio.get_running_loop().time
    warm_up = min(WARM_UP_S, duration / 4)
    await clients.run(clock() + warm_up, at_once)
    start = await _at_rest(watch.url, watch.pid)
    watch.thread.start()
    try:
        await clients.run(clock() + duration - warm_up, at_once)
    finally:
        watch.done.set()
        watch.thread.join()
    return start, await _at_rest(watch.url, watch.pid)


class Watch:
    """Asks for /health again and again, and a server that does nothing else, and notes the memory now and then.

    Args:
        url: The server's address.
        control_url: The other's: what it takes long for, the machine is to blame for.
        pid: The server's process.
    """

    def __init__(self, url: str, control_url: str, pid: int) -> None:
        self.url = url
        self.pid = pid
        self.processes = _server_and_engine(pid)
        self.health: list[float] = []
        self.control: list[float] = []
        self.memory: list[int] = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(control_url,))

    def _run(self, control_url: str) -> None:
        while not self.done.wait(HEALTH_EVERY_S):
            self.health.append(_time_health(self.url))
            self.control.append(_time_health(control_url))
            if len(self.health) % RSS_EVERY == 0:
                self.memory.append(round(sum(one.memory_info().rss for one in self.processes) / MIB))


def _time_health(url: str) -> float:
    """Ask for /health as a probe does, on a connection of its own; return the seconds, infinite without a 200."""
    address = urlsplit(url)
    started = time.monotonic()
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except OSError:
        status = 0
    finally:
        connection.close()
    return time.monotonic() - started if status == 200 else float("inf")


async def _at_rest(url: str, pid: int) -> AtRest:
    """Wait until all gauges are zero, at most a minute, and return what the server holds."""
    processes = _server_and_engine(pid)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        for _ in range(int(DRAIN_S)):
            await client.post("/reset_prefix_cache")
            await asyncio.sleep(1)
            gauges = _gauges((await client.get("/metrics")).text)
            if not any(gauges[name] for name in GAUGES):
                break
    await asyncio.sleep(15)  # memory that is no longer used goes back after two quiet seconds
    gauges = _gauges((httpx.get(f"{url}/metrics", timeout=30)).text)
    return AtRest(
        sum(process.memory_info().rss for process in processes),
        sum(process.num_fds() for process in processes),
        sum(process.num_threads() for process in processes),
        gauges["kv_cache_mapped_bytes"],
        {name: gauges[name] for name in GAUGES},
    )


def _server_and_engine(pid: int) -> list[psutil.Process]:
    """Return the two processes that live as long as the server; those that read texts come and go."""
    server = psutil.Process(pid)
    engines = [
        child
        for child in server.children()
        if child.status() != psutil.STATUS_ZOMBIE and ENGINE in child.cmdline()
    ]
    assert len(engines) == 1, "a server has one engine"
    return [server, *engines]


def _gauges(text: str) -> dict[str, float]:
    return {
        sample.name.removeprefix("farspan:"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.type == "gauge"
    }


def _faults(tally: Tally, start: AtRest, end: AtRest, health: list[float], code: int, log: str) -> list[str]:
    faults = list(tally.wrong)
    outcomes = tally.outcomes
    if outcomes["answered right"] < outcomes["refused: no memory"]:
        faults.append(f"more requests were refused than answered: {dict(outcomes)}")
    if end.rss_bytes > 1.1 * start.rss_bytes:
        faults.append(f"the process grew from {start.rss_bytes / MIB:.0f} to {end.rss_bytes / MIB:.0f} MiB")
    if end.files > start.files + 2 or end.threads > start.threads + 2:
        faults.append(f"files {start.files} to {end.files}, threads {start.threads} to {end.threads}")
    faults += [f"{name} is {value} at rest" for name, value in end.gauges.items() if value]
    if max(health, default=0) == float("inf"):
        faults.append("/health did not say 200")
    if code not in (0, -signal.SIGTERM):
        faults.append(f"the server ended with {code}")
    if "the KV cache's books balance" not in log:
        faults.append(f"the KV cache's books do not balance: {log[-1000:]}")
    faults += [f"in the log: {line}" for line in re.findall(r".*the engine failed$", log, re.MULTILINE)]
    return faults


def _figures(tally: Tally, start: AtRest, end: AtRest, code: int, log: str) -> dict[str, object]:
    return {
        "cpus": os.cpu_count(),
        "outcomes": dict(sorted(tally.outcomes.items())),
        "rss_start_mib": round(start.rss_bytes / MIB, 1),
        "rss_end_mib": round(end.rss_bytes / MIB, 1),
        "files": [start.files, end.files],
        "threads": [start.threads, end.threads],
        "kv_mapped_mib": [round(start.mapped_bytes / MIB, 1), round(end.mapped_bytes / MIB, 1)],
        "memory_refusals": int((re.findall(r"soak: (\d+) refusals", log) or [0])[-1]),
        "exit_code": code,
    }


def _times(name: str, seconds: list[float]) -> dict[str, object]:
    ordered = sorted(seconds)
    if not ordered:
        return {}
    return {
        f"{name}_checks": len(ordered),
        f"{name}_median_s": round(ordered[len(ordered) // 2], 4),
        f"{name}_p99_s": round(ordered[int(len(ordered) * 0.99)], 4),
        f"{name}_worst_s": round(ordered[-1], 4),
    }


def _address(server: subprocess.Popen[bytes]) -> str:
    assert server.stdout is not None
    line = server.stdout.readline().decode()
    match = re.search(r"http://\S+:\d+", line)
    assert match, f"the server said {line!r}"
    return match.group()


if __name__ == "__main__":
    main()
