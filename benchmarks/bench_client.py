"""How far the client's times are from the truth, and how fast it reads a stream.

    python benchmarks/bench_client.py [--streams 50] [--body-mb 40] [--tokens 200] [--itl 0.02] [--runs 5] [--json FILE]

A server in a process of its own reads the bodies, answers after a known delay and writes into every event when it
wrote it, on the clock that all processes of a machine share (CLOCK_MONOTONIC). The error of a time is the client's
less the server's: of TTFT against the moment the first token was written, of ITL against the gap between two writes.
The same is shown against the nominal delays, where the server's own lateness is in it.

All streams hold a body in flight at the same time: requests leave at once, and the answers of the first ones stream
while the last ones' bodies are still being sent, the more so in later rounds. Every body is a file of its own.

With --runs the load is run several times, and every figure is the median of the runs'; `runs` in the JSON has them all.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import multiprocessing
import os
import selectors
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from farspan.measurement.http.answer import AnswerTape
from farspan.measurement.http.client import Client, Exchange
from farspan.measurement.http.request_body import FilePiece, RequestBody
from farspan.measurement.http.wire import Api, PromptAs, frame_body

EVENT = (
    b'data: {"id":"cmpl-7f3a","object":"text_completion","created":1700000000,"model":"m","choices":'
    b'[{"index":0,"text":"%s","logprobs":null,"finish_reason":%s,"stop_reason":null}],"usage":null}\n\n'
)
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@dataclass(slots=True)
class Visitor:
    """One connection of the server: how much of its body is to come, and what it is sent when."""

    sock: socket.socket
    left: int | None = None
    head: bytes = b""
    due: list[float] = field(default_factory=list)
    sent: int = 0


class PacedServer:
    """Reads bodies and throws them away, then sends tokens when they are due. One thread, no framework."""

    def __init__(self, ttft_s: float, itl_s: float, tokens: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self._ttft_s, self._itl_s, self._tokens = ttft_s, itl_s, tokens
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.listener, selectors.EVENT_READ, None)
        self._due: list[tuple[float, int, Visitor]] = []
        self._buffer = bytearray(2**20)

    def serve(self) -> None:
        while True:
            wait = self._due[0][0] - time.perf_counter() if self._due else None
            ready = [] if wait is not None and wait <= 0 else self._selector.select(wait)
            for key, _ in ready:
                self._send_due()  # a big read must not make a token late
                if key.data is None:
                    sock, _ = self.listener.accept()
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._selector.register(sock, selectors.EVENT_READ, Visitor(sock))
                else:
                    self._read(key.data)
            self._send_due()

    def _read(self, visitor: Visitor) -> None:
        try:
            count = visitor.sock.recv_into(self._buffer)
        except OSError:
            count = 0
        if not count:
            self._leave(visitor)
            return
        if visitor.left is None:
            visitor.head += self._buffer[:count]
            head, end, rest = visitor.head.partition(b"\r\n\r\n")
            if not end:
                return
            length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            visitor.left = int(length.partition(b":")[2])
            count = len(rest)
        visitor.left -= count
        if visitor.left <= 0:
            # Spread, so that not all streams are due at the same instant.
            read_at = time.perf_counter() + self._ttft_s + (visitor.sock.fileno() % 17) * self._itl_s / 17
            visitor.due = [read_at + i * self._itl_s for i in range(self._tokens)]
            heapq.heappush(self._due, (visitor.due[0], id(visitor), visitor))

    def _send_due(self) -> None:
        while self._due and self._due[0][0] <= time.perf_counter():
            due, _, visitor = heapq.heappop(self._due)
            last = visitor.sent + 1 == self._tokens
            event = EVENT % (
                b" %d/%d" % (time.perf_counter_ns(), round(due * 1e9)),
                b'"length"' if last else b"null",
            )
            data = b"%x\r\n%s\r\n" % (len(event), event)
            if visitor.sent == 0:
                data = HEAD + data
            if last:
                data += b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
            try:
                visitor.sock.sendall(data)
            except OSError:
                self._leave(visitor)
                continue
            visitor.sent += 1
            if not last:
                heapq.heappush(self._due, (visitor.due[visitor.sent], id(visitor), visitor))

    def _leave(self, visitor: Visitor) -> None:
        self._selector.unregister(visitor.sock)
        visitor.sock.close()


def serve_paced(pipe: Pipe, ttft_s: float, itl_s: float, tokens: int) -> None:
    server = PacedServer(ttft_s, itl_s, tokens)
    pipe.send(server.port)
    server.serve()


def write_bodies(folder: Path, streams: int, size: int) -> list[RequestBody]:
    """Write bodies of token ids, every one different, `size` bytes each."""
    before, after = frame_body(Api.COMPLETIONS, model="m", prompt_as=PromptAs.IDS, output_tokens=1)
    bodies = []
    for number in range(streams):
        path = folder / f"{number}.json"
        ids = np.random.default_rng(number).integers(10_000, 99_999, size // 6, dtype=np.int32)
        path.write_bytes(orjson.dumps(ids, option=orjson.OPT_SERIALIZE_NUMPY))
        bodies.append(RequestBody((before, FilePiece(path, path.stat().st_size), after)))
    return bodies


async def load(url: str, bodies: list[RequestBody], rounds: int) -> list[Exchange]:
    """Keep every body's stream busy for so many rounds."""
    found: list[Exchange] = []

    async def keep_asking(client: Client, body: RequestBody) -> None:
        for _ in range(rounds):
            found.append(await client.send(Api.COMPLETIONS, body))

    async with Client(url) as client, asyncio.TaskGroup() as group:
        for body in bodies:
            group.create_task(keep_asking(client, body))
    return found


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors in milliseconds."""

    p50: float
    p99: float
    max: float


def sum_up(errors_s: list[float]) -> Errors:
    values = np.abs(np.asarray(errors_s)) * 1e3
    p50, p99 = np.percentile(values, (50, 99))
    return Errors(round(float(p50), 4), round(float(p99), 4), round(float(values.max()), 4))


def compare(exchanges: list[Exchange]) -> dict[str, Errors]:
    """Hold the client's times against those the server wrote into its events."""
    ttft: list[float] = []
    itl: list[float] = []
    nominal_ttft: list[float] = []
    nominal_itl: list[float] = []
    for exchange in exchanges:
        pairs = [word.split("/") for word in exchange.text.split()]
        wrote = np.array([int(pair[0]) for pair in pairs]) / 1e9
        due = np.array([int(pair[1]) for pair in pairs]) / 1e9
        heard = np.array(exchange.token_times_s) + exchange.started_s
        ttft.append(float(heard[0] - wrote[0]))
        nominal_ttft.append(float(heard[0] - due[0]))
        itl += (np.diff(heard) - np.diff(wrote)).tolist()
        nominal_itl += (np.diff(heard) - np.diff(due)).tolist()
    return {
        "ttft": sum_up(ttft),
        "itl": sum_up(itl),
        "ttft_nominal": sum_up(nominal_ttft),
        "itl_nominal": sum_up(nominal_itl),
    }


def measure_load(options: argparse.Namespace) -> dict[str, Any]:
    """Run the load in this process; its peak RSS is the client's and nobody else's."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        server = context.Process(
            target=serve_paced, args=(there, options.ttft, options.itl, options.tokens), daemon=True
        )
        server.start()
        try:
            port = here.recv()
            bodies = write_bodies(Path(folder), options.streams, round(options.body_mb * 1e6))
            begun = time.perf_counter()
            exchanges = asyncio.run(load(f"http://127.0.0.1:{port}", bodies, options.rounds))
            took = time.perf_counter() - begun
        finally:
            server.kill()
            server.join()
    bad = [exchange for exchange in exchanges if exchange.status != "ok"]
    if bad:
        raise SystemExit(f"{len(bad)} requests failed: {bad[0].error}")
    lags = [exchange.lag for exchange in exchanges if exchange.lag is not None]
    sends = [exchange.bytes_sent_s or 0.0 for exchange in exchanges]
    return {
        "streams": options.streams,
        "body_mb": options.body_mb,
        "requests": len(exchanges),
        "tokens": sum(len(exchange.token_times_s) for exchange in exchanges),
        "seconds": round(took, 2),
        "most_bodies_in_flight": most_at_once(
            [(e.started_s, e.started_s + (e.bytes_sent_s or 0)) for e in exchanges]
        ),
        "bytes_sent_s": {"median": round(statistics.median(sends), 3), "max": round(max(sends), 3)},
        "errors_ms": {name: vars_of(errors) for name, errors in compare(exchanges).items()},
        "client_lag_ms": {
            "p50": round(statistics.median(lag.p50 for lag in lags) * 1e3, 3),
            "p99_worst_stream": round(max(lag.p99 for lag in lags) * 1e3, 3),
        }
        if lags
        else None,
        "peak_rss_mb": read_peak_rss_mb(),
    }


def read_peak_rss_mb() -> int:
    """Return this process's own peak; getrusage's would begin with that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return round(int(kilobytes) * 1024 / 1e6)


def most_at_once(spans: list[tuple[float, float]]) -> int:
    edges = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    most = now = 0
    for _, change in edges:
        now += change
        most = max(most, now)
    return most


def vars_of(errors: Errors) -> dict[str, float]:
    return {"p50": errors.p50, "p99": errors.p99, "max": errors.max}


def measure_parsing(events: int = 10_000, repeats: int = 15) -> dict[str, Any]:
    """Time taking in and decoding whole streams, as vLLM sends completions and chats; JSON included."""
    words = ["the", " of\\n", ' say \\"', " naïve", " begat", " and"]
    found = {}
    for name, part in (("completions", '"text":"%s"'), ("chat", '"delta":{"content":"%s"}')):
        pattern = (
            'data: {"id":"cmpl-7f3a","object":"o","created":1700000000,"model":"m","choices":'
            '[{"index":0,%s,"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
        )
        stream = [(pattern % (part % words[i % 97 % len(words)])).encode() for i in range(events)]
        stream.append(b"data: [DONE]\n\n")
        walls: list[float] = []
        processor: list[float] = []
        for _ in range(repeats):
            begun, begun_cpu = time.perf_counter(), time.thread_time()
            tape = AnswerTape()
            for number, piece in enumerate(stream):
                tape.add(number * 0.001, piece)
            answer = tape.read()
            walls.append(time.perf_counter() - begun)
            processor.append(time.thread_time() - begun_cpu)
            if len(answer.token_times_s) != events or not answer.done:
                raise SystemExit("the stream was misread")
        found[name] = {
            "median_events_per_s": round(events / statistics.median(walls)),
            "best_events_per_s": round(events / min(walls)),
            "median_events_per_cpu_s": round(events / statistics.median(processor)),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--body-mb", type=float, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ttft", type=float, default=1.0, help="seconds")
    parser.add_argument("--itl", type=float, default=0.02, help="seconds")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where the bodies are written")
    parser.add_argument("--parse-repeats", type=int, default=15)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs = []
    for _ in range(options.runs):
        busy = os.getloadavg()[0]
        runs.append({"load_average_before": busy} | measure_load(options))
        if options.runs > 1:
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    document = {
        "machine": {"cpus": os.cpu_count(), "python": sys.version.split()[0]},
        "load": find_median(runs),
        "runs": runs,
        "parsing": measure_parsing(repeats=options.parse_repeats),
    }
    show(document)
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def find_median(runs: list[Any]) -> Any:
    """Return a document of the runs' shape, every number of it the median of theirs."""
    first = runs[0]
    if isinstance(first, dict):
        return {key: find_median([run[key] for run in runs]) for key in first}
    return first if len(set(runs)) == 1 else statistics.median(runs)


def show(document: dict[str, Any]) -> None:
    measured = document["load"]
    print(
        f"{measured['requests']:g} requests on {measured['streams']:g} streams, {measured['body_mb']:g} MB each,"
        f" {measured['tokens']:g} tokens in {measured['seconds']:.1f} s;"
        f" up to {measured['most_bodies_in_flight']:g} bodies in flight; peak RSS {measured['peak_rss_mb']:g} MB;"
        f" load average before {measured['load_average_before']:.1f}; {len(document['runs'])} runs"
    )
    print(f"{'error, ms':<16}{'p50':>10}{'p99':>10}{'max':>10}")
    for name, errors in measured["errors_ms"].items():
        print(f"{name:<16}{errors['p50']:>10.3f}{errors['p99']:>10.3f}{errors['max']:>10.3f}")
    print(f"client lag, ms: {measured['client_lag_ms']}; bytes sent, s: {measured['bytes_sent_s']}")
    for name, rate in document["parsing"].items():
        print(
            f"{name}: {rate['median_events_per_s']:,} events/s (median), {rate['best_events_per_s']:,} (best),"
            f" {rate['median_events_per_cpu_s']:,} a second of processor time (median)"
        )


if __name__ == "__main__":
    main()
