"""The reader: the same events however the log is cut, prefixed, coloured or broken."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.diagnosis.examine import examine
from farspan.diagnosis.log_reader import MAX_LINE, LogReader
from farspan.diagnosis.report_text import answer
from farspan.engines.logs.records import (
    Access,
    Arguments,
    Batch,
    EngineVersion,
    Event,
    Figure,
    LogMessage,
    Progress,
    StartPhase,
    Throughput,
    Traffic,
)

REAL = Path(__file__).parents[1] / "evidence" / "real"
LOGS = sorted(REAL.glob("*.log"))


def read(*pieces: bytes) -> list[Event]:
    reader = LogReader()
    return [event for piece in pieces for event in reader.feed(piece)] + reader.close()


def untallied(events: list[Event]) -> list[Event]:
    """Without the tallies of plain successes, which are one a piece."""
    return [event for event in events if not isinstance(event, Traffic)]


def answered(events: list[Event]) -> int:
    return sum(event.answered for event in events if isinstance(event, Traffic))


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
@given(cuts=st.lists(st.integers(0, 30_000), max_size=12))
@settings(max_examples=12)
def test_where_the_stream_is_cut_does_not_matter(path: Path, cuts: list[int]) -> None:
    data = path.read_bytes()
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    pieces = [data[start:stop] for start, stop in itertools.pairwise(edges)]
    whole, cut = read(data), read(*pieces)
    assert untallied(cut) == untallied(whole)
    assert answered(cut) == answered(whole)


def test_byte_by_byte() -> None:
    data = (REAL / "vllm-0.24.0-scout-shard.log").read_bytes()[:6000]
    assert untallied(read(*(data[at : at + 1] for at in range(len(data))))) == untallied(read(data))


LINE = "Model loading took 27.6 GiB memory and 1.046763 seconds"


@pytest.mark.parametrize(
    ("line", "process"),
    [
        ("INFO 11-22 20:00:39 [gpu_model_runner.py:5255] {}", ""),
        ("(EngineCore pid=968) INFO 11-22 20:00:39 [gpu_model_runner.py:5255] {}", "EngineCore"),
        ("(EngineCore_DP0 pid=80) (Worker_TP3 pid=93) INFO 11-22 20:00:39 [x.py:1] {}", "Worker_TP3"),
        ("\x1b[0;36m(Worker_TP0 pid=90)\x1b[0;0m INFO 11-22 20:00:39 [v1/worker/x.py:1] {}", "Worker_TP0"),
        ("(VllmWorker rank=1 pid=7) INFO 11-22 20:00:39 [x.py:1] {}", "VllmWorker"),
        ("(RayWorkerWrapper pid=336, ip=10.99.48.129) INFO 11-22 20:00:39 [x.py:1] {}", "RayWorkerWrapper"),
        ("2026-11-22T20:00:39.123456789Z INFO 11-22 20:00:39 [x.py:1] {}", ""),
        ("2026-11-22T20:00:39.123456789Z stdout F INFO 11-22 20:00:39 [x.py:1] {}", ""),
        ("[pod/scout-0/vllm] 2026-11-22T20:00:39Z (EngineCore pid=9) INFO 11-22 20:00:39 [x.py:1] {}", "EngineCore"),
        ("vllm-1  | INFO 11-22 20:00:39 [x.py:1] {}", ""),
        ("Nov 22 20:00:39 gpu1 vllm[811]: (EngineCore pid=9) INFO 11-22 20:00:39 [x.py:1] {}", "EngineCore"),
        ("INFO 11-22 20:00:39 gpu_model_runner.py:5255] {}", ""),
        ("[rank3]: INFO 11-22 20:00:39 [x.py:1] {}", "rank3"),
        ('{{"log":"INFO 11-22 20:00:39 [x.py:1] {}\\n","stream":"stderr","time":"2026-11-22T20:00:39.5Z"}}', ""),
    ],
)  # fmt: skip
def test_prefixes(line: str, process: str) -> None:
    events = read((line.format(LINE) + "\n").encode())
    progress = next(event for event in events if isinstance(event, Progress))
    assert progress.phase is StartPhase.WEIGHTS
    assert progress.gib == 27.6
    assert progress.done
    assert progress.where.process == process
    assert progress.where.at is not None
    # 20:00:39 of that day, whatever the year.
    assert progress.where.at % 86_400 // 1 == 20 * 3600 + 39


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("INFO 11-22 20:03:02 [k.py:1] GPU KV cache size: 3,919,664 tokens", {"kv_cache_tokens": 3_919_664}),
        (
            "INFO 11-22 20:03:02 [k.py:1] CPU KV cache size: 356,962 tokens, Maximum concurrency for "
            "65,536 tokens per "
            "request: 5.45x",
            {"kv_cache_tokens": 356_962, "max_model_len": 65_536, "max_concurrency": 5.45},
        ),
        (
            "INFO 11-22 20:03:02 [k.py:1] Maximum concurrency for 5,242,880 tokens per request: 0.75x",
            {"max_model_len": 5_242_880, "max_concurrency": 0.75},
        ),
        (
            "INFO 11-22 20:03:02 [c.py:1] init engine (profile, create kv cache, warmup model) took 95.16 seconds",
            {"init_engine_s": 95.16},
        ),
        (
            "INFO 11-22 20:03:02 [c.py:1] init engine (profile, create kv cache, warmup model) took 160.45 s "
            "(compilation: 36.07 s)",
            {"init_engine_s": 160.45},
        ),
        ("INFO 11-22 20:03:02 [m.py:1] torch.compile takes 60.47 s in total", {"compile_s": 60.47}),
        (
            "[2025-12-01 10:00:00 TP3] Load weight end. type=Llama4ForConditionalGeneration, dtype=torch.bfloat16, "
            "avail mem=108.86 GB, mem usage=30.27 GB.",
            {"weights_gib": 30.27},
        ),
        (
            "[2025-12-01 10:00:00 TP3] Capture cuda graph end. Time elapsed: 19.50 s. mem usage=6.19 GB. avail "
            "mem=5.24 GB.",
            {"graphs_s": 19.5, "graphs_gib": 6.19},
        ),
        (
            "[2026-09-01 10:00:00 DP0 TP3 EP3] Capture decode CUDA graph end. elapsed=19.50 s, mem usage=1.19 GB, "
            "avail mem=5.24 GB.",
            {"graphs_s": 19.5, "graphs_gib": 1.19},
        ),
    ],
)
def test_figures_of_each_version(line: str, found: dict[str, float]) -> None:
    assert {event.name: event.value for event in read(line.encode()) if isinstance(event, Figure)} == found


def test_arguments() -> None:
    line = (
        "(APIServer pid=1) INFO 12-02 10:00:00 [utils.py:253] non-default args: {'model': 'm', "
        "'max_model_len': 5242880, "
        "'compilation_config': <CompilationMode.NONE: 0>, 'gpu_memory_utilization': 0.9, 'enforce_eager': True}\n"
    )
    (arguments,) = (event for event in read(line.encode()) if isinstance(event, Arguments))
    assert arguments.values["max_model_len"] == 5_242_880
    assert arguments.values["gpu_memory_utilization"] == 0.9
    assert arguments.values["enforce_eager"] is True
    line = "[2026-01-01 00:00:00] server_args=ServerArgs(model_path='/m', tp_size=8, a=[1, 2], c='x, y=3', b=None)\n"
    (arguments,) = (event for event in read(line.encode()) if isinstance(event, Arguments))
    assert arguments.values == {"model_path": "/m", "tp_size": 8, "c": "x, y=3", "b": None}


def test_versions() -> None:
    for line, version in (
        ("INFO 06-30 13:00:00 [api_server.py:1] vLLM API server version 0.9.1", "0.9.1"),
        (
            "(APIServer pid=1) INFO 11-22 20:00:00 [a.py:339]  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.24.0",
            "0.24.0",
        ),
        (
            "INFO 06-30 13:00:00 [core.py:1] Initializing a V1 LLM engine (v0.12.0) with config: model='m'",
            "0.12.0",
        ),
    ):
        events = [event for event in read(line.encode()) if isinstance(event, EngineVersion)]
        assert (events[0].engine, events[0].version) == ("vllm", version)


def test_progress_of_the_weights() -> None:
    bar = b"".join(
        b"\rLoading safetensors checkpoint shards: %3d%% Completed | %d/50 [00:09<07:37,  9.34s/it]"
        % (2 * n, n)
        for n in range(51)
    )
    events = [event for event in read(b"first\n" + bar + b"\nlast\n") if isinstance(event, Progress)]
    assert [event.percent for event in events] == [2.0 * n for n in range(51)]
    assert {event.where.line for event in events} == {2}


def test_ready_means_answering() -> None:
    """uvicorn starts before SGLang has warmed up: that line alone is not readiness there."""
    uvicorn = "[2026-11-22 20:21:52] INFO:     Application startup complete.\n"
    assert not [event for event in read(uvicorn.encode()) if isinstance(event, Progress)]
    fired = "[2026-11-22 20:21:53] The server is fired up and ready to roll!\n"
    for line in (fired, "INFO:     Application startup complete.\n"):
        (event,) = (event for event in read(line.encode()) if isinstance(event, Progress))
        assert event.phase is StartPhase.READY


def test_throughput_lines_of_all_shapes() -> None:
    lines = (
        "INFO 12-02 10:00:10 [loggers.py:118] Engine 000: Avg prompt throughput: 981184.7 tokens/s, Avg generation "
        "throughput: 9.3 tokens/s, Running: 1 reqs, Waiting: 2 reqs, GPU KV cache usage: 31.3%, "
        "Prefix cache hit rate: 0.0%",
        "2026-01-01T00:00:00Z (APIServer pid=1) INFO 12-02 10:00:20 [loggers.py:1] Engine 001: Avg prompt "
        "throughput: 0.0 "
        "tokens/s, Avg generation throughput: 9.3 tokens/s, Running: 1 reqs, Waiting: 0 reqs, Deferred: 1 reqs, "
        "Preemptions: 3, CPU KV cache usage: 50.0%",
        "\x1b[36m(APIServer pid=1)\x1b[0m INFO 12-02 10:00:30 [loggers.py:1] 2 Engines Aggregated: Avg prompt "
        "throughput: "
        "1.0 tokens/s, Avg generation throughput: 2.0 tokens/s, Running: 1 reqs, Waiting: 0 reqs",
    )
    events = [event for event in read("\n".join(lines).encode()) if isinstance(event, Throughput)]
    assert [event.prompt_tps for event in events] == [981184.7, 0.0, 1.0]
    assert [event.usage for event in events] == pytest.approx([0.313, 0.5, 0.0])
    assert [event.engine for event in events] == ["000", "001", ""]
    assert [event.preemptions for event in events] == [0, 3, 0]
    assert all(event.where.at is not None for event in events)
    assert events[0].where.at is not None
    assert events[0].where.at % 86_400 == 36_010


def test_seconds_are_told_apart_within_a_minute() -> None:
    line = (
        "(APIServer pid=1) INFO 12-02 10:00:{:02} [loggers.py:236] Engine 000: Avg prompt throughput: 1.0 tokens/s, "
        "Avg generation throughput: 0.0 tokens/s, Running: 1 reqs, Waiting: 0 reqs, GPU KV cache usage: 1.0%\n"
    )
    events = read("".join(line.format(second) for second in (0, 9, 10, 59)).encode())
    times = [event.where.at for event in events if isinstance(event, Throughput)]
    assert [at - times[0] for at in times if at is not None and times[0] is not None] == [0, 9, 10, 59]


def test_new_year_does_not_turn_time_back() -> None:
    lines = "INFO 12-31 23:59:59 [a.py:1] Starting to load model m\nINFO 01-01 00:00:01 [a.py:1] " + LINE
    first, second = (event.where.at for event in read(lines.encode()) if isinstance(event, Progress))
    assert first is not None
    assert second is not None
    assert second - first == 2


def test_refused_requests_one_by_one_and_answered_ones_by_count() -> None:
    lines = (
        'INFO:     10.0.0.1:37086 - "GET /health HTTP/1.1" 200 OK\n' * 3
        + '[2026-01-01 00:00:00] INFO:     [2001:db8::7]:41000 - "POST /v1/x HTTP/1.1" 400 Bad Request\n'
        + '\x1b[32mINFO\x1b[0m:     8.8.8.8:1 - "\x1b[1mGET / HTTP/1.1\x1b[0m" \x1b[31m404 Not Found\x1b[0m\n'
        + '\x1b[32mINFO\x1b[0m:     8.8.8.8:1 - "\x1b[1mGET / HTTP/1.1\x1b[0m" \x1b[32m200 OK\x1b[0m\n'
    )
    events = read(lines.encode())
    assert answered(events) == 4
    refused = [event for event in events if isinstance(event, Access)]
    assert [(event.address, event.status, event.where.line) for event in refused] == [
        ("[2001:db8::7]", 400, 4),
        ("8.8.8.8", 404, 5),
    ]
    assert refused[1].request == "GET / HTTP/1.1"


def test_a_line_without_end_is_read_by_its_beginning() -> None:
    reader = LogReader()
    long = b"ERROR 12-02 10:00:00 [a.py:1] RuntimeError: too long " + b"x" * (3 * MAX_LINE)
    events: list[Event] = []
    for at in range(0, len(long), 100_000):
        events += reader.feed(long[at : at + 100_000])
    events += reader.feed(b"\nERROR 12-02 10:00:01 [a.py:1] RuntimeError: next\n")
    events += reader.close()
    messages = [event for event in events if isinstance(event, LogMessage)]
    assert [(message.where.line, len(message.text) < 20_000) for message in messages] == [
        (1, True),
        (2, True),
    ]
    assert reader.lines_read == 2


@pytest.mark.parametrize("piece", [50, 4_096, 1 << 20])
def test_the_same_message_over_and_over_is_counted(piece: int) -> None:
    lines = "".join(f"WARNING 12-02 10:00:00 [a.py:1] slot {number} was lost\n" for number in range(1000))
    log = lines.encode()
    events = read(*(log[at : at + piece] for at in range(0, len(log), piece)))
    messages = [event for event in events if isinstance(event, LogMessage)]
    assert len(messages) == 65
    assert sum(message.times for message in messages) == 1000


def test_a_withheld_message_hides_no_refused_request() -> None:
    """Both have one shape: they differ in digits only."""
    strange = b'1.2.3.4:5 - "ERROR what failed" 4 Not\n'
    refused = b'1.2.3.4:5 - "ERROR what failed" 404 Not\n'
    events = read(strange * 100, refused * 3)
    assert sum(isinstance(event, Access) for event in events) == 3
    assert sum(event.times for event in events if isinstance(event, LogMessage)) == 100


def test_secrets_do_not_become_evidence() -> None:
    token = "hf_" + "a" * 34
    lines = f"ERROR 12-02 10:00:00 [a.py:1] failed with api_key='sk-{'b' * 20}' and {token}\n"
    (message,) = (event for event in read(lines.encode()) if isinstance(event, LogMessage))
    assert token not in message.raw
    assert "b" * 20 not in message.raw


def test_lines_are_counted_by_line_feeds() -> None:
    data = b"a\r\nb\r\n\r\n\rERROR 12-02 10:00:00 [a.py:1] x failed\r\n"
    (message,) = (event for event in read(data) if isinstance(event, LogMessage))
    assert message.where.line == 4


def test_events_are_plain_data() -> None:
    """A readiness view may send them on."""
    events = read((REAL / "vllm-0.24.0-scout-shard.log").read_bytes())
    assert len(json.loads(json.dumps(events, default=bytes.decode))) == len(events) > 20


def test_batch_lines_of_sglang() -> None:
    lines = (
        "[2026-01-05 09:20:00 TP0] Prefill batch, #new-seq: 1, #new-token: 8192, #cached-token: 3, "
        "token usage: 0.55, #running-req: 2, #queue-req: 7, ",
        "[2026-01-05 09:20:01 DP1 TP0] Decode batch, #running-req: 4, #full token: 12, full token usage: 0.30, "
        "#swa token: 9, swa token usage: 0.60, cuda graph: True, gen throughput (token/s): 25.10, #queue-req: 3, ",
        "2026-01-05T09:20:02.5Z \x1b[36m[2026-01-05 09:20:02 TP3]\x1b[0m Prefill batch [17], #new-seq: 1, "
        "#new-token: 5, #cached-token: 0, full token usage: 0.10, mamba usage: 0.20, #running-req: 0, "
        "#queue-req: 0, ",
    )
    events = [event for event in read("\n".join(lines).encode()) if isinstance(event, Batch)]
    assert [tuple(event)[1:] for event in events] == [
        (True, 8192, 3, 2, 7, 0.55, 0.0),
        (False, 0, 0, 4, 3, 0.6, 25.1),
        (True, 5, 0, 0, 0, 0.2, 0.0),
    ]
    assert [event.where.process for event in events] == ["TP0", "DP1 TP0", "TP3"]
    times = [event.where.at for event in events]
    assert times[0] is not None
    assert [at - times[0] for at in times if at is not None] == [0, 1, 2.5]


BUILTIN = """\
2026-11-23T11:40:02.350Z farspan built-in engine: torch 2.13.0+cpu loaded in 2.25 s
2026-11-23T11:40:02.600Z farspan built-in engine: weights of 1.510 GiB loaded in 0.25 s
2026-11-23T11:40:03.600Z farspan built-in engine: recall on http://127.0.0.1:8000, cpu, float32, max_model_len 32000, \
KV cache 86.5 MiB, growing to 10.8 GiB
2026-11-23T11:41:03.600Z farspan built-in engine: stopped
"""


def test_the_built_in_engine_tells_its_start() -> None:
    report = examine([BUILTIN.encode()])
    began = report.timeline[0].at
    assert began is not None
    found = [
        (entry.phase, round(entry.at - began, 3), entry.seconds, entry.gib, entry.done)
        for entry in report.timeline
        if entry.at is not None
    ]
    assert found == [
        (StartPhase.ENGINE, 0, 2.25, None, True),
        (StartPhase.WEIGHTS, 0.25, 0.25, 1.51, True),
        (StartPhase.READY, 1.25, 0, None, True),
        (StartPhase.SHUTDOWN, 61.25, 0, None, True),
    ]
    assert report.engine == "builtin"
    assert report.findings == ()


def test_the_ready_line_of_the_built_in_engine_is_enough() -> None:
    line = (
        "farspan built-in engine: recall on http://127.0.0.1:8000, cpu, float32, max_model_len 32000, "
        "KV cache 86.5 MiB, growing to 10.8 GiB\n"
    )
    report = examine([line.encode()])
    assert (report.engine, report.ready, report.findings) == ("builtin", True, ())
    assert report.capacity == {"max_model_len": 32_000}
    assert answer(report) == "The built-in engine is ready. Nothing is wrong."
    assert answer(examine([b"hello\n"])).startswith(
        "Nothing of vLLM, SGLang or the built-in engine in 1 line:"
    )
