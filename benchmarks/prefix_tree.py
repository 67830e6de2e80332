"""What a prefix tree costs: a long prompt stored chunk by chunk or at once, looked up, and many short ones.

    python benchmarks/prefix_tree.py --tokens 10M --chunk 8192 [--page-size 1,64] [--prompts 100k] [--json [FILE]]
    python benchmarks/prefix_tree.py --peer sglang [--sglang-path .sglang-0.5.23 --sglang-path ...]

`make .sglang-0.5.23/.ready .sglang-0.5.6.post2/.ready` unpacks the releases; without --sglang-path those in the current
folder are taken. Their tree imports torch, numpy and msgspec, which the Python given by
--sglang-python must have (the one running this unless said otherwise). Each tree runs in a process of its own, on one
core. Stored memory is the growth of the resident set, over four bytes for each token and each index. CPU seconds stand
beside wall seconds: on a machine with other work the first are the fairer ones.

Storing chunk by chunk takes SGLang's trees more than linear time, so they start at 250k tokens and the length doubles
while the next run should end within --peer-seconds (it is expected to take eight times the last). For the full
length give --peer-seconds 100000: hours.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from farspan.sizes import parse_token_list, parse_tokens
from prefix_subjects import SUBJECTS, Farspan, Subject, make, release

VOCABULARY = 200_000
FIRST_PEER_LENGTH = 250_000
SHARED = 100  # different beginnings among the short prompts, each half a prompt long


def resident() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


def random_tokens(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, count, dtype=np.int32)


def chunked(subject: Subject, tokens: int, chunk: int) -> dict[str, Any]:
    """Store a prompt chunk by chunk."""
    subject.fresh()
    whole = tokens // subject.page_size * subject.page_size
    subject.open(subject.tokens(random_tokens(tokens, 0)), subject.pages(0, whole))
    before = resident()
    seconds = []
    busy = time.process_time()
    for start in range(0, whole, chunk):
        began = time.perf_counter()
        subject.chunk(min(whole, start + chunk))
        seconds.append(time.perf_counter() - began)
    busy = time.process_time() - busy
    grown = resident() - before
    tenth = max(1, len(seconds) // 10)
    return {
        "tokens": tokens,
        "seconds": sum(seconds),
        "cpu_seconds": busy,
        "first_tenth_ms_a_chunk": 1e3 * sum(seconds[:tenth]) / tenth,
        "last_tenth_ms_a_chunk": 1e3 * sum(seconds[-tenth:]) / tenth,
        "stored_bytes": grown,
        "stored_over_payload": grown / (4 * (whole + whole // subject.page_size)),
    }


def at_once(subject: Subject, tokens: int, repeats: int = 5) -> dict[str, Any]:
    """Store a prompt in one go and look all of it up: the best of some repeats, wall and CPU time."""
    ids = random_tokens(tokens, 0)
    whole = tokens // subject.page_size * subject.page_size
    pages = subject.pages(0, whole)
    insert: list[tuple[float, float]] = []
    for _ in range(repeats):
        subject.fresh()
        prompt = subject.tokens(ids)
        gc.collect()
        insert.append(timed(lambda prompt=prompt: subject.insert(prompt, pages))[0])
    other = subject.tokens(ids)  # equal, not the same object
    looks = {"match": subject.match}
    if isinstance(subject, Farspan):
        looks["match_pieces"] = subject.match_pieces
    result = {"tokens": tokens} | best("insert", insert)
    for name, look in looks.items():
        times = []
        for _ in range(repeats):
            took, found = timed(lambda look=look: look(other))
            assert found == whole, f"{found} of {whole} tokens found"
            times.append(took)
        result |= best(name, times)
    return result


def timed(work: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """Wall and CPU milliseconds of some work, and what it returns."""
    wall, busy = time.perf_counter(), time.process_time()
    answer = work()
    return (1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - busy)), answer


def best(name: str, times: list[tuple[float, float]]) -> dict[str, float]:
    return {f"{name}_ms": min(wall for wall, _ in times), f"{name}_cpu_ms": min(cpu for _, cpu in times)}


def short(subject: Subject, prompts: int, length: int) -> dict[str, Any]:
    """Look up, then store many prompts whose first halves are shared; then look all of them up again. CPU time."""
    subject.fresh()
    half = length // 2 // subject.page_size * subject.page_size
    beginnings = [random_tokens(half, 1000 + index) for index in range(SHARED)]

    def prompt(index: int) -> Any:
        rest = random_tokens(length - half, 10_000 + index)
        return subject.tokens(np.concatenate([beginnings[index % SHARED], rest]))

    whole = length // subject.page_size * subject.page_size
    pages = [subject.pages(0, whole)] * 2
    before, store, look, hit = resident(), 0.0, 0.0, 0
    for index in range(prompts):
        ids = prompt(index)
        began = time.process_time()
        hit += subject.match(ids)
        subject.insert(ids, pages[index % 2])
        store += time.process_time() - began
        del ids
    grown = resident() - before
    for index in range(prompts):
        ids = prompt(index)
        began = time.process_time()
        found = subject.match(ids)
        look += time.process_time() - began
        assert found == whole, f"{found} of {whole} tokens found"
    stored = min(prompts, SHARED) * half + prompts * (whole - half)
    return {
        "prompts": prompts,
        "prompt_tokens": length,
        "hit_tokens": hit,
        "match_and_insert_us": 1e6 * store / prompts,
        "match_us": 1e6 * look / prompts,
        "stored_bytes": grown,
        "stored_over_payload": grown / (4 * (stored + stored // subject.page_size)),
    }


def lengths(subject: str, tokens: int, budget: float) -> Generator[int, float, None]:
    """The lengths to store chunk by chunk; send each run's seconds."""
    if subject == "farspan":
        for share in (8, 4, 2, 1):
            yield tokens // share
        return
    length = min(tokens, FIRST_PEER_LENGTH)
    while True:
        seconds = yield length
        if length == tokens or 8 * seconds > budget:
            return
        length = min(tokens, 2 * length)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Run one subject through everything; in a process of its own."""
    subject = make(job["subject"], job["page_size"], job["folder"])
    subject.fresh()
    # What is set up once, on first use, is not the tree's.
    chunked(subject, 4 * job["chunk"], job["chunk"])
    runs: list[dict[str, Any]] = []
    plan = lengths(job["subject"], job["tokens"], job["peer_seconds"])
    length = next(plan)
    while True:
        runs.append(chunked(subject, length, job["chunk"]))
        print(f"{job['subject']} page {job['page_size']}: {runs[-1]}", file=sys.stderr, flush=True)
        try:
            length = plan.send(runs[-1]["cpu_seconds"])
        except StopIteration:
            break
    result = {"subject": job["subject"], "page_size": job["page_size"], "chunked": runs}
    result["at_once"] = at_once(subject, job["tokens"])
    if job["prompts"]:
        result["short"] = short(subject, job["prompts"], job["prompt_tokens"])
    return result


def in_process(python: str, job: dict[str, Any]) -> dict[str, Any]:
    source = str(Path(__file__).resolve().parent.parent / "src")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    command = [python, __file__, "--worker", json.dumps(job)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{job['subject']} failed; its last words are above")
    return json.loads(done.stdout.splitlines()[-1])


def print_table(results: list[dict[str, Any]]) -> None:
    def rows(
        title: str, columns: dict[str, tuple[str, str]], runs: list[tuple[dict[str, Any], dict[str, Any]]]
    ) -> None:
        print(f"\n{title:<22} {'page':>4} " + " ".join(f"{name:>9}" for name in columns))
        for result, run in runs:
            cells = [format(run[key], form) if key in run else "" for key, form in columns.values()]
            print(f"{result['subject']:<22} {result['page_size']:>4} " + " ".join(f"{c:>9}" for c in cells))

    chunks = {
        "tokens": ("tokens", ","),
        "seconds": ("seconds", ".3f"),
        "CPU s": ("cpu_seconds", ".3f"),
        "ms first": ("first_tenth_ms_a_chunk", ".3f"),
        "ms last": ("last_tenth_ms_a_chunk", ".3f"),
        "memory x": ("stored_over_payload", ".2f"),
    }
    rows("chunk by chunk", chunks, [(result, run) for result in results for run in result["chunked"]])
    once = {
        "tokens": ("tokens", ","),
        "insert ms": ("insert_ms", ".1f"),
        "CPU ms": ("insert_cpu_ms", ".1f"),
        "match ms": ("match_ms", ".1f"),
        "cpu ms": ("match_cpu_ms", ".1f"),
        "in pieces": ("match_pieces_ms", ".1f"),
    }
    rows("at once, best", once, [(result, result["at_once"]) for result in results])
    many = {
        "prompts": ("prompts", ","),
        "store us": ("match_and_insert_us", ".1f"),
        "match us": ("match_us", ".1f"),
        "memory x": ("stored_over_payload", ".2f"),
    }
    rows("short prompts, CPU", many, [(r, r["short"]) for r in results if "short" in r])


def count(text: str) -> int:
    return 0 if text == "0" else parse_tokens(text)


def find_releases(paths: list[Path]) -> dict[str, Path]:
    """Map releases to the folders that hold them, which are named after them."""
    found = {}
    for path in paths:
        versions = [release(name) for name in SUBJECTS if release(name) and release(name) in path.name]
        if not versions or not (path / "sglang").is_dir():
            raise SystemExit(f"{path} is no unpacked SGLang release; make .sglang-0.5.23/.ready unpacks one")
        found[versions[0]] = path.resolve()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=parse_tokens, default=10_000_000)
    parser.add_argument("--chunk", type=parse_tokens, default=8192)
    parser.add_argument("--page-size", type=parse_token_list, default=(1, 64))
    parser.add_argument("--prompts", type=count, default=100_000, help="0: leave the short prompts out")
    parser.add_argument("--prompt-tokens", type=parse_tokens, default=1000)
    parser.add_argument("--peer", choices=["sglang"])
    parser.add_argument("--sglang-path", type=Path, action="append", default=[])
    parser.add_argument("--sglang-python", default=sys.executable)
    parser.add_argument("--peer-seconds", type=float, default=60.0)
    parser.add_argument("--json", nargs="?", const="-", help="print JSON, or write it to a file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        answers, sys.stdout = sys.stdout, sys.stderr
        print(json.dumps(measure(json.loads(options.worker))), file=answers)
        return
    if options.peer and not options.sglang_path:
        options.sglang_path = sorted(Path.cwd().glob(".sglang-*"))
    if any(options.chunk % size for size in options.page_size):
        raise SystemExit("--chunk must be a multiple of every --page-size")
    folders = find_releases([p for p in options.sglang_path if any(release(n) in p.name for n in SUBJECTS)])
    subjects = [name for name in SUBJECTS if name == "farspan" or (options.peer and release(name) in folders)]
    results = []
    for size in options.page_size:
        for name in subjects:
            job = {
                "subject": name,
                "page_size": size,
                "folder": str(folders.get(release(name), "")),
                "tokens": options.tokens,
                "chunk": options.chunk,
                "prompts": options.prompts,
                "prompt_tokens": options.prompt_tokens,
                "peer_seconds": options.peer_seconds,
            }
            results.append(in_process(sys.executable if name == "farspan" else options.sglang_python, job))
    report = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "trees": results,
    }
    if options.json == "-":
        print(json.dumps(report, indent=2))
        return
    print_table(results)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
