"""How fast the doctor reads, in MB/s on one core: eight mixes of lines, from easy to hostile.

    python benchmarks/doctor.py [--megabytes 200] [--repeats 5] [--output doctor.json]

The log is made in memory and fed in pieces of 1 MiB, as a file or pipe is. CPU time of the process, the best of the
repeats; the peak of the resident memory is of the whole run.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import time
from collections.abc import Iterator
from itertools import chain, cycle, islice
from pathlib import Path

from farspan.diagnosis.diagnose import Doctor
from farspan.diagnosis.log_reader import LogReader

PIECE = 1 << 20
REAL = Path(__file__).resolve().parents[1] / "tests" / "evidence" / "real"
STARTS = ("vllm-0.24.0-scout-shard.log", "sglang-0.5.16-scout-shard-ok.log")
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,:=_-/"


def clock(second: int) -> str:
    return f"11-22 {second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"


def access(dice: random.Random, status: str = "200 OK") -> str:
    address = f"10.0.{dice.randrange(256)}.{dice.randrange(256)}:{dice.randrange(1024, 65536)}"
    path = dice.choice(("/v1/completions", "/v1/chat/completions", "/health", "/metrics"))
    return f'(APIServer pid=811) INFO:     {address} - "POST {path} HTTP/1.1" {status}'


def throughput(dice: random.Random, second: int) -> str:
    return (
        f"(APIServer pid=811) INFO {clock(second)} [loggers.py:273] Engine 000: Avg prompt throughput: "
        f"{dice.uniform(0, 9000):.1f} tokens/s, Avg generation throughput: {dice.uniform(0, 900):.1f} tokens/s, "
        f"Running: {dice.randrange(1, 64)} reqs, Waiting: {dice.randrange(9)} reqs, GPU KV cache usage: "
        f"{dice.uniform(0, 100):.1f}%, Prefix cache hit rate: {dice.uniform(0, 100):.1f}%"
    )


def request(dice: random.Random, second: int) -> str:
    return (
        f"(APIServer pid=811) INFO {clock(second)} [logger.py:40] Received request "
        f"cmpl-{dice.randrange(1 << 60):x}: prompt: "
        f"{''.join(dice.choices(LETTERS, k=60))!r}, params: SamplingParams(n=1, temperature=0.0, max_tokens=200)"
    )


def busy(dice: random.Random, lines: int) -> Iterator[str]:
    """Twenty requests a second and a throughput line every ten seconds; one in a hundred is refused."""
    for number in range(lines):
        if number % 201 == 200:
            yield throughput(dice, number // 20)
        else:
            yield access(dice, "404 Not Found" if dice.random() < 0.01 else "200 OK")


def busy_sglang(dice: random.Random, lines: int) -> Iterator[str]:
    """SGLang the same: ten requests, a prefill batch and a decode batch every half second."""
    for number in range(lines):
        stamp = f"2026-11-22 {number // 86400 % 24:02}:{number // 1440 % 60:02}:{number // 24 % 60:02}"
        kind = number % 12
        if kind == 11:
            yield (
                f"[{stamp} TP0] Prefill batch, #new-seq: 1, #new-token: {dice.randrange(8192)}, #cached-token: 0, "
                f"full token usage: {dice.random():.2f}, swa token usage: {dice.random():.2f}, #running-req: 3, "
                f"#queue-req: 0, #pending-token: 0, cuda graph: False, "
                f"input throughput (token/s): {dice.uniform(0, 9e3):.2f}"
            )
        elif kind == 10:
            yield (
                f"[{stamp} TP0] Decode batch, #running-req: {dice.randrange(9)}, #full token: {dice.randrange(10**7)}, "
                f"full token usage: {dice.random():.2f}, cuda graph: True, gen throughput (token/s): "
                f"{dice.uniform(0, 90):.2f}, #queue-req: 0, "
            )
        else:
            yield f"[{stamp}] {access(dice).partition(') ')[2]}"


def served(dice: random.Random, lines: int) -> Iterator[str]:
    """Ten requests between two throughput lines, one of them logged with its prompt, a few refused."""
    for number in range(lines):
        kind = number % 12
        if kind == 11:
            yield throughput(dice, number)
        elif kind == 10:
            yield request(dice, number)
        elif kind == 9 and dice.random() < 0.3:
            yield access(dice, "404 Not Found")
        else:
            yield access(dice)


def chatty(dice: random.Random, lines: int) -> Iterator[str]:
    """One throughput line for every access line, a third of all lines of the SGLang kind."""
    for number in range(lines):
        kind = number % 3
        if kind == 0:
            yield throughput(dice, number)
        elif kind == 1:
            yield access(dice)
        else:
            yield (
                f"[2026-11-22 20:{number // 60 % 60:02}:{number % 60:02} TP0] Decode batch, #running-req: 1, #token: "
                f"{number}, token usage: 0.05, cuda graph: True, gen throughput (token/s): {dice.uniform(0, 90):.2f}, "
                "#queue-req: 0, "
            )


def random_text(dice: random.Random, lines: int) -> Iterator[str]:
    """No line like another, none of them known."""
    for _ in range(lines):
        yield "".join(dice.choices(LETTERS, k=dice.randrange(40, 300)))


def all_errors(dice: random.Random, lines: int) -> Iterator[str]:
    """Every line an error of a new shape, with tracebacks of many processes."""
    for number in range(lines):
        word = "".join(dice.choices(LETTERS[:26], k=12))
        prefix = f"(Worker_TP{number % 8} pid=9) ERROR {clock(number)} [multiproc_executor.py:822]"
        yield dice.choice(
            (
                f"{prefix} ValueError: {word} failed",
                f'{prefix}   File "{word}.py", line 3',
                f"(EngineCore pid=8) WARNING {clock(number)} [core.py:1] {word} is deprecated",
            )
        )


def one_warning(dice: random.Random, lines: int) -> Iterator[str]:
    """The same warning over and over, its figures changing."""
    for number in range(lines):
        yield (
            f"(EngineCore pid=812) WARNING {clock(number)} [scheduler.py:{dice.randrange(999)}] Request "
            f"{dice.randrange(10**6)} is preempted by recompute: not enough KV cache space, total {number} times"
        )


def starts(dice: random.Random, lines: int) -> Iterator[str]:
    """Two servers, one after the other, that start, serve one request, end, and are started again: real logs."""
    del dice
    # Progress bars keep their carriage returns.
    logs = [(REAL / name).read_bytes().decode().removesuffix("\n").split("\n") for name in STARTS]
    yield from islice(cycle(chain.from_iterable(logs)), lines)


MIXES = {
    "busy": busy,
    "busy SGLang": busy_sglang,
    "served": served,
    "chatty": chatty,
    "random text": random_text,
    "one warning": one_warning,
    "starts": starts,
    "all errors": all_errors,
}
SLOW = ("random text", "starts", "all errors")


def measure(log: bytes, megabytes: int) -> tuple[float, float]:
    """MB/s (10^6) by CPU time and by wall time."""
    reader, doctor = LogReader(), Doctor()
    rounds = max(1, round(megabytes * 1e6 / len(log)))
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(rounds):
        for at in range(0, len(log), PIECE):
            doctor.feed(reader.feed(log[at : at + PIECE]))
    doctor.feed(reader.close())
    doctor.report()
    size = rounds * len(log) / 1e6
    return size / (time.process_time() - cpu), size / (time.perf_counter() - wall)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for name, make in MIXES.items():
        log = ("\n".join(make(random.Random(1), 60_000)) + "\n").encode()
        megabytes = max(options.megabytes // 10, 10) if name in SLOW else options.megabytes
        speeds = [measure(log, megabytes) for _ in range(options.repeats)]
        best = max(speeds)
        rows.append(
            {"mix": name, "bytes_per_line": len(log) / 60_000, "cpu_mb_s": best[0], "wall_mb_s": best[1]}
        )
        print(
            f"{name:<12} {len(log) / 60_000:6.0f} B a line  {best[0]:7.1f} MB/s (CPU)  {best[1]:7.1f} MB/s (wall)"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak resident memory {peak:.0f} MiB, Python {platform.python_version()}")
    if options.output:
        options.output.write_text(json.dumps({"rows": rows, "peak_rss_mib": peak}, indent=2))


if __name__ == "__main__":
    main()
